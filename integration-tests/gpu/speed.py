"""The phases that measure llama.cpp, with us, without us, and against its own offload with less VRAM."""
import json, os, statistics, sys
from bench import Failure, GIB
from hooked import Hooked, PLAIN
from server import answer

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {  # name: arguments of make_gguf.py, layers
    '8b-q4_0': (['--preset', '8b', '--quant', 'Q4_0'], 32),
    'dense-32b-q4_k_m': (['--arch', 'llama', '--layers', '64', '--dim', '5120', '--heads', '40', '--kv-heads', '8',
                          '--head-dim', '128', '--ffn', '25600', '--vocab', '151936', '--ctx', '32768', '--rope', '1e6',
                          '--quant', 'Q4_K_M'], 64),
    'moe-30b-a3b-q4_k_m': (['--preset', '30b-a3b', '--quant', 'Q4_K_M'], 48),
    'moe-30b-a3b-skew-q4_k_m': (['--preset', '30b-a3b', '--quant', 'Q4_K_M', '--skew', '0.76'], 48),
}
CAPS = {'dense-32b-q4_k_m': 12 * GIB, 'moe-30b-a3b-q4_k_m': 8 * GIB}
# Layers, or layers' experts, that the caps hold beside micro-batches of 512 and 2048 on an H200: where tuning begins.
FIRST_TRY = {('dense-32b-q4_k_m', 512): 45, ('dense-32b-q4_k_m', 2048): 41,
             ('moe-30b-a3b-q4_k_m', 512): 20, ('moe-30b-a3b-q4_k_m', 2048): 17}
# A context that costs little beside the weights.
CONTEXT_OPTIONS = ['-c', '4096', '--fit', 'off', '-b', '2048', '-ub', '512']
ALL_ON_GPU = ('-ngl', '99')
SERVER = [*CONTEXT_OPTIONS, *ALL_ON_GPU]
# What is not counted by the cap: the driver's own context and its loaded kernels.
CONTEXT = GIB


def threads():
    return len(os.sched_getaffinity(0))


def threads_to_try():
    """All processors, and all but one, which is left to the thread that launches: the better figure is what counts."""
    return ','.join(str(count) for count in dict.fromkeys((threads(), max(1, threads() - 1))))


def prepare(bench, name, folder=None):
    """The model's file, made when it is not there. Models lie in memory: where there is little, the others are removed."""
    if not bench.llama:
        raise Failure('this phase needs llama.cpp: give --llama, or build first')
    if bench.llama_version is None:
        ran = bench.run([os.path.join(bench.llama, 'llama-server'), '--version'], 60)
        lines = [line for line in (ran.err + ran.out).splitlines() if line.startswith('version')]
        bench.llama_version = lines[0].split(':', 1)[-1].strip() if lines else 'unknown'
    folder = folder or bench.models
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + '.gguf')
    if not os.path.exists(path):
        for other in os.listdir(folder) if is_tight(folder) else []:
            if other.endswith(('.gguf', '.part')):
                os.remove(os.path.join(folder, other))
        generator = os.environ.get('GB_SELF_TEST_GENERATOR', os.path.join(HERE, 'make_gguf.py'))
        # About 15 s each with 16 processors.
        bench.succeed([sys.executable, generator, path + '.part', *MODELS[name][0]], 150)
        os.rename(path + '.part', path)
        print('%4.0f s  %s, %.2f GiB' % (bench.elapsed(), path, os.path.getsize(path) / GIB), flush=True)
    return path


def is_tight(folder):
    """Whether a model more leaves too little for what runs: twice a model beside it."""
    space = os.statvfs(folder)
    with open('/proc/meminfo') as file:
        available = next(int(line.split()[1]) << 10 for line in file if line.startswith('MemAvailable'))
    return space.f_bavail * space.f_frsize < 20 * GIB or available < 56 * GIB


