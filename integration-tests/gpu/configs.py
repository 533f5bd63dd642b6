"""The strategies for a model that does not fit, each with exactly what its name says: how it is started, with which options
of llama.cpp, and what it must say the same as."""
import json, os, re, shlex
from bench import Failure, GIB, Skip
from hooked import Hooked, PLAIN, in_words, streamed
from speed import ALL_ON_GPU, CAPS, CONTEXT_OPTIONS, allowed, keep, llama_bench, said, threads_to_try, tuned

TESTS = {512: ('pp2048', 'tg64'), 2048: ('pp2048',)}
OURS = ('stream', 'extend', 'assist', 'combined')
CONFIGS = ('full-vram', 'llama.cpp-best', *OURS)
# What the plan says how to run: what it is asked for, what it then answers, what gb-launch is told of streaming and assist.
PLANNED = {'stream': ('extend', 'extend', 'on', 'off'), 'assist': ('host-copy-prefetch', 'host-copy-prefetch', 'off', 'on'),
           'combined': ('combined', 'combined', 'on', 'on')}
# All layers in a plan; the rows of both sides have one number for it.
ALL_LAYERS = '999'
# llama.cpp's variables, which llama-bench does not read, as options that it has. What is named None is said otherwise.
OPTIONS = {'LLAMA_ARG_OVERRIDE_TENSOR': '-ot', 'LLAMA_ARG_LOAD_MODE': '-lm', 'LLAMA_ARG_THREADS': '-t',
           'LLAMA_ARG_N_GPU_LAYERS': '-ngl', 'LLAMA_ARG_N_CPU_MOE': '-ncmoe', 'LLAMA_ARG_FLASH_ATTN': '-fa',
           'LLAMA_ARG_CACHE_TYPE_K': '-ctk', 'LLAMA_ARG_CACHE_TYPE_V': '-ctv',
           'LLAMA_ARG_UBATCH': None, 'LLAMA_ARG_BATCH': None, 'LLAMA_ARG_CTX_SIZE': None, 'LLAMA_ARG_N_PARALLEL': None}
# What was planned in this call, by what was asked.
PLANS = {}


class Setup:
    """How a configuration is run: under `start`, with options of llama.cpp; `cap` is what the hook may take."""

    def __init__(self, start, options, cap=None):
        self.start, self.options, self.cap = start, tuple(options), cap

    def for_bench(self):
        """llama-bench has a comma between runs where llama-server has one between overrides."""
        after = (None, *self.options)
        return tuple(word.replace(',', ';') if before == '-ot' else word for before, word in zip(after, self.options))


def setup(bench, name, model, config, ubatch, trace=None):
    """How a configuration is run. With `trace`, graphs are off: what is inside of one has no times."""
    cap, env = CAPS[name], {'GGML_CUDA_DISABLE_GRAPHS': '1'} if trace else {}

    def hooked(stream, prefetch, more=(), env=env):
        return Hooked(bench, cap, stream, prefetch, trace, more, env)

    if config == 'full-vram':
        return Setup(PLAIN, ALL_ON_GPU)
    if config == 'extend':
        return Setup(hooked('off', 'off'), ALL_ON_GPU, cap)
    if config in PLANNED:
        options, more, variables = planned(bench, name, model, ubatch, config)
        return Setup(hooked(*PLANNED[config][2:], more, {**variables, **env}), options, cap)
    raise ValueError(config)


def best_mode():
    """llama.cpp's own offload at its best: pinned copies of what the CPU computes, and the better number of threads."""
    return ('-lm', 'none', '-t', threads_to_try())


def planned(bench, name, model, ubatch, config):
    """How the plan would run a strategy: options of llama.cpp, of gb-launch, variables."""
    asked, answer = PLANNED[config][:2]
    plan = ask_plan(bench, model, CAPS[name], ubatch, asked)
    commands = plan.get('commands') or {}
    if plan.get('winner') != answer or not commands:
        raise Skip('the plan does not say how to run it: winner %s' % plan.get('winner'))
    variables, more, options = of_command_line(commands.get('llama_server', ''))
    variables.update(commands.get('llama_server_environment') or {})
    for variable, value in variables.items():
        if variable.startswith('LLAMA_ARG_') and variable not in OPTIONS:
            print('      llama-bench is not told %s=%s' % (variable, value))
        elif OPTIONS.get(variable):
            options[OPTIONS[variable]] = str(value)
    if config != 'stream' and not {'-ot', '-ncmoe', '-ngl'} & set(options):
        raise Skip('the plan leaves nothing to the CPU: %s' % commands)
    if options.get('-ngl') == ALL_LAYERS:
        options['-ngl'] = ALL_ON_GPU[1]
    env = {variable: str(value) for variable, value in variables.items() if variable.startswith(('GREENBOOST_', 'GGML_'))}
    return [word for pair in options.items() for word in pair], more, env


