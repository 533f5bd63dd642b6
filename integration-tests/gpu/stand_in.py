#!/usr/bin/env python3
"""Plays the programs the GPU script starts, for its self-test: stand_in.py NAME ARGUMENTS...

STAND_IN_FAULT names faults to have: `tokens` (hooked answers differ), `slow` (hooked runs are slower), `stdout` (the hook
prints), `missed` (fixtures are not caught), `greedy` (the cap is not kept), `unserved` (host-copy prefetch serves nothing), `default`
(what is read in place is streamed all the same), `copied` (nothing stays in the page cache), `old` (a greenboost that does not know one of the strategies), `endless` (streaming
takes longer than there is time).
"""
# Hundreds of these are started: what only one of the programs needs is imported there.
import json, os, sys, time

GIB = 1 << 30
FAULTS = os.environ.get('STAND_IN_FAULT', '').split()
# Whether gb-launch started the program, the VRAM that it then may take, and what gb-launch was told: `--stream`,
# `--host-copy-prefetch`, `--log`, `--trace`.
HOOKED, CAP, TOLD = False, 0, {}
METER = os.environ['GB_SELF_TEST_METER']
STATUS = os.path.join(os.path.dirname(METER), 'status')


def option(arguments, name, default=None):
    return arguments[arguments.index(name) + 1] if name in arguments else default


def use(count):
    """Uses this much VRAM, at least until the meter has seen it."""
    if CAP and 'greedy' not in FAULTS:
        count = min(count, CAP)
    release(count)
    until(lambda: read(METER + '.seen') == str(int(count)))


def release(count=0):
    """Uses this much VRAM from now on, seen or not."""
    with open(METER, 'w') as file:
        file.write(str(int(count)))


def until(is_so):
    """Waits, but not for ever: then a check fails that says more than a program that hangs."""
    deadline = time.time() + 5
    while not is_so() and time.time() < deadline:
        time.sleep(0.002)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def gb_launch(arguments):
    """Becomes the command, as gb-launch does: the process stays, and is hooked."""
    global HOOKED, CAP, TOLD
    told, command = arguments[:arguments.index('--')], arguments[arguments.index('--') + 1:]
    assert '--no-plan' in told, told
    if 'llama-bench' in command[0]:
        assert {'--stream', '--host-copy-prefetch', '--log'} <= set(told), 'a row of speed leaves something to the profile: %s' % told
    if 'llama-bench' in command[0] and 'on' in (option(told, '--stream'), option(told, '--host-copy-prefetch')) and '--ring' in told:
        assert option(told, '--ring') == '805306368', told
        assert option(told, '--stream') == 'off' or os.environ['GGML_CUDA_DISABLE_GRAPHS'] == '1', told
    HOOKED, CAP = True, int(option(told, '--vram', 0))
    TOLD = {name: option(told, name) for name in told if name.startswith('--') and name != '--no-plan'}
    play(command)


class Counted:
    """What a hooked program does as the hook: it keeps a status, and says in the log what it did."""

    def __enter__(self):
        self.streamed = TOLD.get('--stream') == 'on' or TOLD.get('--stream') == 'off' and 'default' in FAULTS
        self.served = TOLD.get('--host-copy-prefetch') == 'on' and 'unserved' not in FAULTS
        if '--log' in TOLD:
            streamed = dict(bytes=5 * GIB * self.streamed, slot_hits=9 * self.streamed, slot_late=1, slot_misses=2, in_place=3,
                            captured_bytes=0)
            # What is outside VRAM is in RAM, or in the page cache of the model file.
            is_kept = TOLD.get('--page-cache') == 'on' and 'copied' not in FAULTS
            kept, copied = (5 * GIB, 0) if is_kept else (0, 5 * GIB * ('--page-cache' in TOLD))
            device = dict(prefetched_copies=70 * self.served, prefetched_bytes=GIB * self.served, vram_ring_bytes=GIB // 2,
                          moved_out_bytes=0, ram=[dict(backing='host-numa', bytes=copied)], page_cache_bytes=kept,
                          streamed=streamed)
            write(STATUS, [dict(pid=os.getpid(), devices=[device])])
            # Until it was asked for.
            until(lambda: not os.path.exists(STATUS))

    def __exit__(self, *_):
        if TOLD.get('--log') and (self.streamed or self.served):
            with open(TOLD['--log'], 'a') as log:
                log.write('[info] device 0: streamed 5 GiB, 0 B more captured in graphs; %d launches found their weight in '
                          'a slot or on its way (1 of them had to wait), 2 had to ask for it, 4 read it in place\n' % (9 * self.streamed))
        if TOLD.get('--trace') and (self.streamed or self.served):
            assert os.environ['GGML_CUDA_DISABLE_GRAPHS'] == '1'
            # The link is busy for a quarter of the first half of the time, for three quarters of the second.
            bars = [('copy', 0, 250), ('launch', 900, 100), ('copy', 1000, 750), ('wait', 1500, 250), ('launch', 1750, 250)]
            write(TOLD['--trace'], [dict(name=kind, cat=kind, ph='X', ts=at, dur=time, args=dict(bytes=1000 * time))
                                    for kind, at, time in bars] + [dict(name='streaming ends', ph='i', args=dict(copies=2))])


