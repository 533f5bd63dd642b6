"""The phases that measure llama.cpp, with us, without us, and against its own ways of doing with less VRAM."""
import json, os, statistics, sys
from bench import Failure, GIB
from server import answer

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {  # name: arguments of make_gguf.py, layers
    '8b-q4_0': (['--preset', '8b', '--quant', 'Q4_0'], 32),
    'dense-32b-q4_k_m': (['--arch', 'llama', '--layers', '64', '--dim', '5120', '--heads', '40', '--kv-heads', '8',
                          '--head-dim', '128', '--ffn', '25600', '--vocab', '151936', '--ctx', '32768', '--rope', '1e6',
                          '--quant', 'Q4_K_M'], 64),
    'moe-30b-a3b-q4_k_m': (['--preset', '30b-a3b', '--quant', 'Q4_K_M'], 48),
}
CAPS = {'dense-32b-q4_k_m': 12 * GIB, 'moe-30b-a3b-q4_k_m': 8 * GIB}
# Every layer on the GPU, and a context that costs little beside the weights.
SERVER = ['-c', '4096', '-ngl', '99', '--fit', 'off', '-b', '2048', '-ub', '512']
# What is not counted by the cap: the driver's own context and its loaded kernels.
CONTEXT = GIB


def plain(command):
    return command


def prepare(bench, name):
    """The model's file, made when it is not there; the others are removed, since they lie in memory."""
    if not bench.llama:
        raise Failure('this phase needs llama.cpp: give --llama, or build first')
    if bench.llama_version is None:
        ran = bench.run([os.path.join(bench.llama, 'llama-server'), '--version'], 60)
        lines = [line for line in (ran.err + ran.out).splitlines() if line.startswith('version')]
        bench.llama_version = lines[0].split(':', 1)[-1].strip() if lines else 'unknown'
    os.makedirs(bench.models, exist_ok=True)
    path = os.path.join(bench.models, name + '.gguf')
    for other in os.listdir(bench.models):
        if other.endswith('.gguf') and other != name + '.gguf':
            os.remove(os.path.join(bench.models, other))
    if not os.path.exists(path):
        generator = os.environ.get('GB_SELF_TEST_GENERATOR', os.path.join(HERE, 'make_gguf.py'))
        bench.succeed([sys.executable, generator, path + '.part', *MODELS[name][0]], 150)
        os.rename(path + '.part', path)
    print('  %s, %.2f GiB' % (name, os.path.getsize(path) / GIB), flush=True)
    return path


def fit(bench):
    """A model that fits must not notice us: the same tokens, the same speed to one percent."""
    name = '8b-q4_0'
    model = prepare(bench, name)
    same_tokens(bench, name, model, None)
    runs = {'full-vram': [], 'extend': []}
    for round in range(5):  # alternating, so that whatever else happens meets both; the first round warms up
        for config, wrap in (('full-vram', plain), ('extend', bench.hooked)):
            result = llama_bench(bench, wrap, model, 512, ('pp512', 'tg64'), repeat=5)
            if round:
                runs[config].append(result)
    for test in ('pp512', 'tg64'):
        middle = {}
        for config, results in runs.items():
            middle[config] = statistics.median(result[test] for result in results)
            if not bench.find(model=name, test=test, config=config):
                bench.add(model=name, test=test, ubatch=512, config=config, value=round_to(middle[config]),
                          vram_peak_bytes=max(result['peak'] for result in results))
        ratio = middle['extend'] / middle['full-vram']
        bench.check('%s of a model that fits' % test, ratio >= 0.99, '%.2f %% of unhooked' % (100 * ratio))


def dense(bench):
    capped(bench, 'dense-32b-q4_k_m')


def moe(bench):
    capped(bench, 'moe-30b-a3b-q4_k_m')


def capped(bench, name):
    """A model larger than its VRAM cap: the same tokens as with all of the card, and how fast."""
    model, cap = prepare(bench, name), CAPS[name]
    same_tokens(bench, name, model, cap)
    for config, wrap, limit in (('full-vram', plain, None), ('extend', lambda c: bench.hooked(c, cap), cap)):
        for ubatch, tests in ((512, ('pp512', 'pp2048', 'tg64')), (2048, ('pp2048',))):
            measure(bench, name, model, config, wrap, limit, ubatch, tests)
    # What a user types: --fit decides, from the memory we report, and must come to the same.
    expected = bench.find(model=name, test='load_s', config='full-vram')
    default = answer(bench, lambda c: bench.hooked(c, cap), model, ['-c', '4096'])
    bench.check('%s with llama-server left to itself' % name, default.sha == expected[0]['output_sha256'],
                '%s, VRAM peak %.2f GiB' % (default.sha[:12], default.peak / GIB))


