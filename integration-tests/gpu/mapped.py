"""llama.cpp's default offload, which copies out of its mapping of the model file, with and without host-copy prefetch."""
from bench import Failure
from hooked import Hooked, PLAIN
from speed import CAPS, flags, measure, on_gpu, prepare, threads_to_try
from configs import TESTS, planned


def mapped(bench):
    """The model lies in a folder on disk: a path below /dev is never read through a mapping of ours."""
    for name, cap in CAPS.items():
        sides = (('llama.cpp-mapped', PLAIN, None), ('assist-mapped', Hooked(bench, cap, prefetch='on'), cap))
        for ubatch, tests in TESTS.items():
            for config, start, limit in sides:
                what = '%s, %s, ubatch %d' % (name, config, ubatch)
                try:
                    model = prepare(bench, name, bench.disk)
                    # The same layers for both: those that leave space for the ring.
                    options = (*flags(name, on_gpu(name, planned(bench, name, model, ubatch, 'assist')[0])), '-t', threads_to_try())
                    measure(bench, name, model, config, start, limit, ubatch, tests, options)
                    rows = bench.find(model=name, config=config, ubatch=ubatch)
                    if limit:
                        served = (rows[-1]['counters'] or {}).get('prefetched_copies', 0)
                        bench.check('%s, is what its name says' % what, served > 0, 'served %d copies' % served)
                except Failure as problem:
                    bench.check(what, False, str(problem))
