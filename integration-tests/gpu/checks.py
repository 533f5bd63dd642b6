"""The phases that say right or wrong, not how fast."""
import json, os, re, selectors, subprocess, time
from bench import Failure, end_group
from server import free_port

MIB = 1 << 20
BACKINGS = ('host-numa', 'memfd')


def doctor(bench):
    """The report is kept beside the results; it must be JSON and must find the GPU's driver."""
    ran = bench.run([os.path.join(bench.pack, 'greenboost'), 'doctor', '--json'], 60)
    try:
        report = json.loads(ran.out)
    except ValueError:
        raise Failure('greenboost doctor --json printed no JSON: %s' % (ran.out + ran.err)[-400:])
    with open(os.path.join(bench.results, 'doctor.json'), 'w') as file:
        json.dump(report, file, indent=2)
    bench.check('doctor', ran.code in (0, 1), 'exit code %s; its report is doctor.json' % ran.code)


def fixtures(bench):
    """Every fixture spills where it may, and is refused where it may not: the refusal proves that we were asked.

    A fixture allocates GB_FIXTURE_BYTES, uses the memory with kernels, copies and fills, and prints `caught=1` when it
    got the memory, `caught=0` when it was told that there is none, `skipped=` why it says nothing of this driver.
    """
    folder = os.path.join(bench.pack, 'fixtures')
    with open(os.path.join(folder, 'list')) as file:
        commands = [line.split() for line in file if line.strip() and not line.startswith('#')]
    env = {'GB_FIXTURE_BYTES': str(512 * MIB), 'LD_LIBRARY_PATH': folder + ':' + os.environ.get('LD_LIBRARY_PATH', '')}
    for command in commands:
        name = ' '.join(command)
        # Programs and the libraries they load lie beside the list.
        command = [os.path.join(folder, word) if os.path.exists(os.path.join(folder, word)) else word for word in command]
        for spill, wanted in (('allow', 'caught=1'), ('never', 'caught=0')):
            what = 'fixture %s, %s' % (name, 'may spill' if spill == 'allow' else 'may not spill')
            try:
                ran = bench.run(bench.hooked(command, 256 * MIB), 60, dict(env, GREENBOOST_SPILL=spill))
                passed = ran.code == 0 and (wanted in ran.out or 'skipped=' in ran.out)
                # A program that crashes may say nothing.
                bench.check(what, passed, ('exit code %s, ' % ran.code if ran.code else '') + (ran.out + ran.err).strip()[-300:])
            except Failure as problem:
                bench.check(what, False, str(problem))


def toy(bench):
    """toy-llm prints the same checksum however little VRAM it has and whatever stands in for it."""
    program, model = os.path.join(bench.pack, 'toy-llm'), os.path.join(bench.models, 'toy.gguf')
    os.makedirs(bench.models, exist_ok=True)
    if not os.path.exists(model):
        bench.succeed([program, 'make', '--out', model, '--size', '2GiB'], 90)
    run = [program, '-m', model]
    expected = checksum(bench.succeed(run, 120))
    bench.check('toy-llm, all in VRAM', True, expected)
    for backing in BACKINGS:
        for cap in (1024, 512, 256):
            ran = bench.run(bench.hooked(run, cap * MIB), 120, {'GREENBOOST_BACKINGS': backing})
            got = checksum(ran) if ran.code == 0 else 'exit code %s: %s' % (ran.code, ran.err.strip()[-300:])
            bench.check('toy-llm, %d MiB, %s' % (cap, backing), got == expected, got)


def checksum(ran):
    found = re.search(r'checksum[:= ]+(\S+)', ran.out)
    if not found:
        raise Failure('toy-llm printed no checksum: %s' % ran.out[-300:])
    return found.group(1)


def discovery(bench):
    """As Ollama looks for GPUs: the list of devices, and a start without a model that is killed at its first lines."""
    listing = [os.path.join(bench.llama, 'llama-server'), '--list-devices']
    plain, hooked = bench.succeed(listing, 30), bench.run(bench.hooked(listing), 30)
    # How much is free differs from moment to moment, and is ours to say; all else must be as it was.
    same = without_free(plain.out) == without_free(hooked.out)
    bench.check('--list-devices says the same', hooked.code == 0 and same and 'CUDA0' in hooked.out,
                'unhooked %r, hooked %r' % (plain.out, hooked.out))
    bench.check('--list-devices is as quick', hooked.seconds < max(3, plain.seconds + 1),
                '%.2f s, unhooked %.2f s' % (hooked.seconds, plain.seconds))
    before, plain_out = start_without_model(bench, lambda command: command)
    after, hooked_out = start_without_model(bench, bench.hooked)
    bench.check('a start without a model is as quick', after < max(3, before + 1),
                '%.2f s to system_info, unhooked %.2f s' % (after, before))
    bench.check('a start without a model prints the same on stdout', plain_out == hooked_out,
                'unhooked %r, hooked %r' % (plain_out, hooked_out))


def without_free(text):
    return re.sub(r'[0-9]+ MiB free', 'MiB free', text)


def start_without_model(bench, wrap):
    """Seconds until `system_info:`, and what was on stdout by then. It must also go away when it is told to."""
    # system_info is a trace message since llama.cpp 0.5.
    command = wrap([os.path.join(bench.llama, 'llama-server'), '--host', '127.0.0.1', '--port', str(free_port()),
                    '--offline', '-lv', '4'])
    deadline, began = time.time() + bench.limit(30), time.time()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                             start_new_session=True)
    try:
        seen = read_until(child, b'system_info:', deadline)
        took = time.time() - began
        if b'system_info:' not in seen['err'] + seen['out']:
            raise Failure('no system_info within 30 s: %r' % seen['err'][-400:])
        told = time.time()
        child.terminate()
        child.wait(10)
        if time.time() - told > 3:
            raise Failure('llama-server took %.1f s to go away' % (time.time() - told))
    except subprocess.TimeoutExpired:
        raise Failure('llama-server did not go away when it was told to')
    finally:
        end_group(child)
        child.stdout.close(), child.stderr.close()
    # Both streams may carry times and log lines; only whole stdout lines without digits can be compared.
    return took, [line for line in seen['out'].decode(errors='replace').splitlines() if not re.search('[0-9]', line)]


def read_until(child, wanted, deadline):
    seen = {'out': b'', 'err': b''}
    with selectors.DefaultSelector() as selector:
        for stream, name in ((child.stdout, 'out'), (child.stderr, 'err')):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map() and time.time() < deadline:
            for key, _ in selector.select(0.1):
                data = key.fileobj.read()
                if data == b'':
                    selector.unregister(key.fileobj)
                seen[key.data] += data or b''
            if wanted in seen['out'] + seen['err']:
                break
    return seen
