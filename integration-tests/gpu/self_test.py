#!/usr/bin/env python3
"""Runs every phase of run.sh with stand-ins for the GPU and for llama.cpp, then again with faults: each must
be found. What it tests is the script: that it starts what it should, compares what it should, and writes its rows."""
import concurrent.futures, gzip, json, os, subprocess, sys, tarfile, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
STAND_IN = os.path.join(HERE, 'stand_in.py')
GIB = 1 << 30
REQUIRED = {'gpu', 'driver', 'llama_cpp', 'model', 'test', 'ubatch', 'config', 'vram_cap_bytes', 'vram_peak_bytes', 'value',
            'output_sha256', 'counters', 'ratio'}
MODELS = ('dense-32b-q4_k_m', 'moe-30b-a3b-q4_k_m')
SPEEDS = (('pp2048', 512), ('tg64', 512), ('pp2048', 2048))
OURS = ('stream', 'extend', 'assist', 'combined')


def stage(folder):
    """A pack and a llama.cpp build whose programs are all the stand-in."""
    for sub in ('pack/fixtures', 'llama', 'models'):
        os.makedirs(os.path.join(folder, sub))
    for path in ('pack/gb-launch', 'pack/greenboost', 'pack/toy-llm', 'pack/fixtures/fixture', 'llama/llama-server',
                 'llama/llama-bench'):
        with open(os.path.join(folder, path), 'w') as file:
            # Without what this Python has installed: looking for that takes longer than all the stand-in does.
            file.write('#!/bin/sh\nexec "%s" -I -S "%s" "$0" "$@"\n' % (sys.executable, STAND_IN))
        os.chmod(os.path.join(folder, path), 0o755)
    with open(os.path.join(folder, 'pack/fixtures/list'), 'w') as file:
        file.write('# what runs on a real GPU\nfixture now\n')
    with open(os.path.join(folder, 'meter'), 'w') as file:
        file.write('0')


def run(folder, results, phases, budget=500, fault='', earlier=''):
    env = dict(os.environ, GB_SELF_TEST_METER=os.path.join(folder, 'meter'), GB_SELF_TEST_GENERATOR=STAND_IN,
               STAND_IN_FAULT=fault)
    command = ['bash', os.path.join(HERE, 'run.sh'), '--pack', folder + '/pack', '--llama', folder + '/llama', '--results',
               os.path.join(folder, results), '--models', folder + '/models', '--disk', folder + '/disk',
               '--budget', str(budget), '--from', earlier]
    ran = subprocess.run(command + phases, env=env, capture_output=True, text=True)
    path = os.path.join(folder, results)
    files = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.startswith('gpu-')]
    rows = json.load(open(files[-1])) if files else []
    return ran, rows, files


def expect(what, holds, ran):
    if not holds:
        sys.exit('self-test: %s\n%s\n%s' % (what, ran.stdout, ran.stderr))
    print('  %s' % what, flush=True)