def write(path, value):
    with open(path + '.new', 'w') as file:
        json.dump(value, file)
    os.replace(path + '.new', path)


def greenboost(arguments):
    if arguments[0] == 'plan':
        plan(arguments)
        return
    if arguments == ['status', '--json']:
        status = read(STATUS)
        print(status or '[]')
        if status:
            os.remove(STATUS)
        return
    assert arguments == ['doctor', '--json'], arguments
    print('{"driver": "0.0"}')


def plan(arguments):
    named = option(arguments, '--strategy')
    if named == 'combined' and 'old' in FAULTS:
        print("error: unexpected argument '--strategy' found\n\nUsage: greenboost plan <MODEL>", file=sys.stderr)
        sys.exit(2)
    vram, moe = int(option(arguments, '--vram')), 'moe' in arguments[1]
    layers = 48 if moe else 64
    # Its own idea of compute buffers: two layers fewer than the rival has in as much.
    fits = int((vram - 0.95 * GIB) / (16 * GIB / layers)) - 2
    placement = dict(gpu_layers=layers + 1, cpu_moe=layers - fits) if moe else dict(gpu_layers=fits, cpu_moe=None)
    strategies = []
    for strategy in ('vram', 'extend-in-place', 'extend', 'offload', 'host-copy-prefetch', 'combined'):
        strategies.append(dict(strategy=strategy, prefill=2000.0, decode=100.0, placement=placement))
    answer = dict(predictions=strategies, winner=named or 'offload')
    if named:
        overrides = r'blk\.(1|3)\.ffn_.*=CPU,blk\.5\.ffn_up=CPU'
        words, variables = dict(
            extend=('-ngl 999', {}),
            prefetch=('-ngl 999 -ncmoe 28' if moe else '-ngl %d' % fits, dict(LLAMA_ARG_LOAD_MODE='none', LLAMA_ARG_THREADS='2')),
            combined=("-ot '%s'" % overrides, dict(LLAMA_ARG_OVERRIDE_TENSOR=overrides, LLAMA_ARG_LOAD_MODE='none',
                                                   LLAMA_ARG_THREADS='2', LLAMA_ARG_N_GPU_LAYERS='999')))[named.removeprefix('host-copy-')]
        direct = {} if named == 'host-copy-prefetch' else dict(GGML_CUDA_DISABLE_GRAPHS='1')
        answer['commands'] = dict(
            llama_server='%sgb-launch --vram %d --ring 805306368 llama-server -m x -c 2048 -ub %s %s' % (
                'GGML_CUDA_DISABLE_GRAPHS=1 ' if direct else '', vram, option(arguments, '--ubatch'), words),
            llama_server_environment=dict(LLAMA_ARG_CTX_SIZE='2048', GREENBOOST_STREAM='off' if named == 'host-copy-prefetch' else 'on',
                                          GREENBOOST_HOST_COPY_PREFETCH='off' if named == 'extend' else 'on', **variables, **direct))
    print(json.dumps(answer))


