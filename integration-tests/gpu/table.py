"""The table of docs/benchmarks: everything in VRAM, llama.cpp's best own way with less, and GreenBoost with as much."""
import json, os
from bench import Failure, GIB
from server import answer
from speed import CAPS, CONTEXT, SERVER, measure, plain, prepare, round_to, tuned

TESTS = ((512, ('pp2048', 'tg64')), (2048, ('pp2048',)))
# What GreenBoost is for, model by model: at least so much of the rival's speed, or of that with everything in VRAM.
GOALS = (('dense-32b-q4_k_m', 512, 'pp2048', 'full-vram', 0.95), ('dense-32b-q4_k_m', 2048, 'pp2048', 'full-vram', 0.95),
         ('dense-32b-q4_k_m', 512, 'tg64', 'llama.cpp-best', 1.25), ('moe-30b-a3b-q4_k_m', 512, 'pp2048', 'llama.cpp-best', 1.13),
         ('moe-30b-a3b-q4_k_m', 2048, 'pp2048', 'full-vram', 0.95), ('moe-30b-a3b-q4_k_m', 512, 'tg64', 'llama.cpp-best', 0.98))
# What `greenboost plan` calls what was measured.
WAYS = {'extend_streaming': 'stream', 'offload': 'llama.cpp-best'}
CONFIGS = ('full-vram', 'llama.cpp-best', 'stream')


def table(bench):
    """Both sides in one call, with the same VRAM as the driver counts it."""
    for name in ('moe-30b-a3b-q4_k_m', 'dense-32b-q4_k_m'):
        wanted = [(test, ubatch, config) for ubatch, tests in TESTS for test in tests for config in CONFIGS]
        if all(bench.find(model=name, test=test, ubatch=ubatch, config=config) for test, ubatch, config in wanted):
            continue
        try:
            one_model(bench, name)
        except Failure as problem:
            bench.check(name, False, str(problem))
    show(bench)


def one_model(bench, name):
    model, cap = prepare(bench, name), CAPS[name]

    def streamed(command):
        return ['env', 'GREENBOOST_STREAM=on', *bench.hooked(command, cap)]

    for config, wrap, limit in (('full-vram', plain, None), ('stream', streamed, cap)):
        for ubatch, tests in TESTS:
            measure(bench, name, model, config, wrap, limit, ubatch, tests, limit=100)
    said(bench, name, model, streamed, cap)
    mode = ['-lm', 'none', '-t', str(len(os.sched_getaffinity(0)))]
    for ubatch, tests in TESTS:
        ours = bench.find(model=name, config='stream', ubatch=ubatch)
        allowed = max([cap] + [row['vram_peak_bytes'] for row in ours])
        if not all(bench.find(model=name, test=test, config='llama.cpp-best', ubatch=ubatch) for test in tests):
            flags = tuned(bench, name, model, ubatch, allowed, mode, tries=3)
            measure(bench, name, model, 'llama.cpp-best', plain, allowed, ubatch, tests, (*flags, *mode), limit=100)
    predicted(bench, name, model, cap)


def predicted(bench, name, model, cap):
    """What the plan expects of the same, as rows of their own; the first plan on a machine measures it."""
    for ubatch, tests in TESTS:
        if bench.find(model=name, config='plan-stream', ubatch=ubatch):
            continue
        ran = bench.succeed([os.path.join(bench.pack, 'greenboost'), 'plan', model, '--vram', str(cap), '--ctx', '4096',
                             '--ubatch', str(ubatch), '--json'], 60)
        for prediction in json.loads(ran.out)['predictions']:
            for test in tests if prediction['way'] in WAYS else ():
                speed = prediction['prefill' if test.startswith('pp') else 'decode']
                if speed is not None:
                    bench.add(model=name, test=test, ubatch=ubatch, config='plan-' + WAYS[prediction['way']],
                              vram_cap_bytes=cap, value=round_to(speed))


def said(bench, name, model, streamed, cap):
    """Temperature-0 completions, byte for byte as with everything in VRAM."""
    shas = {}
    for config, wrap, limit in (('full-vram', plain, None), ('stream', streamed, cap)):
        rows = bench.find(model=name, test='load_s', config=config)
        if not rows:
            got = answer(bench, wrap, model, SERVER, limit=100)
            bench.add(model=name, test='load_s', ubatch=512, config=config, vram_cap_bytes=limit, value=round_to(got.load_s),
                      vram_peak_bytes=got.peak, output_sha256=got.sha, options=' '.join(SERVER))
            rows = bench.rows[-1:]
            if limit:
                bench.check('%s keeps to its cap' % name, got.peak <= limit + CONTEXT, '%.2f GiB' % (got.peak / GIB))
        shas[config] = rows[0]['output_sha256']
    bench.check('%s says the same' % name, len(set(shas.values())) == 1, str({k: v[:12] for k, v in shas.items()}))


def show(bench):
    """The table, and what is missed of the goals."""
    print('%-20s %-14s' % ('', 'tokens/s') + ''.join('%16s' % config for config in CONFIGS))
    for name in CAPS:
        for ubatch, tests in TESTS:
            for test in tests:
                values = [value(bench, name, ubatch, test, config) for config in CONFIGS]
                print('%-20s %-14s' % (name, '%s/%d' % (test, ubatch)) +
                      ''.join('%16s' % ('-' if it is None else '%.1f' % it) for it in values))
    for name, ubatch, test, against, least in GOALS:
        ours, theirs = (value(bench, name, ubatch, test, config) for config in ('stream', against))
        if ours is not None and theirs:
            met = 'met' if ours >= least * theirs else 'MISSED'
            print('goal %s: %s %s/%d %.3f of %s, wanted %.2f' % (met, name, test, ubatch, ours / theirs, against, least))
    for row in [row for row in bench.rows if row['config'].startswith('plan-')]:
        measured = value(bench, row['model'], row['ubatch'], row['test'], row['config'][len('plan-'):])
        if measured:
            ratio = row['value'] / measured
            print('%s %s/%d: the plan says %.2f of what was measured of %s, %s' % (
                row['model'], row['test'], row['ubatch'], ratio, row['config'][len('plan-'):],
                'within 15 %' if 0.85 <= ratio <= 1.15 else 'NOT within 15 %'))


def value(bench, name, ubatch, test, config):
    rows = bench.find(model=name, ubatch=ubatch, test=test, config=config)
    return rows[0]['value'] if rows else None