def fit(bench):
    """A model that fits must not notice us as we come, streaming on: the same tokens, the same speed to one percent."""
    name = '8b-q4_0'
    model = prepare(bench, name)
    sides = (('full-vram', PLAIN), ('stream', Hooked(bench, stream='on')))
    same_tokens(bench, name, model, sides, None)
    runs = {'full-vram': [], 'stream': []}
    for round in range(5):  # alternating, so that whatever else happens meets both; the first round warms up
        for config, start in sides:
            result = llama_bench(bench, start, model, 512, ('pp512', 'tg64'), repeat=5)
            if round:
                runs[config].append(result)
    for test in ('pp512', 'tg64'):
        middle = {}
        for config, results in runs.items():
            middle[config] = statistics.median(result[test] for result in results)
            if not bench.find(model=name, test=test, config=config):
                bench.add(model=name, test=test, ubatch=512, config=config, value=round_to(middle[config]),
                          vram_peak_bytes=max(result['peak'] for result in results), counters=results[-1]['counters'])
        ratio = middle['stream'] / middle['full-vram']
        bench.check('%s of a model that fits' % test, ratio >= 0.99, '%.2f %% of unhooked' % (100 * ratio))


def dense(bench):
    capped(bench, 'dense-32b-q4_k_m')


def moe(bench):
    capped(bench, 'moe-30b-a3b-q4_k_m')


def capped(bench, name):
    """A model larger than its VRAM cap, read in place: the same tokens as with all of the card, and how fast."""
    model, cap = prepare(bench, name), CAPS[name]
    sides = (('full-vram', PLAIN), ('extend', Hooked(bench, cap)))
    same_tokens(bench, name, model, sides, cap)
    for config, start in sides:
        for ubatch, tests in ((512, ('pp512', 'pp2048', 'tg64')), (2048, ('pp2048',))):
            measure(bench, name, model, config, start, None if start is PLAIN else cap, ubatch, tests)
    # What a user types: --fit decides, from the memory we report, and must come to the same.
    expected = bench.find(model=name, test='load_s', config='full-vram')
    default = answer(bench, Default(bench, cap), model, ['-c', '4096'])
    bench.check('%s with llama-server left to itself' % name, default.sha == expected[0]['output_sha256'],
                '%s, VRAM peak %.2f GiB' % (default.sha[:12], default.peak / GIB))


class Default(type(PLAIN)):
    """Under gb-launch, with what the profile says."""

    def __init__(self, bench, cap):
        self.bench, self.cap = bench, cap

    def __call__(self, command):
        return self.bench.hooked(command, self.cap)


def same_tokens(bench, name, model, sides, cap):
    """Temperature-0 completions with and without us, byte for byte."""
    shas = {config: said(bench, name, model, config, start, None if start is PLAIN else cap)['output_sha256']
            for config, start in sides}
    bench.check('%s says the same' % name, len(set(shas.values())) == 1, str({k: v[:12] for k, v in shas.items()}))


def said(bench, name, model, config, start, cap, options=ALL_ON_GPU, limit=150):
    """The row of what llama-server says at temperature 0, and how long it took to load: an earlier call's or a new one."""
    rows = bench.find(model=name, test='load_s', config=config, vram_cap_bytes=cap)
    if rows:
        return rows[0]
    options = [*CONTEXT_OPTIONS, *options]
    got = answer(bench, start, model, options, limit)
    bench.add(model=name, test='load_s', ubatch=512, config=config, vram_cap_bytes=cap, value=round_to(got.load_s),
              vram_peak_bytes=got.peak, output_sha256=got.sha, options=' '.join(options), counters=got.counters)
    if cap:
        bench.check('%s, %s, keeps to its cap' % (name, config), got.peak <= cap + CONTEXT, '%.2f GiB' % (got.peak / GIB))
    return bench.rows[-1]


def measure(bench, name, model, config, start, cap, ubatch, tests, options=ALL_ON_GPU, repeat=2, limit=200):
    """Rows of one llama-bench run, unless an earlier call has them. The counters are those of the whole run."""
    wanted = [test for test in tests if not bench.find(model=name, test=test, config=config, ubatch=ubatch)]
    if wanted:
        result = llama_bench(bench, start, model, ubatch, wanted, options, repeat, limit)
        keep(bench, name, config, cap, ubatch, wanted, options, result)


def keep(bench, name, config, cap, ubatch, tests, options, result):
    for test in tests:
        bench.add(model=name, test=test, ubatch=ubatch, config=config, vram_cap_bytes=cap, vram_peak_bytes=result['peak'],
                  value=round_to(result[test]), options=' '.join(options), counters=result['counters'])


