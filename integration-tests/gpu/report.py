"""What a call shows at its end: the table as docs/benchmarks has it, what is missed of the goals, how good the plan is."""
import os
from speed import CAPS
from configs import CONFIGS, OURS, TESTS

HEADS = {'full-vram': 'everything in VRAM', 'llama.cpp-best': "llama.cpp's best own", 'stream': 'streamed',
         'extend': 'in place', 'assist': 'assisted', 'combined': 'CPU and link'}
NAMES = {'dense-32b-q4_k_m': 'dense 32B Q4_K_M', 'moe-30b-a3b-q4_k_m': 'MoE 30B-A3B Q4_K_M'}
# What GreenBoost is for, model by model: its best strategy has at least this share of the rival's speed, or of that with all in VRAM.
GOALS = (('dense-32b-q4_k_m', 512, 'pp2048', 'full-vram', 0.95), ('dense-32b-q4_k_m', 2048, 'pp2048', 'full-vram', 0.95),
         ('dense-32b-q4_k_m', 512, 'tg64', 'llama.cpp-best', 1.25), ('moe-30b-a3b-q4_k_m', 512, 'pp2048', 'llama.cpp-best', 1.13),
         ('moe-30b-a3b-q4_k_m', 2048, 'pp2048', 'full-vram', 0.95), ('moe-30b-a3b-q4_k_m', 512, 'tg64', 'llama.cpp-best', 0.98))
# Placement alone, in place, on an H200.
PLACED = (('moe-30b-a3b-q4_k_m', 512, 'tg64', 57), ('moe-30b-a3b-q4_k_m', 512, 'pp2048', 2267))
# Of the time that llama.cpp needs to load with everything in VRAM.
LOAD = 0.6
NEAR = 0.15


def show(bench):
    """Prints the report, and keeps it beside the rows."""
    lines = [*of_speeds(bench), '', *of_goals(bench), *of_answers(bench), *of_plan(bench),
             *('skipped: %s: %s' % item for item in bench.skipped.items())]
    print('\n'.join(lines), flush=True)
    with open(os.path.join(bench.results, 'table-%s.md' % bench.day), 'w') as file:
        file.write('\n'.join(lines) + '\n')


def of_speeds(bench):
    yield '| tokens per second | %s |' % ' | '.join(HEADS[config] for config in CONFIGS)
    yield '|' + '---|' * (len(CONFIGS) + 1)
    for name in CAPS:
        again = False
        # Prompts, then decode.
        for ubatch, test in sorted(((ubatch, test) for ubatch in TESTS for test in TESTS[ubatch]), key=lambda it: it[1][0]):
            values = {config: value(bench, name, ubatch, test, config) for config in CONFIGS}
            less = [it for config, it in values.items() if it is not None and config != 'full-vram']
            what = 'decode' if test.startswith('tg') else \
                ('at micro-batch %d' if again else 'prompt of 2048 at micro-batch %d') % ubatch
            separator = ', ' if not again or test.startswith('tg') else ' '
            yield '| %s%s%s | %s |' % ('the same' if again else NAMES[name], separator, what, ' | '.join(
                in_figures(it, config != 'full-vram' and it is not None and it == max(less)) for config, it in values.items()))
            again = True


def in_figures(speed, is_best):
    if speed is None:
        return '-'
    text = '%.0f' % speed if speed >= 100 else '%.1f' % speed
    return '**%s**' % text if is_best else text


def of_goals(bench):
    for name, ubatch, test, against, least in GOALS:
        theirs = value(bench, name, ubatch, test, against)
        ours = [(it, config) for config in OURS for it in [value(bench, name, ubatch, test, config)] if it is not None]
        if ours and theirs:
            speed, config = max(ours)
            yield 'goal %s: %s %s/%d, %s, %.3f of %s, wanted %.2f' % (
                'met' if speed >= least * theirs else 'MISSED', name, test, ubatch, config, speed / theirs, against, least)
    for name, ubatch, test, least in PLACED:
        ours = value(bench, name, ubatch, test, 'extend')
        if ours is not None:
            met = 'met' if ours >= least else 'MISSED'
            yield 'goal %s: %s %s/%d, extend, %.1f, wanted %d' % (met, name, test, ubatch, ours, least)
    for name in CAPS:
        ours, theirs = (value(bench, name, 512, 'load_s', config) for config in ('extend', 'full-vram'))
        if ours is not None and theirs:
            yield 'goal %s: %s load, extend, %.2f of full-vram, wanted %.2f' % (
                'met' if ours <= LOAD * theirs else 'MISSED', name, ours / theirs, LOAD)


def of_answers(bench):
    for name in CAPS:
        for config in OURS:
            ours = bench.find(model=name, test='load_s', config=config)
            against = 'full-vram' if config in ('stream', 'extend') else config + '-unhooked'
            theirs = bench.find(model=name, test='load_s', config=against)
            if ours and theirs:
                same = ours[0]['output_sha256'] == theirs[0]['output_sha256']
                yield 'answers of %s, %s: %s as %s' % (name, config, 'the same' if same else 'NOT the same', against)


def of_plan(bench):
    rows = [row for row in bench.find() if row.get('ratio') is not None]
    for row in rows:
        near = 'within' if abs(row['ratio'] - 1) <= NEAR else 'NOT within'
        yield '%s %s/%d: the plan says %.2f of what was measured of %s, %s %.0f %%' % (
            row['model'], row['test'], row['ubatch'], row['ratio'], row['config'][len('plan-'):], near, 100 * NEAR)
    if rows:
        outside = [row for row in rows if abs(row['ratio'] - 1) > NEAR]
        yield 'the plan: %d of %d outside %.0f %%' % (len(outside), len(rows), 100 * NEAR)


def value(bench, name, ubatch, test, config):
    rows = bench.find(model=name, ubatch=ubatch, test=test, config=config)
    return rows[0]['value'] if rows else None