def toy_llm(arguments):
    if arguments[0] == 'make':
        open(option(arguments, '--out'), 'w').close()
    else:
        assert os.path.exists(option(arguments, '-m'))
        assert not HOOKED or os.environ['GREENBOOST_BACKINGS'] in ('host-numa', 'memfd')
        print('checksum 00c0ffee')


def fixture(arguments):
    assert HOOKED and os.environ['GB_FIXTURE_BYTES']
    refused = os.environ.get('GREENBOOST_SPILL') == 'never' and 'missed' not in FAULTS
    print('caught=0' if refused else 'caught=1 checksum=0x1')


def make_model(arguments):
    with open(arguments[0], 'wb') as file:
        file.truncate(16 * GIB)  # sparse: it has a size and no bytes


def on_gpu(arguments):
    """VRAM the model takes: all of it, or the layers and experts that are left on the GPU."""
    model = os.path.getsize(option(arguments, '-m'))
    layers = 48 if 'moe' in option(arguments, '-m') else 64
    on = min(int(option(arguments, '-ngl', '99')), layers) - int(option(arguments, '-ncmoe', '0'))
    on -= 8 * ('-ot' in arguments)
    return model * on / layers + 0.7 * GIB + int(option(arguments, '-ub', '512')) / 2048 * GIB


def llama_bench(arguments):
    if '--help' in arguments:
        print('  -lm, --load-mode <auto|none|mmap>')
        return
    overrides = option(arguments, '-ot', '')
    assert ',' not in overrides, 'llama-bench would take this for several runs'
    if 'endless' in FAULTS and TOLD.get('--stream') == 'on':
        time.sleep(100)
    with Counted():
        use(on_gpu(arguments))
    speed = 0.97 if HOOKED and 'slow' in FAULTS else 1.3 if overrides else 1.0
    rows = [dict(n_prompt=int(n), n_gen=0, avg_ts=2000 * speed) for n in option(arguments, '-p').split(',') if n != '0']
    rows += [dict(n_prompt=0, n_gen=int(n), avg_ts=100 * speed) for n in option(arguments, '-n').split(',') if n != '0']
    print(json.dumps(rows))
    release()


def server(port):
    """What llama-server answers over HTTP."""
    import hashlib, http.server

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
            # Rounding differs with what the CPU computes.
            where = [option(sys.argv, name, default) for name, default in (('-ngl', '99'), ('-ncmoe', ''), ('-ot', ''))]
            said = 'other' if HOOKED and 'tokens' in FAULTS else hashlib.sha256(repr(where).encode()).hexdigest()
            self.reply(dict(content=said + asked['prompt'][:5], tokens=[1, 2], tokens_predicted=asked['n_predict']))

        def log_message(self, *_):
            pass

    return http.server.HTTPServer(('127.0.0.1', port), Handler)


def llama_server(arguments):
    if '--version' in arguments:
        print('version: 1 (stand-in)', file=sys.stderr)
        return
    if '--list-devices' in arguments:
        if HOOKED and 'stdout' in FAULTS:
            print('greenboost: hello')
        print('Available devices:\n  CUDA0: Stand-in GPU (81920 MiB, %d MiB free)' % (90000 if HOOKED else 80000))
        return
    import signal
    counted = Counted()
    signal.signal(signal.SIGTERM, lambda *_: (counted.__exit__() if '-m' in arguments else None, release(), os._exit(0)))
    if '-m' not in arguments:
        print('router', flush=True)
        print('system_info: n_threads = 1', file=sys.stderr, flush=True)
        time.sleep(60)
    counted.__enter__()
    assert ';' not in option(arguments, '-ot', '')
    use(on_gpu(arguments))
    server(int(option(arguments, '--port'))).serve_forever()


PROGRAMS = {'gb-launch': gb_launch, 'greenboost': greenboost, 'toy-llm': toy_llm, 'fixture': fixture,
            'llama-bench': llama_bench, 'llama-server': llama_server}

def play(command):
    """Is the program of this command line."""
    sys.argv = command
    name = os.path.basename(command[0])
    PROGRAMS.get(name, make_model)(command[1:] if name in PROGRAMS else command)


if __name__ == '__main__':
    play(sys.argv[1:])