def same_tokens(bench, name, model, cap):
    """Temperature-0 completions with and without us, byte for byte."""
    shas = {}
    for config, wrap, limit in (('full-vram', plain, None), ('extend', lambda c: bench.hooked(c, cap), cap)):
        rows = bench.find(model=name, test='load_s', config=config, vram_cap_bytes=limit)
        if not rows:
            got = answer(bench, wrap, model, SERVER)
            bench.add(model=name, test='load_s', ubatch=512, config=config, vram_cap_bytes=limit, value=round_to(got.load_s),
                      vram_peak_bytes=got.peak, output_sha256=got.sha, options=' '.join(SERVER))
            rows = bench.rows[-1:]
            if limit:
                bench.check('%s keeps to its cap' % name, got.peak <= limit + CONTEXT, '%.2f GiB' % (got.peak / GIB))
        shas[config] = rows[0]['output_sha256']
    bench.check('%s says the same' % name, len(set(shas.values())) == 1, str({k: v[:12] for k, v in shas.items()}))


def measure(bench, name, model, config, wrap, cap, ubatch, tests, options=('-ngl', '99'), repeat=2, limit=200):
    """Rows of one llama-bench run, unless an earlier call has them."""
    wanted = [test for test in tests if not bench.find(model=name, test=test, config=config, ubatch=ubatch)]
    if not wanted:
        return None
    result = llama_bench(bench, wrap, model, ubatch, wanted, options, repeat, limit)
    for test in wanted:
        bench.add(model=name, test=test, ubatch=ubatch, config=config, vram_cap_bytes=cap, vram_peak_bytes=result['peak'],
                  value=round_to(result[test]), options=' '.join(options))
    return result


def llama_bench(bench, wrap, model, ubatch, tests, options=('-ngl', '99'), repeat=2, limit=200):
    """Tokens per second by test, and the VRAM peak of the whole run."""
    prompts = ','.join(test[2:] for test in tests if test.startswith('pp')) or '0'
    tokens = ','.join(test[2:] for test in tests if test.startswith('tg')) or '0'
    ran = bench.succeed(wrap([os.path.join(bench.llama, 'llama-bench'), '-m', model, '-p', prompts, '-n', tokens,
                              '-b', '2048', '-ub', str(ubatch), '-r', str(repeat), '-o', 'json', *options]), limit)
    result = {'peak': ran.peak}
    for row in json.loads(ran.out):
        kind, count = ('pp', row['n_prompt']) if row['n_prompt'] else ('tg', row['n_gen'])
        result['%s%d' % (kind, count)] = row['avg_ts']
    missing = [test for test in tests if test not in result]
    if missing:
        raise Failure('llama-bench did not measure %s: %s' % (', '.join(missing), ran.out[:300]))
    return result


def rivals(bench):
    """llama.cpp's own CPU offload, with as many layers or experts on the GPU as the same VRAM holds."""
    help_text = bench.run([os.path.join(bench.llama, 'llama-bench'), '--help'], 30).out
    by_mode = '--load-mode' in help_text
    modes = (('llama.cpp-best', ['-lm', 'none'] if by_mode else ['-mmp', '0']), ('llama.cpp-default', []))
    threads = ['-t', str(len(os.sched_getaffinity(0)))]
    for name, cap in CAPS.items():
        tests = {512: ('pp2048', 'tg64'), 2048: ('pp2048',)}
        done = [bench.find(model=name, test=test, config=config, ubatch=ubatch)
                for config, _ in modes for ubatch, wanted in tests.items() for test in wanted]
        if all(done):
            continue
        model = prepare(bench, name)
        for ubatch, wanted in tests.items():
            # The same VRAM for both sides, as the driver counts it: what we took, where that is known.
            ours = bench.find(model=name, config='extend', ubatch=ubatch)
            allowed = max([cap] + [row['vram_peak_bytes'] for row in ours if row['vram_peak_bytes']])
            flags = None
            for config, mode in modes:
                if all(bench.find(model=name, test=test, config=config, ubatch=ubatch) for test in wanted):
                    continue
                flags = flags or tuned(bench, name, model, ubatch, allowed, mode + threads)
                measure(bench, name, model, config, plain, allowed, ubatch, wanted, (*flags, *mode, *threads))


def tuned(bench, name, model, ubatch, allowed, rest, tries=5):
    """The flags that put as much as `allowed` holds on the GPU, found by measuring."""
    layers, experts = MODELS[name][1], name.startswith('moe')
    layer = os.path.getsize(model) / layers

    def flags(on_gpu):
        return ('-ngl', '99', '-ncmoe', str(layers - on_gpu)) if experts else ('-ngl', str(on_gpu))

    tried = {}
    on_gpu = int((allowed - 2 * GIB) / layer)
    for _ in range(tries):
        on_gpu = min(max(on_gpu, 0), layers)
        if on_gpu in tried:
            break
        tried[on_gpu] = llama_bench(bench, plain, model, ubatch, ('pp2048',), (*flags(on_gpu), *rest), repeat=1)['peak']
        print('  %s: %.2f of %.2f GiB' % (' '.join(flags(on_gpu)), tried[on_gpu] / GIB, allowed / GIB), flush=True)
        on_gpu += int((allowed - tried[on_gpu]) // layer)
    fitting = [count for count, peak in tried.items() if peak <= allowed]
    if not fitting:
        raise Failure('no setting of llama.cpp was found that keeps to %.2f GiB: %s' % (allowed / GIB, tried))
    return flags(max(fitting))


def round_to(value):
    return round(value, 2)
