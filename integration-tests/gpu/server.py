"""llama-server: started, asked at temperature 0, stopped."""
import hashlib, json, os, socket, subprocess, time, urllib.error, urllib.request
from bench import Failure, Peak, end_group

# One prompt shorter than any micro-batch, one that takes several.
PROMPTS = ('the quick brown fox jumps over the lazy dog and then', ' '.join('word %d of many' % n for n in range(160)))
TOKENS = 48


class Answer:
    """What a server said, how long it took to load, how much VRAM it used at most, and what the hook counted."""

    def __init__(self, sha, load_s, peak, counters):
        self.sha, self.load_s, self.peak, self.counters = sha, load_s, peak, counters


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def ask(port, path, body=None, limit=60):
    request = urllib.request.Request('http://127.0.0.1:%d%s' % (port, path), data=json.dumps(body).encode() if body else None,
                                     headers={'Content-Type': 'application/json'})
    with urllib.request.urlopen(request, timeout=limit) as reply:
        return json.loads(reply.read())


def answer(bench, start, model, extra=(), limit=150, prompts=PROMPTS):
    """Starts llama-server plainly or under gb-launch, and hashes what it generates."""
    deadline = time.time() + bench.limit(limit)
    port = free_port()
    command = start([os.path.join(bench.llama, 'llama-server'), '-m', model, '--host', '127.0.0.1', '--port', str(port),
                   '-np', '1', '--offline', *extra])
    log_path = os.path.join(bench.results, 'llama-server.log')
    with open(log_path, 'w') as log, Peak(bench.meter) as peak:
        began = time.time()
        child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                 env={**os.environ, **start.env})
        watch = start.watch(child.pid)
        try:
            wait_for_health(child, port, deadline, log_path)
            load_s = time.time() - began
            sha = hashlib.sha256()
            for prompt in prompts:
                sha.update(generate(port, prompt, deadline))
        except Failure:
            bench.out_of_time()
            raise
        finally:
            end_group(child)
            counters = watch.end()
    return Answer(sha.hexdigest(), load_s, peak.bytes, counters)


def wait_for_health(child, port, deadline, log_path):
    while True:
        if child.poll() is not None:
            with open(log_path, errors='replace') as log:
                raise Failure('llama-server ended with %s: %s' % (child.returncode, log.read()[-800:]))
        if time.time() > deadline:
            raise Failure('llama-server was not ready in time')
        try:
            return ask(port, '/health', limit=5)
        except (OSError, ValueError):
            time.sleep(0.02)


def generate(port, prompt, deadline):
    """The bytes of one greedy completion: its text and, where the server gives them, its token ids."""
    body = dict(prompt=prompt, n_predict=TOKENS, temperature=0, top_k=1, seed=1, cache_prompt=False, ignore_eos=True,
                return_tokens=True)
    try:
        reply = ask(port, '/completion', body, max(1, deadline - time.time()))
    except (OSError, ValueError) as problem:
        raise Failure('llama-server did not answer: %s' % problem)
    if reply.get('tokens_predicted') != TOKENS:
        raise Failure('llama-server predicted %s tokens instead of %d' % (reply.get('tokens_predicted'), TOKENS))
    return json.dumps([reply['content'], reply.get('tokens')]).encode()
