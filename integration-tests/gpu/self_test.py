#!/usr/bin/env python3
"""Runs every phase of run.sh with stand-ins for the GPU and for llama.cpp, then again with planted faults: each must
be found. What it tests is the script: that it starts what it should, compares what it should, and writes its rows."""
import json, os, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
STAND_IN = os.path.join(HERE, 'stand_in.py')
GIB = 1 << 30
REQUIRED = {'gpu', 'driver', 'llama_cpp', 'model', 'test', 'ubatch', 'config', 'vram_cap_bytes', 'vram_peak_bytes', 'value',
            'output_sha256'}


def stage(folder):
    """A pack and a llama.cpp build whose programs are all the stand-in."""
    for sub in ('pack/fixtures', 'llama', 'models'):
        os.makedirs(os.path.join(folder, sub))
    for path in ('pack/gb-launch', 'pack/greenboost', 'pack/toy-llm', 'pack/fixtures/fixture', 'llama/llama-server',
                 'llama/llama-bench'):
        with open(os.path.join(folder, path), 'w') as file:
            file.write('#!/bin/sh\nexec "%s" "%s" "$0" "$@"\n' % (sys.executable, STAND_IN))
        os.chmod(os.path.join(folder, path), 0o755)
    with open(os.path.join(folder, 'pack/fixtures/list'), 'w') as file:
        file.write('# what runs on a real GPU\nfixture now\n')
    with open(os.path.join(folder, 'meter'), 'w') as file:
        file.write('0')


def run(folder, results, phases, budget=500, fault='', earlier=''):
    env = dict(os.environ, GB_SELF_TEST_METER=os.path.join(folder, 'meter'), GB_SELF_TEST_GENERATOR=STAND_IN,
               STAND_IN_FAULT=fault)
    command = ['bash', os.path.join(HERE, 'run.sh'), '--pack', folder + '/pack', '--llama', folder + '/llama', '--results',
               os.path.join(folder, results), '--models', folder + '/models', '--budget', str(budget), '--from', earlier]
    ran = subprocess.run(command + phases, env=env, capture_output=True, text=True)
    path = os.path.join(folder, results)
    files = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.startswith('gpu-')]
    rows = json.load(open(files[-1])) if files else []
    return ran, rows, files


def expect(what, holds, ran):
    if not holds:
        sys.exit('self-test: %s\n%s\n%s' % (what, ran.stdout, ran.stderr))
    print('  %s' % what, flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        stage(folder)
        ran, rows, files = run(folder, 'good', ['all', 'rivals'])
        expect('all phases pass', ran.returncode == 0 and 'FAIL' not in ran.stdout, ran)
        expect('every row has the fields of the format', rows and all(REQUIRED <= set(row) for row in rows), ran)
        have = {(row['model'], row['test'], row['ubatch'], row['config']) for row in rows}
        expect('no row is written twice', len(have) == len(rows), ran)
        wanted = {('8b-q4_0', test, 512, config) for test in ('pp512', 'tg64', 'load_s') for config in ('full-vram', 'extend')}
        for model in ('dense-32b-q4_k_m', 'moe-30b-a3b-q4_k_m'):
            wanted |= {(model, test, 512, config) for test in ('load_s', 'pp512', 'pp2048', 'tg64')
                       for config in ('full-vram', 'extend')}
            wanted |= {(model, 'pp2048', 2048, config) for config in ('full-vram', 'extend')}
            wanted |= {(model, test, ubatch, 'llama.cpp-' + which) for test, ubatch in
                       (('pp2048', 512), ('tg64', 512), ('pp2048', 2048)) for which in ('best', 'default')}
        expect('every measurement is there: %d' % len(wanted), have == wanted, ran)
        peaks = [row for row in rows if row['config'].startswith('llama.cpp')]
        expect('rivals are tuned to the cap and keep to it',
               all(0.9 * row['vram_cap_bytes'] < row['vram_peak_bytes'] <= row['vram_cap_bytes'] for row in peaks), ran)
        extended = [row['vram_peak_bytes'] for row in rows if row['config'] == 'extend' and row['vram_cap_bytes']]
        expect('VRAM is watched while programs run', extended and all(7 * GIB < peak <= 12 * GIB for peak in extended), ran)
        expect('completions are kept as hashes', all(len(row['output_sha256'] or '') == 64 for row in rows
                                                     if row['test'] == 'load_s'), ran)

        ran, tabled, _ = run(folder, 'table', ['table'])
        have = {(row['model'], row['test'], row['ubatch'], row['config']) for row in tabled}
        wanted = {(model, test, ubatch, config) for model in ('dense-32b-q4_k_m', 'moe-30b-a3b-q4_k_m')
                  for config in ('full-vram', 'stream', 'llama.cpp-best')
                  for test, ubatch in (('pp2048', 512), ('tg64', 512), ('pp2048', 2048))}
        expect('the table has both sides of every row', ran.returncode == 0 and wanted <= have and 'goal met' in ran.stdout, ran)
        plans = {(row['test'], row['ubatch'], row['config']) for row in tabled if row['config'].startswith('plan-')}
        expect('the plan is compared with both sides', len(plans) == 6 and 'NOT within' not in ran.stdout
               and ran.stdout.count('the plan says') == 12, ran)
        rivals = [row for row in tabled if row['config'] == 'llama.cpp-best']
        expect('the rival of the table is allowed what we took',
               rivals and all(row['vram_peak_bytes'] <= row['vram_cap_bytes'] for row in rivals), ran)
        again, more, _ = run(folder, 'again', ['dense', 'rivals'], earlier=files[-1])
        expect('a call that goes on from another measures nothing twice', again.returncode == 0 and more == rows
               and ' ub ' not in again.stdout, again)
        late, _, _ = run(folder, 'late', ['dense', 'moe'], budget=1)
        expect('a call without time left says how to go on', late.returncode == 3 and 'dense moe' in late.stdout, late)

        for fault, phase, words in (('tokens', 'dense', 'says the same'), ('slow', 'fit', 'of a model that fits'),
                                    ('stdout', 'discovery', 'says the same'), ('missed', 'fixtures', 'may not spill'),
                                    ('greedy', 'moe', 'keeps to its cap'), ('tokens', 'table', 'says the same')):
            ran, _, _ = run(folder, 'fault-' + fault, [phase], fault=fault)
            found = any(line.startswith('FAIL') and words in line for line in ran.stdout.splitlines())
            expect('the planted fault "%s" is found' % fault, ran.returncode == 1 and found, ran)
    print('self-test passed')


if __name__ == '__main__':
    main()
