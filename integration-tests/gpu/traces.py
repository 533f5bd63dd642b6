"""Traces of what limits each strategy: when the link copied, and what the GPU waited for. docs/streaming.md says how to read one."""
import gzip, json, os, tarfile, tempfile
from bench import Failure, Skip
from speed import CAPS, llama_bench, prepare, round_to
from configs import setup

# What matters most first, some 8 s each: micro-batch, test, strategies.
WANTED = ((512, 'pp2048', ('stream', 'combined')), (512, 'tg16', ('combined', 'stream')), (512, 'pp2048', ('assist',)),
          (2048, 'pp2048', ('stream', 'combined', 'assist')), (512, 'tg16', ('assist',)))
# The largest file that is kept, and the largest archive: some places limit what a file may have.
MOST = 4 << 20
MOST_IN_ONE = 15 << 20
FIELDS = ('gpu', 'driver', 'llama_cpp', 'model', 'test', 'ubatch', 'config', 'vram_cap_bytes', 'value', 'link_busy_share',
          'link_gb_per_s', 'waited_share', 'copied_bytes', 'seconds', 'end', 'counters', 'options', 'trace')


def traces(bench):
    """A summary of each in traces-DATE.json, and the traces themselves in traces-DATE-N.tar, each packed with gzip."""
    path = os.path.join(bench.results, 'traces-%s.json' % bench.day)
    rows = []
    folder, file = os.path.split(bench.earlier)
    for earlier in (os.path.join(folder, file.replace('gpu-', 'traces-')), path):
        if os.path.isfile(earlier) and earlier != bench.earlier:
            with open(earlier) as file:
                rows = json.load(file)
    names = list(CAPS)
    for ubatch, test, configs in WANTED:
        # The model that is there comes first, should there be no room for both.
        names.reverse()
        for name in names:
            for config in configs:
                if any((row['model'], row['test'], row['ubatch'], row['config']) == (name, test, ubatch, config) for row in rows):
                    continue
                what = 'trace of %s, %s, %s/%d' % (name, config, test, ubatch)
                try:
                    rows.append(traced(bench, name, config, ubatch, test))
                except Skip as reason:
                    bench.skip(what, str(reason))
                    continue
                except Failure as problem:
                    bench.check(what, False, str(problem))
                    continue
                with open(path + '.new', 'w') as file:
                    file.write('[\n' + ',\n'.join('  ' + json.dumps(row) for row in rows) + '\n]\n')
                os.replace(path + '.new', path)


def traced(bench, name, config, ubatch, test):
    """The row of one run: a warm-up and two repetitions, of which the later half of the time is what counts."""
    model = prepare(bench, name, bench.disk)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'trace.json')
        how = setup(bench, name, model, config, ubatch, trace=file)
        result = llama_bench(bench, how.start, model, ubatch, (test,), how.for_bench(), limit=120)
        member = '%s-%s-%s-%d.json' % (name, config, test, ubatch)
        row = dict.fromkeys(FIELDS)
        row.update(gpu=bench.gpu, driver=bench.driver, llama_cpp=bench.llama_version, model=name, test=test, ubatch=ubatch,
                   config=config, vram_cap_bytes=how.cap, value=round_to(result[test]), counters=result['counters'],
                   options=' '.join(how.for_bench()))
        if not os.path.exists(file) or not os.path.getsize(file):
            row['trace'] = 'none: nothing was streamed or served'
        else:
            try:
                with open(file) as text:
                    row.update(summary(json.load(text)))
            except ValueError as problem:
                raise Failure('the trace is no JSON: %s' % problem)
            row['trace'] = packed(bench, file, member)
    print('%4.0f s  %-20s %-9s %-7s ub %-4d %8.1f tokens/s  link busy %s, waited %s, %s' % (
        bench.elapsed(), name, config, test, ubatch, row['value'], in_percent(row['link_busy_share']),
        in_percent(row['waited_share']), row['trace']), flush=True)
    return row


def in_percent(share):
    return '-' if share is None else '%.0f %%' % (100 * share)


def summary(events):
    """What the later half of a trace's time shows; the figures that the hook has of all of it are `end`.

    The first pass learns the order, and the program does other things between passes: neither says what limits one."""
    end = next((event['args'] for event in events if event.get('name') == 'streaming ends'), None)
    bars = [event for event in events if event.get('ph') == 'X']
    if not bars:
        return {'end': end}
    first, last = min(bar['ts'] for bar in bars), max(bar['ts'] + bar['dur'] for bar in bars)
    middle = (first + last) / 2
    half = max(last - middle, 1e-3)

    def within(category):
        for bar in bars:
            share = (bar['ts'] + bar['dur'] - max(bar['ts'], middle)) / max(bar['dur'], 1e-9)
            if bar.get('cat') == category and share > 0:
                yield bar, min(share, 1)

    copied = sum(bar['args'].get('bytes', 0) * share for bar, share in within('copy'))
    busy = sum(bar['dur'] * share for bar, share in within('copy'))
    waited = sum(bar['dur'] * share for bar, share in within('wait'))
    return {'end': end, 'seconds': round(half / 1e6, 4), 'copied_bytes': int(copied), 'link_busy_share': round(busy / half, 4),
            'waited_share': round(waited / half, 4), 'link_gb_per_s': round(copied / busy / 1e3, 2) if busy else None}


def packed(bench, file, member):
    """Keeps a trace in the first archive that has room for it; where, or why not."""
    with open(file, 'rb') as text, open(file + '.gz', 'wb') as raw, gzip.GzipFile(member, 'wb', 6, raw, 0) as out:
        while piece := text.read(1 << 20):
            out.write(piece)
    size = os.path.getsize(file + '.gz')
    if size > MOST:
        return 'not kept: %.1f MiB packed' % (size / (1 << 20))
    number = 1
    while True:
        archive = os.path.join(bench.results, 'traces-%s-%d.tar' % (bench.day, number))
        if not os.path.exists(archive) or os.path.getsize(archive) + size < MOST_IN_ONE:
            break
        number += 1
    with tarfile.open(archive, 'a') as tar:
        tar.add(file + '.gz', member + '.gz')
    return '%s: %s.gz' % (os.path.basename(archive), member)