def llama_bench(bench, start, model, ubatch, tests, options=ALL_ON_GPU, repeat=2, limit=200):
    """Tokens per second by test, the VRAM peak of the whole run, and what the hook counted in it."""
    prompts = ','.join(test[2:] for test in tests if test.startswith('pp')) or '0'
    tokens = ','.join(test[2:] for test in tests if test.startswith('tg')) or '0'
    ran = bench.succeed([os.path.join(bench.llama, 'llama-bench'), '-m', model, '-p', prompts, '-n', tokens,
                         '-b', '2048', '-ub', str(ubatch), '-r', str(repeat), '-o', 'json', *options], limit, start=start)
    result = {'peak': ran.peak, 'counters': ran.counters}
    for row in json.loads(ran.out):
        kind, count = ('pp', row['n_prompt']) if row['n_prompt'] else ('tg', row['n_gen'])
        test = '%s%d' % (kind, count)
        # With several numbers of threads, the better one.
        result[test] = max(row['avg_ts'], result.get(test, 0))
    missing = [test for test in tests if test not in result]
    if missing:
        raise Failure('llama-bench did not measure %s: %s' % (', '.join(missing), ran.out[:300]))
    return result


def rivals(bench):
    """llama.cpp's own CPU offload, with as many layers or experts on the GPU as the same VRAM holds."""
    help_text = bench.run([os.path.join(bench.llama, 'llama-bench'), '--help'], 30).out
    by_mode = '--load-mode' in help_text
    modes = (('llama.cpp-best', ['-lm', 'none'] if by_mode else ['-mmp', '0']), ('llama.cpp-default', []))
    rest = ['-t', threads_to_try()]
    for name in CAPS:
        tests = {512: ('pp2048', 'tg64'), 2048: ('pp2048',)}
        done = [bench.find(model=name, test=test, config=config, ubatch=ubatch)
                for config, _ in modes for ubatch, wanted in tests.items() for test in wanted]
        if all(done):
            continue
        model = prepare(bench, name)
        for ubatch, wanted in tests.items():
            flags = None
            for config, mode in modes:
                if all(bench.find(model=name, test=test, config=config, ubatch=ubatch) for test in wanted):
                    continue
                limit = allowed(bench, name, ubatch)
                flags = flags or tuned(bench, name, model, ubatch, limit, mode + rest, ('pp2048',), repeat=1)[0]
                measure(bench, name, model, config, PLAIN, limit, ubatch, wanted, (*flags, *mode, *rest))


def allowed(bench, name, ubatch):
    """The same VRAM for both sides, as the driver counts it: what we took, where that is known."""
    ours = [row['vram_peak_bytes'] for config in ('stream', 'extend')
            for row in bench.find(model=name, config=config, ubatch=ubatch) if row['test'] != 'load_s']
    return max([CAPS[name], *(peak for peak in ours if peak)])


def flags(name, on_gpu):
    """llama.cpp's options that put so many layers, or the experts of so many, on the GPU."""
    layers = MODELS[name][1]
    return ('-ngl', '99', '-ncmoe', str(layers - on_gpu)) if name.startswith('moe') else ('-ngl', str(on_gpu))


def on_gpu(name, options):
    """What `flags` was given."""
    words = options.split() if isinstance(options, str) else list(options)
    if name.startswith('moe'):
        return MODELS[name][1] - int(words[words.index('-ncmoe') + 1])
    return int(words[words.index('-ngl') + 1])


def layer_bytes(name, model):
    return os.path.getsize(model) / MODELS[name][1]


def tuned(bench, name, model, ubatch, limit, rest, tests, tries=4, repeat=2, first=None):
    """The flags that put as much as `limit` holds on the GPU, found by measuring, and what was measured with them."""
    layers, layer = MODELS[name][1], layer_bytes(name, model)
    tried, count = {}, FIRST_TRY[name, ubatch] if first is None else first
    for _ in range(tries):
        count = min(max(count, 0), layers)
        if count in tried:
            break
        result = llama_bench(bench, PLAIN, model, ubatch, tests, (*flags(name, count), *rest), repeat, limit=100)
        tried[count] = result
        print('%4.0f s  %s: %.2f of %.2f GiB' % (bench.elapsed(), ' '.join(flags(name, count)), result['peak'] / GIB,
                                                 limit / GIB), flush=True)
        count += int((limit - result['peak']) // layer)
    fitting = [count for count, result in tried.items() if result['peak'] <= limit]
    if not fitting:
        raise Failure('no setting of llama.cpp was found that keeps to %.2f GiB: %s' % (
            limit / GIB, {count: result['peak'] for count, result in tried.items()}))
    return flags(name, max(fitting)), tried[max(fitting)]


def round_to(value):
    return round(value, 2)
