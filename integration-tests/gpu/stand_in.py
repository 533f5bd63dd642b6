#!/usr/bin/env python3
"""Plays the programs the GPU script starts, for its self-test: stand_in.py NAME ARGUMENTS...

STAND_IN_FAULT plants a fault: `tokens` (hooked answers differ), `slow` (hooked runs are slower), `stdout` (the hook
prints), `missed` (fixtures are not caught), `greedy` (the cap is not kept).
"""
import http.server, json, os, signal, sys, time

GIB = 1 << 30
FAULT = os.environ.get('STAND_IN_FAULT')
HOOKED = 'STAND_IN_HOOKED' in os.environ
CAP = int(os.environ.get('STAND_IN_HOOKED') or 0)


def option(arguments, name, default=None):
    return arguments[arguments.index(name) + 1] if name in arguments else default


def use(count):
    """Uses this much VRAM, for as long as the meter needs to see it."""
    if CAP and FAULT != 'greedy':
        count = min(count, CAP)
    with open(os.environ['GB_SELF_TEST_METER'], 'w') as file:
        file.write(str(int(count)))
    time.sleep(0.15)


def gb_launch(arguments):
    vram = option(arguments[:arguments.index('--')], '--vram', '')
    os.environ['STAND_IN_HOOKED'] = vram
    command = arguments[arguments.index('--') + 1:]
    os.execvp(command[0], command)


def greenboost(arguments):
    if arguments[0] == 'plan':
        ways = ({'way': way, 'prefill': 2000.0, 'decode': 100.0} for way in ('vram', 'extend_streaming', 'offload'))
        print(json.dumps({'predictions': list(ways)}))
        return
    assert arguments == ['doctor', '--json'], arguments
    print('{"driver": "0.0"}')


def toy_llm(arguments):
    if arguments[0] == 'make':
        open(option(arguments, '--out'), 'w').close()
    else:
        assert os.path.exists(option(arguments, '-m'))
        assert not HOOKED or os.environ['GREENBOOST_BACKINGS'] in ('host-numa', 'memfd')
        print('checksum 00c0ffee')


def fixture(arguments):
    assert HOOKED and os.environ['GB_FIXTURE_BYTES']
    refused = os.environ.get('GREENBOOST_SPILL') == 'never' and FAULT != 'missed'
    print('caught=0' if refused else 'caught=1 checksum=0x1')


def make_model(arguments):
    with open(arguments[0], 'wb') as file:
        file.truncate(16 * GIB)  # sparse: it has a size and no bytes


def on_gpu(arguments):
    """VRAM the model takes: all of it, or the layers and experts that are left on the GPU."""
    model = os.path.getsize(option(arguments, '-m'))
    layers = 48 if 'moe' in option(arguments, '-m') else 64
    on = min(int(option(arguments, '-ngl', '99')), layers) - int(option(arguments, '-ncmoe', '0'))
    return model * on / layers + 0.7 * GIB + int(option(arguments, '-ub', '512')) / 2048 * GIB


def llama_bench(arguments):
    if '--help' in arguments:
        print('  -lm, --load-mode <auto|none|mmap>')
        return
    use(on_gpu(arguments))
    speed = 0.97 if HOOKED and FAULT == 'slow' else 1.0
    rows = [dict(n_prompt=int(n), n_gen=0, avg_ts=2000 * speed) for n in option(arguments, '-p').split(',') if n != '0']
    rows += [dict(n_prompt=0, n_gen=int(n), avg_ts=100 * speed) for n in option(arguments, '-n').split(',') if n != '0']
    print(json.dumps(rows))
    use(0)


class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply({'status': 'ok'})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        assert asked['temperature'] == 0
        said = 'other' if HOOKED and FAULT == 'tokens' else 'said'
        self.reply(dict(content=said + asked['prompt'][:5], tokens=[1, 2], tokens_predicted=asked['n_predict']))

    def log_message(self, *_):
        pass


def llama_server(arguments):
    if '--version' in arguments:
        print('version: 1 (stand-in)', file=sys.stderr)
        return
    if '--list-devices' in arguments:
        if HOOKED and FAULT == 'stdout':
            print('greenboost: hello')
        print('Available devices:\n  CUDA0: Stand-in GPU (81920 MiB, %d MiB free)' % (90000 if HOOKED else 80000))
        return
    signal.signal(signal.SIGTERM, lambda *_: (use(0), os._exit(0)))
    if '-m' not in arguments:
        print('router', flush=True)
        print('system_info: n_threads = 1', file=sys.stderr, flush=True)
        time.sleep(60)
    use(on_gpu(arguments))
    http.server.HTTPServer(('127.0.0.1', int(option(arguments, '--port'))), Handler).serve_forever()


PROGRAMS = {'gb-launch': gb_launch, 'greenboost': greenboost, 'toy-llm': toy_llm, 'fixture': fixture,
            'llama-bench': llama_bench, 'llama-server': llama_server}

if __name__ == '__main__':
    name = os.path.basename(sys.argv[1])
    PROGRAMS.get(name, make_model)(sys.argv[2:] if name in PROGRAMS else sys.argv[1:])
