#!/usr/bin/env python3
"""Runs the phases named, in order; see run.sh for what they are."""
import argparse, os, sys
import checks, experts, mapped, page_cache, predictions, speed, table, traces
from bench import Bench, Failure, OutOfTime

PHASES = {'doctor': checks.doctor, 'fixtures': checks.fixtures, 'toy': checks.toy, 'discovery': checks.discovery,
          'fit': speed.fit, 'dense': speed.dense, 'moe': speed.moe, 'rivals': speed.rivals,
          'table': table.table, 'predictions': predictions.predictions, 'traces': traces.traces, 'mapped': mapped.mapped,
          'page-cache': page_cache.page_cache, 'experts': experts.experts}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('pack', 'llama', 'results', 'models', 'disk'):
        parser.add_argument('--' + name, required=True)
    parser.add_argument('--from', dest='earlier', default='')
    parser.add_argument('--deadline', type=float, required=True, help='seconds since 1970')
    parser.add_argument('phases', nargs='+', choices=PHASES)
    options = parser.parse_args()
    try:
        bench = Bench(options)
    except (OSError, AttributeError) as problem:
        sys.exit('no GPU can be used here: %s' % problem)
    print('%s, driver %s; %d rows from before; %.0f s for this call' % (
        bench.gpu, bench.driver, len(bench.rows), bench.left()))
    for number, phase in enumerate(options.phases):
        print('== %s' % phase, flush=True)
        try:
            PHASES[phase](bench)
        except Failure as problem:
            bench.check(phase, False, str(problem))
        except OutOfTime:
            rest = ' '.join(options.phases[number:])
            print('time is up; go on with: run.sh --from %s %s' % (os.path.basename(bench.path), rest))
            sys.exit(1 if bench.failed else 3)
    if bench.failed:
        sys.exit('failed: %s' % ', '.join(bench.failed))
    print('all checks passed')


if __name__ == '__main__':
    main()
