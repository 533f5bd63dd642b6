"""Weights outside VRAM in the page cache of the model file: as fast as copied ones, the same answers, and how long loading takes."""
import statistics
from bench import GIB, Failure
from hooked import Hooked, PLAIN
from report import LOAD
from server import answer
from speed import ALL_ON_GPU, CAPS, CONTEXT_OPTIONS, measure, prepare, round_to, said
from configs import TESTS, planned

ROUNDS = 3
# By what gb-launch is told of the page cache.
SIDES = (('stream-mapped', 'off'), ('stream-page-cache', 'on'))


def page_cache(bench):
    """The model lies in a folder on disk, and is mapped: files below /dev are not believed."""
    for name in CAPS:
        try:
            model = prepare(bench, name, bench.disk)
            loads(bench, name, model)
            speeds(bench, name, model)
        except Failure as problem:
            bench.check('%s in the page cache' % name, False, str(problem))


def streamed(bench, name, model, ubatch, page_cache):
    _, more, env = planned(bench, name, model, ubatch, 'stream')
    return Hooked(bench, CAPS[name], 'on', 'off', None, [*more, '--page-cache', page_cache], env)


def loads(bench, name, model):
    """The file is in the page cache: it was written just before, or the first of these has read it."""
    starts = {config: streamed(bench, name, model, 512, switch) for config, switch in SIDES}
    expected = said(bench, name, model, 'full-vram-mapped', PLAIN, None)
    rows = {config: said(bench, name, model, config, start, CAPS[name]) for config, start in starts.items()}
    for config, row in rows.items():
        bench.check('%s, %s, says the same' % (name, config), row['output_sha256'] == expected['output_sha256'],
                    '%s and %s' % (row['output_sha256'][:12], expected['output_sha256'][:12]))
    copied, kept = (rows[config]['counters'] for config, _ in SIDES)
    held, ram = kept.get('page_cache_bytes', 0), kept.get('ram_bytes', 0)
    bench.check('%s has no second copy of what is outside VRAM' % name, held > 0.8 * copied.get('ram_bytes', 0) > 4 * ram,
                '%.2f GiB in the page cache, %.2f in RAM; without it %.2f' % (
                    held / GIB, ram / GIB, copied.get('ram_bytes', 0) / GIB))
    medians(bench, name, model, {'full-vram-mapped': (PLAIN, None), 'fits-mapped': (Hooked(bench), None),
                                 **{config: (start, CAPS[name]) for config, start in starts.items()}})


def medians(bench, name, model, starts):
    """How long it takes until the server answers: the median of ROUNDS, in turn, so that whatever else happens meets all."""
    if bench.find(model=name, test='ready_s'):
        return
    seconds = {config: [] for config in starts}
    for _ in range(ROUNDS):
        for config, (start, _) in starts.items():
            got = answer(bench, start, model, [*CONTEXT_OPTIONS, *ALL_ON_GPU], 60, prompts=())
            seconds[config].append(got.load_s)
    plain = statistics.median(seconds['full-vram-mapped'])
    for config, (_, cap) in starts.items():
        middle = statistics.median(seconds[config])
        bench.add(model=name, test='ready_s', ubatch=512, config=config, vram_cap_bytes=cap, value=round_to(middle))
        if config != 'full-vram-mapped':
            print('      %s, %s: ready after %.2f s, %.2f of what everything in VRAM takes as it comes (wanted: %.2f)' % (
                name, config, middle, middle / plain, LOAD))
            print('        each time: %s; as it comes: %s' % tuple(
                ', '.join('%.2f' % value for value in values) for values in (seconds[config], seconds['full-vram-mapped'])))


def speeds(bench, name, model):
    for ubatch, tests in TESTS.items():
        for config, switch in SIDES:
            measure(bench, name, model, config, streamed(bench, name, model, ubatch, switch), CAPS[name], ubatch, tests, limit=120)
