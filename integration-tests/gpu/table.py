"""The table of docs/benchmarks: everything in VRAM, llama.cpp's best offload with less, and GreenBoost's strategies with as much."""
from bench import Failure, Skip
from report import show
from speed import CAPS, prepare
from configs import TESTS, is_done, says_the_same, speeds

# What matters most comes first: each stage is done for both models before the next one. Seconds are what is expected with an
# H200 and 16 processors, by what single runs took: 540 in all, models included, if the rival's first try fits.
STAGES = (
    # dense 90, MoE 50: the rival is allowed what streaming took, so that it comes behind it.
    ('speed', ('full-vram', 'stream', 'llama.cpp-best')),
    # dense 75, MoE 40, the first plan on a machine included
    ('speed', ('combined', 'assist')),
    # dense 90, MoE 55: six servers
    ('same', ('stream', 'combined', 'assist')),
    # dense 50, MoE 25: in place, which is slow
    ('speed', ('extend',)),
    # dense 20, MoE 10
    ('same', ('extend',)),
)


def table(bench):
    """Both sides in one call, with the same VRAM as the driver counts it."""
    try:
        names = list(CAPS)
        for what, configs in STAGES:
            # The model that is there comes first, should there be no room for both.
            for name in names:
                stage(bench, name, what, configs)
            names.reverse()
    finally:
        show(bench)


def stage(bench, name, what, configs):
    steps = [(config, ubatch) for config in configs for ubatch in (TESTS if what == 'speed' else (512,))]
    if what == 'speed' and all(is_done(bench, name, *step) for step in steps):
        return
    print('%4.0f s  %s: %s of %s' % (bench.elapsed(), name, what, ', '.join(configs)), flush=True)
    for config, ubatch in steps:
        what_for = '%s, %s, ubatch %d' % (name, config, ubatch)
        try:
            model = prepare(bench, name, bench.disk)
            if what == 'speed':
                speeds(bench, name, model, config, ubatch)
            else:
                says_the_same(bench, name, model, config)
        except Skip as reason:
            bench.skip(what_for, str(reason))
        except Failure as problem:
            bench.check(what_for, False, str(problem))
