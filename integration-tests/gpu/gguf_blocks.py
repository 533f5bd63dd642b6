"""Payload of generated models: ggml's types, and pools of random valid blocks that tensors are cut from."""
import numpy as np

# name: (ggml type id, weights a block, bytes a block)
TYPES = {'F32': (0, 1, 4), 'F16': (1, 1, 2), 'Q4_0': (2, 32, 18), 'Q8_0': (8, 32, 34),
         'Q4_K': (12, 256, 144), 'Q6_K': (14, 256, 210), 'MXFP4': (39, 32, 17)}
POOL_BYTES = 24 << 20
# Mean square of what four random bits are in MXFP4 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives), before the block's scale.
MXFP4_SQUARE = (0 + .25 + 1 + 2.25 + 4 + 9 + 16 + 36) / 8


def nbytes(ne, t):
    n = int(np.prod(ne, dtype=np.int64)); _, blk, sz = TYPES[t]
    assert ne[0] % blk == 0, (ne, t)
    return n // blk * sz


def put(blocks, at, value):
    blocks[:, at:at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


_pools = {}
def pool(t, fan_in, gain, seed):
    """Blocks with zero mean and a standard deviation of gain / sqrt(fan_in), as bytes."""
    key = (t, fan_in, gain)
    if key in _pools: return _pools[key]
    rng = np.random.default_rng([seed, TYPES[t][0], fan_in, int(gain * 1000)])
    _, blk, sz = TYPES[t]
    n = POOL_BYTES // sz | 1                                   # an odd number of blocks: rows do not line up with it
    std = gain / np.sqrt(max(fan_in, 1))
    if t in ('F16', 'F32'):
        v = rng.standard_normal(n, dtype=np.float32) * std
        b = v.astype(np.float16 if t == 'F16' else np.float32).view(np.uint8).reshape(n, sz)
    else:
        b = rng.integers(0, 256, (n, sz), dtype=np.uint8)
        if t == 'Q4_0':                                        # d * (q-8), q 0..15; mean -0.5d is removed by 1..15
            q = b[:, 2:]
            lo, hi = q & 15, q >> 4
            lo[lo == 0] = 8; hi[hi == 0] = 8
            b[:, 2:] = lo | (hi << 4)
            put(b, 0, std / 4.18)
        elif t == 'Q8_0':
            b[:, 2:][b[:, 2:] == 128] = 0
            put(b, 0, std / 73.3)
        elif t == 'Q4_K':                                      # d*32*q - dmin*32, q 0..15: zero mean at dmin = 7.5 d
            d = std / (32 * 4.61); put(b, 0, d); put(b, 2, 7.5 * d)
            b[:, 4:12] = 0xA0; b[:, 12:16] = 0                 # every 6-bit scale and min is 32
        elif t == 'Q6_K':                                      # d*64*(q-32), q 0..63
            b[:, 192:208] = 64; put(b, 208, std / (64 * 18.5))
        elif t == 'MXFP4':                                     # 2^(e-127) * a 4-bit float: two scales, mixed to the deviation
            low = int(np.floor(np.log2(std / np.sqrt(MXFP4_SQUARE))))
            of_low = np.exp2(2 * low) * MXFP4_SQUARE           # the next one up has four times this mean square
            share = (std * std - of_low) / (3 * of_low)
            b[:, 0] = 127 + low + (rng.random(n) < share)
    _pools[key] = b.reshape(-1)
    return _pools[key]


def alike(t, count, value):
    """Blocks for this many weights which all have this value, as bytes."""
    _, blk, sz = TYPES[t]
    b = np.zeros((count // blk, sz), np.uint8)
    if t == 'F16': b[:] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    elif t == 'Q4_0': b[:, 2:] = 0xCC; put(b, 0, value / 4)
    elif t == 'Q8_0': b[:, 2:] = 64; put(b, 0, value / 64)
    elif t == 'Q6_K': b[:, 128:192] = 0xFF; b[:, 192:208] = 64; put(b, 208, value / (64 * 16))    # q = 3 << 4
    else: raise ValueError('no weights that are alike in ' + t)
    return b.reshape(-1)
