"""Routing skew: some experts are asked for more than others, as in real mixtures, and different ones for each token.

The first coordinates of every embedding row have one value: a component that all tokens share. Router rows have a weight
along it, drawn for each expert and layer, so that an expert's score is its weight plus what the token adds. All norms turn the
shared coordinates down (DIM), so that attention, experts and the output hardly see them, and the router's rows are larger there
by as much. Scores then are two Gaussians, and only the ratio of their deviations decides how skewed the counts are: `ratio` finds
it for the share of reads wanted.

What layers add to the residual stream makes the shared component small beside it, layer after layer: they add little here, and
the router's rows make up for it.

Counted with llama.cpp on CPUs over 256 tokens, --skew 0.76: 0.75 to 0.77 of reads in the most used quarter and 0.94 to 0.95 in the
most used half (moe-tiny, gptoss-tiny, qwen35moe-tiny, also with 16 and 24 layers), and next to no token asks for the experts of the
token before (integration-tests/tests/generated.rs). Greedy decoding comes round to tokens it has said, the larger the
vocabulary the later, and then asks for fewer experts: 0.815 and 0.961 of 48 layers with 128 experts and 16,384 tokens. Tokens do not
ask for what the tokens just before asked for, beyond the skew, as real models' do: an LRU of a quarter of the experts hits less
here than with them.
"""
import functools
import numpy as np

DIM = 1 / 16
# Mean square that a layer's experts, and its attention to a context of tokens that are all the same, add to a coordinate of the residual
# stream, which begins with 1, where nothing is shared; measured with llama.cpp on small models.
EXPERTS = {'qwen3moe': .11, 'llama': .24, 'gpt-oss': .5, 'qwen35moe': .22}
ATTENTION = 1.0
# What all layers together may add: the token stays what decides in every layer. Where the context does, what is generated soon
# goes in a circle of a few tokens, which ask for the same few experts.
TOGETHER = .5


def shared(dim, block):
    """How many coordinates are shared: about an eighth, in whole blocks."""
    return min(max(dim // 8 // block, 1) * block, dim // 2 // block * block)


def levels(experts):
    """Standard normal quantiles: every layer has the same weights, for other experts."""
    low, high = np.full(experts, -9.0), np.full(experts, 9.0)
    wanted = (np.arange(experts) + .5) / experts
    grid = np.linspace(-9, 9, 1 << 14)
    density = np.exp(-grid * grid / 2)
    return np.interp(wanted, np.cumsum(density) / density.sum(), grid).astype(np.float32)


@functools.cache
def share(experts, used, ratio, part=4, tokens=512):
    """Of the reads of a run, those of the most used 1/part of the experts."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(8):
        scores = ratio * levels(experts) + rng.standard_normal((tokens, experts), dtype=np.float32)
        asked = np.argpartition(-scores, used, axis=1)[:, :used]
        counts = np.sort(np.bincount(asked.ravel(), minlength=experts))[::-1]
        found.append(counts[:experts // part].sum() / counts.sum())
    return float(np.mean(found))


@functools.cache
def ratio(experts, used, wanted):
    """Deviation of the experts' weights beside that of what tokens add, for this share of reads in the most used quarter."""
    low, high = 0.0, 8.0
    if not share(experts, used, low) < wanted < share(experts, used, high):
        raise SystemExit('--skew %g is not between %.2f, which is even, and %.2f' % (wanted, share(experts, used, low), share(experts, used, high)))
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if share(experts, used, middle) < wanted else (low, middle)
    return (low + high) / 2


def adds(arch, layers):
    """Gains of the matrices through which attention and experts add to the residual stream."""
    return tuple(min(round(float(np.sqrt(TOGETHER / (one * layers))), 3), 1.0) for one in (ATTENTION, EXPERTS[arch]))


def router(dim, experts, used, arch, layers, layer, seed, gain, skew, count):
    """A layer's router, a row for each expert: random, and along `count` shared coordinates the expert's weight."""
    rng = np.random.default_rng([seed, 77, layer])
    rows = rng.standard_normal((experts, dim), dtype=np.float32) * np.float32(gain / np.sqrt(dim))
    # Deviation of what tokens add to a score, and how large the residual stream is here.
    seen = (dim - count) / dim
    size = np.sqrt(1 + EXPERTS[arch] * (adds(arch, layers)[1] * seen) ** 2 * layer)
    weights = rng.permutation(levels(experts)) * ratio(experts, used, skew) * gain * np.sqrt(seen) * size
    rows[:, :count] = (weights / (count * DIM))[:, None]
    return rows
