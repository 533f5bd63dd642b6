"""A mixture whose most used experts are in VRAM, against all of it there and against llama.cpp's own offload at its best."""
from bench import GIB
from hooked import Hooked, PLAIN
from speed import ALL_ON_GPU, keep, llama_bench, prepare, said, threads_to_try, tuned

# Routing as in Qwen3-30B-A3B: the most used quarter of a layer's experts gets three quarters of the reads. And even routing.
SKEWED, EVEN = 'moe-30b-a3b-skew-q4_k_m', 'moe-30b-a3b-q4_k_m'
# Model, VRAM, and from which share of llama.cpp's best on a decoded token is what it should be.
CASES = ((SKEWED, 8 * GIB, 2.0), (SKEWED, 5 * GIB, 1.4))
# Experts of layers that fit beside all else.
FIRST_TRY = {8 * GIB: 20, 5 * GIB: 10}
DECODE, PROMPT = 'tg256', 'pp2048'


def cached(bench, cap):
    """Under gb-launch, experts on, nothing left to a plan's choice."""
    return Hooked(bench, cap, 'on', 'off', None, (), {'GREENBOOST_EXPERTS': 'on'})


def label(config, cap):
    """Rows of different VRAM have different names."""
    return config if cap is None else '%s-%dg' % (config, cap // GIB)


def experts(bench):
    for name, cap, wanted in CASES:
        model = prepare(bench, name, bench.disk)
        same_answers(bench, name, model, cap)
        best(bench, name, model, cap, wanted)


def same_answers(bench, name, model, cap):
    """Byte for byte, at temperature 0, while slots are filled and change."""
    sides = (('full-vram', PLAIN, None), (label('experts', cap), cached(bench, cap), cap))
    shas = {config: said(bench, name, model, config, start, limit)['output_sha256'] for config, start, limit in sides}
    bench.check('%s with experts in %d GiB says the same' % (name, cap // GIB), len(set(shas.values())) == 1,
                str({config: sha[:12] for config, sha in shas.items()}))


def best(bench, name, model, cap, wanted):
    ours, theirs = label('experts', cap), label('llama.cpp-best', cap)
    speed(bench, name, model, ours, cached(bench, cap), cap, (PROMPT, DECODE))
    speed(bench, name, model, 'full-vram', PLAIN, None, (PROMPT, DECODE))
    if not bench.find(model=name, test=DECODE, config=theirs):
        limit = max(cap, bench.find(model=name, test=DECODE, config=ours)[0]['vram_peak_bytes'])
        rest = ('-lm', 'none', '-t', threads_to_try())
        flags, result = tuned(bench, name, model, 512, limit, rest, (PROMPT, DECODE), tries=2, repeat=1, first=FIRST_TRY[cap])
        keep(bench, name, theirs, limit, 512, (PROMPT, DECODE), (*flags, *rest), result)
    values = [bench.find(model=name, test=DECODE, config=config)[0]['value'] for config in (ours, theirs)]
    ratio = values[0] / values[1]
    bench.check('%s in %d GiB, a token' % (name, cap // GIB), ratio >= wanted, '%.2f of llama.cpp\'s best' % ratio)
    speed(bench, name, model, ours, cached(bench, cap), cap, (PROMPT,), ubatch=2048)
    speed(bench, name, model, label('extend', cap), Hooked(bench, cap, 'on', 'off'), cap, (PROMPT, DECODE))


def speed(bench, name, model, config, start, cap, tests, ubatch=512):
    wanted = [test for test in tests if not bench.find(model=name, test=test, config=config, ubatch=ubatch)]
    if wanted:
        result = llama_bench(bench, start, model, ubatch, wanted, ALL_ON_GPU, repeat=2, limit=60)
        keep(bench, name, config, cap, ubatch, wanted, ALL_ON_GPU, result)
