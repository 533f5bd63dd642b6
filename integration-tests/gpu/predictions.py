"""What `greenboost plan` expects, beside each measured row, with the VRAM that row had."""
from bench import Failure, Skip
from report import show
from speed import CAPS, MODELS, layer_bytes, on_gpu, prepare, round_to
from configs import TESTS, ask_plan

# What was measured, and what `greenboost plan` calls it.
STRATEGIES = {'stream': 'extend', 'extend': 'extend-in-place', 'llama.cpp-best': 'offload', 'assist': 'host-copy-prefetch',
        'combined': 'combined'}
TRIES = 4


def predictions(bench):
    """About a second each, and the machine is measured once, 15 s."""
    try:
        for name in CAPS:
            for ubatch, tests in TESTS.items():
                for config in STRATEGIES:
                    try:
                        predicted(bench, name, config, ubatch, tests)
                    except Skip as reason:
                        bench.skip('%s, plan of %s, ubatch %d' % (name, config, ubatch), str(reason))
                    except Failure as problem:
                        bench.check('%s, plan of %s, ubatch %d' % (name, config, ubatch), False, str(problem))
    finally:
        show(bench)


def predicted(bench, name, config, ubatch, tests):
    rows = {test: row for test in tests for row in bench.find(model=name, test=test, config=config, ubatch=ubatch)
            if not bench.find(model=name, test=test, config='plan-' + config, ubatch=ubatch)}
    if not rows:
        return
    row = next(iter(rows.values()))
    vram, prediction = like(bench, name, prepare(bench, name, bench.disk), config, ubatch, row)
    for test, row in rows.items():
        speed = prediction['prefill' if test.startswith('pp') else 'decode']
        if speed is not None:
            bench.add(model=name, test=test, ubatch=ubatch, config='plan-' + config, vram_cap_bytes=vram, value=round_to(speed),
                      options=in_options(prediction), ratio=round(speed / row['value'], 3))


def like(bench, name, model, config, ubatch, row):
    """The plan of what the row was. What the hook may take is what the plan is asked for. A rival was allowed what the
    driver counts, contexts included, and the plan has an estimate of compute buffers: it is asked for the VRAM with which
    it leaves as many layers to the CPU as the row did, so that speed is compared and not the estimate; how many it would
    leave by itself is printed. Returns what it was asked for, and what it expects."""
    following = row['vram_cap_bytes']
    for attempt in range(TRIES):
        vram = following
        prediction = of_strategy(ask_plan(bench, model, vram, ubatch, 'combined' if config == 'combined' else None), STRATEGIES[config])
        if config not in ('llama.cpp-best', 'assist'):
            break
        planned, used = layers_of(name, prediction), on_gpu(name, row['options'])
        if not attempt:
            print('      %s, %s, ubatch %d: %d layers on the GPU, of which the plan would put %s there in %.2f GiB' % (
                name, config, ubatch, used, planned, vram / (1 << 30)))
        if planned is None or planned == used:
            break
        following = vram + int((used - planned) * layer_bytes(name, model))
    return vram, prediction


def of_strategy(plan, wanted):
    found = [prediction for prediction in plan['predictions'] if prediction['strategy'] == wanted]
    if not found:
        raise Skip('it says nothing of %s' % wanted)
    return found[0]


def layers_of(name, prediction):
    placement = prediction.get('placement', {})
    if name.startswith('moe'):
        # With every expert on the CPU, layers go there too, and the row's flags cannot say that.
        return MODELS[name][1] - (placement.get('cpu_moe') or 0) if placement else None
    return placement.get('gpu_layers')


def in_options(prediction):
    placement = prediction.get('placement', {})
    words = ['%s %s' % (option, placement[key]) for key, option in (('gpu_layers', '-ngl'), ('cpu_moe', '-ncmoe'))
             if placement.get(key) is not None]
    return ' '.join(words) or None