def the_table(folder):
    """The phases that fill docs/benchmarks, the second going on from the first as another call would."""
    ran, rows, files = run(folder, 'table', ['table'])
    have = {(row['model'], row['test'], row['ubatch'], row['config']) for row in rows}
    wanted = {(model, *speed, config) for model in MODELS for config in ('full-vram', 'llama.cpp-best', *OURS) for speed in SPEEDS}
    wanted |= {(model, 'load_s', 512, config) for model in MODELS
               for config in ('full-vram', *OURS, 'assist-unhooked', 'combined-unhooked')}
    expect('the table has every configuration of every row: %d' % len(wanted), ran.returncode == 0 and have == wanted, ran)
    table = [line.split(' | ') for line in ran.stdout.splitlines() if line.startswith(('| dense', '| MoE', '| the same'))]
    expect('it is printed as docs/benchmarks has it, and kept', len(table) == 6 and all(len(line) == 7 and '-' not in line
           for line in table) and os.path.exists(files[-1].replace('gpu-', 'table-').replace('.json', '.md')), ran)
    expect('its goals are judged', 'goal met' in ran.stdout and 'goal MISSED' in ran.stdout, ran)
    of = {(row['model'], row['test'], row['ubatch'], row['config']): row for row in rows}
    expect('each configuration is started as its name says', all(
        bool(row['counters']['slot_hits']) == (row['config'] in ('stream', 'combined'))
        and bool(row['counters']['prefetched_copies']) == (row['config'] in ('assist', 'combined'))
        for row in rows if row['config'] in OURS), ran)
    expect('what the hook counted is in its rows and in no others', all(
        row['counters'] is None for row in rows if row['config'] not in OURS)
        and of[MODELS[0], 'pp2048', 512, 'stream']['counters'].items() >= dict(
            streamed_bytes=5 * GIB, slot_hits=9, slot_misses=2, in_place=4, ring_bytes=GIB // 2).items(), ran)
    rivals = [row for row in rows if row['config'] == 'llama.cpp-best']
    expect('the rival is allowed what we took', all(row['vram_peak_bytes'] <= row['vram_cap_bytes'] for row in rivals), ran)
    expect('the rival tries all processors and one less', rivals[0]['options'].endswith(
        ' -lm none -t ' + ('1' if processors() == 1 else '%d,%d' % (processors(), processors() - 1))), ran)
    expect('configurations have what the plan says, as llama-bench takes it', all(
        of[model, 'tg64', 512, config]['options'] == options for model, config, options in (
            (MODELS[0], 'stream', '-ngl 99'), (MODELS[1], 'assist', '-ngl 99 -ncmoe 28 -lm none -t 2'),
            (MODELS[0], 'combined', r'-ot blk\.(1|3)\.ffn_.*=CPU;blk\.5\.ffn_up=CPU -lm none -t 2 -ngl 99'))), ran)
    hashes = {(config, row['output_sha256']) for (model, test, _, config), row in of.items()
              if model == MODELS[0] and test == 'load_s'}
    expect('answers are compared with the same layers on the CPU', ran.stdout.count(': the same as') == 8
           and len({sha for _, sha in hashes}) == 3, ran)

    ran, rows, _ = run(folder, 'plan', ['predictions', 'traces'], earlier=files[-1])
    plans = [row for row in rows if row['config'].startswith('plan-')]
    expect('the plan is compared with every strategy, with the VRAM that it had', ran.returncode == 0 and len(plans) == 30 and all(
        row['vram_cap_bytes'] == of[row['model'], row['test'], row['ubatch'], row['config'][5:]]['vram_cap_bytes']
        for row in plans if row['config'] not in ('plan-llama.cpp-best', 'plan-assist')), ran)
    expect('the plan is compared for as many layers as the rival had', all(
        (row['options'] in of[row['model'], row['test'], row['ubatch'], row['config'][5:]]['options'])
        for row in plans if row['config'] in ('plan-llama.cpp-best', 'plan-assist') and row['model'] == MODELS[0])
        and 'layers on the GPU, of which the plan would put' in ran.stdout, ran)
    expect('what is outside 15 % is said', all(row['ratio'] == round(1 / 1.3 if row['config'] == 'plan-combined' else 1, 3)
           for row in plans) and ran.stdout.count('NOT within') == 6 and 'the plan: 6 of 30 outside' in ran.stdout, ran)
    path = os.path.join(folder, 'plan')
    names = [name for name in os.listdir(path) if name.startswith('traces-')]
    traces = json.load(open(os.path.join(path, next(name for name in names if name.endswith('.json')))))
    expect('traces are summed up', len(traces) == 18 and all(
        (row['link_busy_share'], row['waited_share'], row['link_gb_per_s'], row['end']) == (0.75, 0.25, 1.0, {'copies': 2})
        for row in traces), ran)
    with tarfile.open(os.path.join(path, next(name for name in names if name.endswith('.tar')))) as tar:
        kept = {member.name: json.loads(gzip.decompress(tar.extractfile(member).read())) for member in tar}
    expect('and kept', len(kept) == 18 and all(row['trace'].split(': ')[1] in kept for row in traces), ran)

    late, partly, _ = run(folder, 'rest', ['table'], budget=10, fault='endless')
    expect('a call that runs out of time has kept what it had, and shows it', late.returncode == 3
           and [row['config'] for row in partly] == 3 * ['full-vram'] and '| dense' in late.stdout and 'FAIL' not in late.stdout
           and 'go on with: run.sh --from gpu-' in late.stdout, late)
    rest, whole, _ = run(folder, 'rest', ['table'], fault='old')
    expect('the next call measures the rest, and nothing twice', rest.returncode == 0 and whole[:len(partly)] == partly
           and len({(row['model'], row['test'], row['ubatch'], row['config']) for row in whole}) == len(whole), rest)
    expect('without a plan for a strategy by name, that strategy is skipped with a reason', len(whole) == len(wanted) - 10 and not any(
        'combined' in row['config'] for row in whole) and 'SKIP dense-32b-q4_k_m, combined, ubatch 512: greenboost plan '
        "--strategy combined: error: unexpected argument" in rest.stdout, rest)
    ran, _, _ = run(folder, 'faults', ['table'], fault='unserved default tokens')
    for words in ('assist, ubatch 512, is what its name says', 'extend, ubatch 512, is what its name says',
                  'combined, says the same as combined-unhooked'):
        found = [line for line in ran.stdout.splitlines() if line.startswith('FAIL') and words in line]
        expect('what fails of "%s" is found' % words, ran.returncode == 1 and len(found) == 2, ran)


def processors():
    return len(os.sched_getaffinity(0))


def every_phase(folder):
    """What `all` runs and what compares with llama.cpp, and calls that go on from it."""
    ran, rows, files = run(folder, 'good', ['all', 'rivals', 'mapped'])
    expect('all phases pass', ran.returncode == 0 and 'FAIL' not in ran.stdout, ran)
    expect('every row has the fields of the format', rows and all(REQUIRED <= set(row) for row in rows), ran)
    have = {(row['model'], row['test'], row['ubatch'], row['config']) for row in rows}
    expect('no row is written twice', len(have) == len(rows), ran)
    wanted = {('8b-q4_0', test, 512, config) for test in ('pp512', 'tg64', 'load_s') for config in ('full-vram', 'stream')}
    for model in MODELS:
        wanted |= {(model, test, 512, config) for test in ('load_s', 'pp512', 'pp2048', 'tg64')
                   for config in ('full-vram', 'extend')}
        wanted |= {(model, 'pp2048', 2048, config) for config in ('full-vram', 'extend')}
        wanted |= {(model, *speed, config) for speed in SPEEDS
                   for config in ('llama.cpp-best', 'llama.cpp-default', 'llama.cpp-mapped', 'assist-mapped')}
    expect('every measurement is there: %d' % len(wanted), have == wanted, ran)
    peaks = [row for row in rows if row['config'] in ('llama.cpp-best', 'llama.cpp-default')]
    expect('rivals are tuned to the cap and keep to it',
           all(0.9 * row['vram_cap_bytes'] < row['vram_peak_bytes'] <= row['vram_cap_bytes'] for row in peaks), ran)
    extended = [row['vram_peak_bytes'] for row in rows if row['config'] == 'extend' and row['vram_cap_bytes']]
    expect('VRAM is watched while programs run', extended and all(7 * GIB < peak <= 12 * GIB for peak in extended), ran)
    expect('completions are kept as hashes', all(len(row['output_sha256'] or '') == 64 for row in rows
                                                 if row['test'] == 'load_s'), ran)

    again, more, _ = run(folder, 'again', ['dense', 'rivals', 'mapped'], earlier=files[-1])
    expect('a call that goes on from another measures nothing twice', again.returncode == 0 and more == rows
           and ' ub ' not in again.stdout, again)
    late, _, _ = run(folder, 'late', ['dense', 'moe'], budget=1)
    expect('a call without time left says how to go on', late.returncode == 3 and 'dense moe' in late.stdout, late)


def page_cache_and_faults(folder):
    cached, rows, _ = run(folder, 'cached', ['page-cache'])
    have = {(row['model'], row['test'], row['ubatch'], row['config']) for row in rows}
    sides = ('stream-mapped', 'stream-page-cache')
    expect('weights in the page cache are compared with copied ones', cached.returncode == 0 and have == {
        (model, *speed, config) for model in MODELS for speed in SPEEDS for config in sides} | {
        (model, 'load_s', 512, config) for model in MODELS for config in ('full-vram-mapped', *sides)} | {
        (model, 'ready_s', 512, config) for model in MODELS for config in ('full-vram-mapped', 'fits-mapped', *sides)}, cached)

    for fault, phase, words in (('tokens', 'dense', 'says the same'), ('slow', 'fit', 'of a model that fits'),
                                ('stdout', 'discovery', 'says the same'), ('missed', 'fixtures', 'may not spill'),
                                ('greedy', 'moe', 'keeps to its cap'),
                                ('unserved', 'mapped', 'is what its name says'),
                                ('copied', 'page-cache', 'has no second copy')):
        ran, _, _ = run(folder, 'fault-' + fault, [phase], fault=fault)
        found = any(line.startswith('FAIL') and words in line for line in ran.stdout.splitlines())
        expect('the fault "%s" is found' % fault, ran.returncode == 1 and found, ran)


def staged(part):
    """Runs a part with stand-ins, a meter and models of its own, so that others can run beside it."""
    with tempfile.TemporaryDirectory() as folder:
        stage(folder)
        part(folder)


def main():
    # As many as there are processors on a small machine; a part waits little, so that more would not be faster.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for part in [pool.submit(staged, part) for part in (the_table, every_phase, page_cache_and_faults)]:
            part.result()
    print('self-test passed')


if __name__ == '__main__':
    main()
