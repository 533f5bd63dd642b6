"""Programs as they come or under gb-launch, and what the hook itself counted while they ran."""
import json, os, re, subprocess, threading

# The hook's last line of the log; what follows it is for people.
REPORT = re.compile(r'device \d+: (streamed .*? more captured in graphs; (\d+) launches found their weight in a slot or on its way '
                    r'\((\d+) of them had to wait\), (\d+) had to ask for it, (\d+) read it in place.*)')
SERVED = re.compile(r'(\d+) (?:of the program\'s )?copies\b[^;\n]*\bserved')


class Plain:
    """A program as it comes."""
    env = {}

    def __call__(self, command):
        return command

    def watch(self, _pid):
        return Unwatched()


PLAIN = Plain()


class Hooked:
    """A program under gb-launch, with nothing left to a profile's or a plan's choice: a row is what its name says."""

    def __init__(self, bench, vram=None, stream='off', prefetch='off', trace=None, more=(), env=None):
        self.bench, self.env = bench, dict(env or {})
        self.log = os.path.join(bench.results, 'hook-running.log')
        self.options = ['--no-plan', '--stream', stream, '--host-copy-prefetch', prefetch, '--log', self.log,
                        *([] if '--page-cache' in more else ['--page-cache', 'on']),
                        *(['--vram', str(vram)] if vram else []), *(['--trace', trace] if trace else []), *more]

    def __call__(self, command):
        # What a call that was killed has left is not of this run: gb-launch appends.
        if os.path.exists(self.log):
            os.remove(self.log)
        return [os.path.join(self.bench.pack, 'gb-launch'), *self.options, '--', *command]

    def watch(self, pid):
        return Watch(self, pid)


class Unwatched:
    def end(self):
        return None


class Watch:
    """Asks `greenboost status` while a program runs, and reads the hook's log when it has ended.

    The program has the process id of gb-launch, which becomes it. The last answer is at most a period old; counts that
    the log's last line has as well are taken from there."""

    def __init__(self, start, pid):
        self.start, self.pid, self.seen, self.over = start, pid, {}, threading.Event()
        self.period = 0.05 if os.environ.get('GB_SELF_TEST_METER') else 1
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    def ask(self):
        while not self.over.wait(self.period):
            try:
                ran = subprocess.run([os.path.join(self.start.bench.pack, 'greenboost'), 'status', '--json'], timeout=20,
                                     capture_output=True, text=True, stdin=subprocess.DEVNULL)
                of_status(json.loads(ran.stdout), self.pid, self.seen)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                continue  # It is asked again; what is never answered is missing in the row.

    def end(self):
        """Everything that was counted, by name. Empty when the hook said nothing: that is worth a look."""
        self.over.set()
        self.thread.join()
        try:
            with open(self.start.log, errors='replace') as file:
                log = file.read()
            os.remove(self.start.log)
        except OSError:
            return self.seen
        with open(os.path.join(self.start.bench.results, 'hook.log'), 'a') as file:
            file.write('== process %d, %s\n%s' % (self.pid, ' '.join(self.start.options), log[-65536:]))
        return of_log(log, self.seen)


def of_status(processes, pid, seen):
    """Adds what the status record of a process says, all devices together. Counts only grow, and of sizes the most is kept."""
    for process in processes:
        devices = process['devices'] if process['pid'] == pid else []
        now = {}
        for device in devices:
            streamed = device.get('streamed', {})
            for name, value in (('prefetched_copies', device.get('prefetched_copies')), ('prefetched_bytes', device.get('prefetched_bytes')),
                                ('streamed_bytes', streamed.get('bytes')), ('captured_bytes', streamed.get('captured_bytes')),
                                *(('expert_' + name, device.get('experts', {}).get(name))
                                  for name in ('reads', 'hits', 'moves', 'moved_bytes', 'slots', 'vram_bytes', 'unfit')),
                                *((name, streamed.get(name)) for name in ('slot_hits', 'slot_late', 'slot_misses', 'in_place')),
                                ('ring_bytes', device.get('vram_ring_bytes')), ('moved_out_bytes', device.get('moved_out_bytes')),
                                ('page_cache_bytes', device.get('page_cache_bytes')),
                                ('ram_bytes', sum(ram['bytes'] for ram in device.get('ram', [])))):
                if value is not None:
                    now[name] = now.get(name, 0) + value
        for name, value in now.items():
            seen[name] = max(value, seen.get(name, 0))


def of_log(log, seen):
    counters = dict(seen)
    reports = REPORT.findall(log)
    if reports:
        said, *counts = reports[-1]
        counters.update(zip(('slot_hits', 'slot_late', 'slot_misses', 'in_place'), map(int, counts)), said=said.strip())
    served = SERVED.findall(log)
    if served:
        counters['prefetched_copies'] = max(int(served[-1]), counters.get('prefetched_copies', 0))
    return counters


def streamed(counters):
    """Bytes that were copied into slots, or are at each launch of a graph; None where nothing is known."""
    known = [counters[name] for name in ('streamed_bytes', 'captured_bytes') if name in (counters or {})]
    return sum(known) if known else None


def in_words(counters):
    if counters is None:
        return ''
    if not counters:
        return 'the hook said nothing'
    words = ['served %d copies' % counters['prefetched_copies']] if counters.get('prefetched_copies') else []
    words += ['streamed %.1f GiB' % (streamed(counters) / (1 << 30))] if streamed(counters) else []
    words += ['%d read in place' % counters['in_place']] if counters.get('in_place') else []
    return ', '.join(words) or 'nothing streamed or served'
