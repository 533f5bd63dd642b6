"""Weights outside VRAM in the page cache of the model file: as fast as copied ones, the same answers, and how long loading takes."""
from bench import GIB, Failure
from hooked import Hooked, PLAIN
from report import LOAD
from speed import CAPS, measure, prepare, said
from ways import TESTS, planned

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


def way(bench, name, model, ubatch, page_cache):
    _, more, env = planned(bench, name, model, ubatch, 'stream')
    return Hooked(bench, CAPS[name], 'on', 'off', None, [*more, '--page-cache', page_cache], env)


def loads(bench, name, model):
    """The file is in the page cache: it was written just before, or the first of these has read it."""
    expected = said(bench, name, model, 'full-vram-mapped', PLAIN, None)
    rows = {config: said(bench, name, model, config, way(bench, name, model, 512, switch), CAPS[name]) for config, switch in SIDES}
    for config, row in rows.items():
        bench.check('%s, %s, says the same' % (name, config), row['output_sha256'] == expected['output_sha256'],
                    '%s and %s' % (row['output_sha256'][:12], expected['output_sha256'][:12]))
    copied, kept = (rows[config]['counters'] for config, _ in SIDES)
    held, ram = kept.get('page_cache_bytes', 0), kept.get('ram_bytes', 0)
    bench.check('%s has no second copy of what is outside VRAM' % name, held > 0.8 * copied.get('ram_bytes', 0) > 4 * ram,
                '%.2f GiB in the page cache, %.2f in RAM; without it %.2f' % (
                    held / GIB, ram / GIB, copied.get('ram_bytes', 0) / GIB))
    for config, row in rows.items():
        share = row['value'] / expected['value']
        print('      %s, %s: loads in %.2f of the time that everything in VRAM takes, wanted %.2f' % (name, config, share, LOAD))


def speeds(bench, name, model):
    for ubatch, tests in TESTS.items():
        for config, switch in SIDES:
            measure(bench, name, model, config, way(bench, name, model, ubatch, switch), CAPS[name], ubatch, tests, limit=120)