def of_command_line(line):
    """What a plan's command line says: variables, options of gb-launch that are not said otherwise, options of llama.cpp."""
    words = shlex.split(line)
    at = words.index('llama-server') if 'llama-server' in words else len(words)
    variables = dict(word.split('=', 1) for word in words[:at] if re.match('[A-Z_0-9]+=', word))
    pairs = list(zip(words, words[1:]))
    more = [word for pair in pairs[:at] if pair[0] in ('--ring', '--place') for word in pair]
    options = {option: value for option, value in pairs[at:] if option in OPTIONS.values()}
    return variables, more, options


def ask_plan(bench, model, vram, ubatch, strategy=None):
    """`greenboost plan` as JSON; the first one on a machine measures it, some seconds. llama-bench has a context of 2048, and
    memory for the logits of every token of a micro-batch: of llama-server's options, `--embeddings` asks for the same."""
    asked = (model, vram, ubatch, strategy)
    if asked in PLANS:
        return PLANS[asked]
    ran = bench.run([os.path.join(bench.pack, 'greenboost'), 'plan', model, '--vram', str(vram), '--ctx', '2048', '--ubatch',
                     str(ubatch), *(['--strategy', strategy] if strategy else []), '--json', '--', '--embeddings'], 60)
    # 1: no strategy is possible; what is expected of each is said all the same.
    if ran.code not in (0, 1) or not ran.out.strip():
        reason = ' '.join((ran.err or ran.out).split())[-300:]
        raise (Skip if strategy else Failure)('greenboost plan%s: %s' % (' --strategy ' + strategy if strategy else '', reason))
    if not PLANS:
        print('      measured: %s' % json.dumps(json.loads(ran.out).get('machine')), flush=True)
    PLANS[asked] = json.loads(ran.out)
    return PLANS[asked]


# ---- rows
def is_done(bench, name, config, ubatch):
    return all(bench.find(model=name, test=test, config=config, ubatch=ubatch) for test in TESTS[ubatch])


def speeds(bench, name, model, config, ubatch):
    """The rows of speed of a configuration at a micro-batch, and whether it did what its name says."""
    if is_done(bench, name, config, ubatch):
        return
    tests = [test for test in TESTS[ubatch] if not bench.find(model=name, test=test, config=config, ubatch=ubatch)]
    limit = allowed(bench, name, ubatch)
    if config == 'llama.cpp-best':
        found, result = tuned(bench, name, model, ubatch, limit, best_mode(), tests)
        keep(bench, name, config, limit, ubatch, tests, (*found, *best_mode()), result)
        return
    how = setup(bench, name, model, config, ubatch)
    result = llama_bench(bench, how.start, model, ubatch, tests, how.for_bench(), limit=120)
    keep(bench, name, config, how.cap, ubatch, tests, how.for_bench(), result)
    if how.cap:
        what = '%s, %s, ubatch %d,' % (name, config, ubatch)
        bench.check('%s is what its name says' % what, is_what_it_says(config, result['counters']), in_words(result['counters']))
        # Where streaming was not measured, nobody knows yet what more than the cap the driver counts.
        known = limit if limit > how.cap else how.cap + GIB
        bench.check('%s takes no more VRAM than the rival may' % what, result['peak'] <= 1.01 * known,
                    '%.2f of %.2f GiB' % (result['peak'] / GIB, known / GIB))


def is_what_it_says(config, counters):
    copied, served = streamed(counters) or 0, counters.get('prefetched_copies', 0)
    return {'stream': copied > 0 and not served, 'extend': not copied and not served, 'assist': served > 0,
            'combined': copied > 0 or served > 0}[config]


def says_the_same(bench, name, model, config):
    """Temperature-0 completions, byte for byte: with everything in VRAM, or with the same layers on the CPU unhooked."""
    rows = bench.find(model=name, test='load_s', config=config)
    if rows:
        ours, options = rows[0], rows[0]['options'].split()[len(CONTEXT_OPTIONS):]
    else:
        how = setup(bench, name, model, config, 512)
        options = how.options
        ours = said(bench, name, model, config, how.start, how.cap, options, limit=120)
    against, options = ('full-vram', ALL_ON_GPU) if config in ('stream', 'extend') else (config + '-unhooked', options)
    expected = said(bench, name, model, against, PLAIN, None, options, limit=120)
    shas = [row['output_sha256'][:12] for row in (ours, expected)]
    bench.check('%s, %s, says the same as %s' % (name, config, against),
                ours['output_sha256'] == expected['output_sha256'], '%s and %s' % tuple(shas))
