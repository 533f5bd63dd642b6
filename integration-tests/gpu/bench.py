"""What every phase uses: running programs within the time left, watching VRAM, results, checks."""
import ctypes, datetime, json, os, signal, subprocess, tempfile, threading, time
from hooked import PLAIN, in_words

GIB = 1 << 30
FIELDS = ('gpu', 'driver', 'llama_cpp', 'model', 'test', 'ubatch', 'config', 'vram_cap_bytes', 'vram_peak_bytes',
          'value', 'output_sha256', 'options', 'counters', 'ratio')


class OutOfTime(Exception):
    """The call's time is up; what was measured is written, and the next call goes on."""


class Failure(Exception):
    """A program did not do what a step needs."""


class Skip(Exception):
    """A step cannot be done with these programs, and why."""


class Nvml:
    """The driver's own count of used VRAM, asked without being hooked."""

    class Memory(ctypes.Structure):
        _fields_ = [('total', ctypes.c_uint64), ('free', ctypes.c_uint64), ('used', ctypes.c_uint64)]

    def __init__(self):
        self.nvml = ctypes.CDLL('libnvidia-ml.so.1')
        self.device = ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)):
            raise OSError('NVML finds no GPU')

    def used(self):
        memory = Nvml.Memory()
        if self.nvml.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(memory)):
            raise OSError('NVML does not say how much memory is used')
        return memory.used

    def names(self):
        """Name of the GPU, version of the driver."""
        text = ctypes.create_string_buffer(96)
        self.nvml.nvmlDeviceGetName(self.device, text, 96)
        name = text.value.decode()
        self.nvml.nvmlSystemGetDriverVersion(text, 96)
        return name, text.value.decode()


class FileMeter:
    """The self-test's stand-in: programs write what they use into a file, and wait until it has been seen."""

    def __init__(self, path):
        self.path = path

    def used(self):
        with open(self.path) as file:
            text = file.read()
        with open(self.path + '.seen', 'w') as file:
            file.write(text)
        return int(text or 0)

    def names(self):
        return 'Stand-in GPU', '0.0'


class Peak:
    """Samples used VRAM while a block runs; `bytes` is the most above what was used before it."""

    def __init__(self, meter):
        self.meter, self.bytes, self.over = meter, 0, threading.Event()

    def __enter__(self):
        self.before = self.meter.used()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        while True:
            self.bytes = max(self.bytes, self.meter.used() - self.before)
            if self.over.wait(0.02):
                return

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Ran:
    """A program that ended."""

    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds
        self.peak = self.counters = None


class Bench:
    def __init__(self, options):
        self.pack, self.llama, self.models, self.disk = options.pack, options.llama, options.models, options.disk
        self.deadline, self.results, self.began = options.deadline, options.results, time.time()
        self.earlier = options.earlier
        fake = os.environ.get('GB_SELF_TEST_METER')
        self.meter = FileMeter(fake) if fake else Nvml()
        # Nothing is begun with less time than this.
        self.least = 1 if fake else 20
        self.gpu, self.driver = self.meter.names()
        self.llama_version, self.failed, self.skipped = None, [], {}
        self.day = datetime.date.today().isoformat()
        self.path = os.path.join(self.results, 'gpu-%s.json' % self.day)
        self.rows = []
        for earlier in (options.earlier, self.path):
            if earlier and os.path.exists(earlier):
                with open(earlier) as file:
                    self.rows = json.load(file)
        if self.rows:
            self.save()

    # ---- programs
    def elapsed(self):
        return time.time() - self.began

    def left(self):
        return self.deadline - time.time()

    def limit(self, seconds):
        """What a step may take: its own limit, or the rest of the call's time."""
        if self.left() < min(self.least, seconds):
            raise OutOfTime()
        return min(seconds, self.left())

    def hooked(self, command, vram=None):
        """A command under gb-launch with what its profile says. Rows of speed name everything themselves (hooked.Hooked)."""
        return [os.path.join(self.pack, 'gb-launch'), '--no-plan', *(['--vram', str(vram)] if vram else []), '--', *command]

    def run(self, command, limit, env=None, start=PLAIN):
        """Runs a program to its end, or to the end of its time, which is a failure."""
        limit = self.limit(limit)
        began = time.time()
        with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err, Peak(self.meter) as peak:
            child = subprocess.Popen(start(command), stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                     env={**os.environ, **start.env, **(env or {})}, start_new_session=True)
            watch = start.watch(child.pid)
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(child)
                counters = watch.end()
            out.seek(0), err.seek(0)
            ran = Ran(code, out.read(), err.read(), time.time() - began)
        ran.peak, ran.counters = peak.bytes, counters
        if code is None:
            self.out_of_time()
            raise Failure('%s took more than %.0f s' % (os.path.basename(command[0]), limit))
        return ran

    def out_of_time(self):
        """What took too long because the call's time was up is no failure."""
        if self.left() < 5:
            raise OutOfTime()

    def succeed(self, command, limit, env=None, start=PLAIN):
        """As run, for programs that must succeed."""
        ran = self.run(command, limit, env, start)
        if ran.code != 0:
            raise Failure('%s ended with %s: %s' % (' '.join(command), ran.code, (ran.err or ran.out).strip()[-600:]))
        return ran

    # ---- results
    def find(self, **wanted):
        """The rows of an earlier step that have these values, on this GPU and driver."""
        wanted = dict(wanted, gpu=self.gpu, driver=self.driver)
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def add(self, **values):
        row = dict.fromkeys(FIELDS)
        row.update(gpu=self.gpu, driver=self.driver, llama_cpp=self.llama_version)
        unknown = set(values) - set(FIELDS)
        assert not unknown, unknown
        row.update(values)
        self.rows.append(row)
        self.save()
        if row['ratio'] is None:  # Predictions are shown together, at the end.
            print('%4.0f s  %-9s ub %-5s %-18s %10.2f   VRAM peak %.2f GiB  %s  %s' % (
                self.elapsed(), row['test'], row['ubatch'] or '-', row['config'], row['value'],
                (row['vram_peak_bytes'] or 0) / GIB, (row['output_sha256'] or '')[:12], in_words(row['counters'])), flush=True)

    def save(self):
        """In one step: a call may be ended at any moment."""
        fresh = self.path + '.new'
        with open(fresh, 'w') as file:
            file.write('[\n' + ',\n'.join('  ' + json.dumps(row) for row in self.rows) + '\n]\n')
        os.replace(fresh, self.path)

    def check(self, name, passed, detail=''):
        """One thing that must hold; a failed one fails the call at its end."""
        self.note('PASS' if passed else 'FAIL', name, detail)
        if not passed:
            self.failed.append(name)

    def skip(self, name, reason):
        """Something that cannot be done here, which is no failure."""
        if name not in self.skipped:
            self.note('SKIP', name, reason)
        self.skipped[name] = reason

    def note(self, what, name, detail):
        print('%s %s%s' % (what, name, ': ' + detail if detail else ''), flush=True)
        with open(os.path.join(self.results, 'checks.txt'), 'a') as file:
            file.write('%s %s: %s\n' % (what, name, detail))


def end_group(child):
    """Ends a program and whatever it started, which share a process group of their own."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, how)
        except ProcessLookupError:
            break
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            continue
    child.wait()
