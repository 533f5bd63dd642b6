"""What models are made of: presets, and for each architecture its metadata and its tensors."""
import collections
import numpy as np
import gguf_skew
from gguf_blocks import TYPES

U32, F32, BOOL, STR, I32 = 4, 6, 7, 8, 5                       # GGUF value types
FTYPE = {'F16': 1, 'Q4_0': 2, 'Q8_0': 7, 'Q4_K_M': 15, 'MXFP4': 38}    # general.file_type

PRESETS = {
    'tiny':    dict(arch='llama', layers=4, dim=256, heads=4, kv_heads=2, head_dim=64, ffn=768, vocab=4096, ctx=4096),
    '200m':    dict(arch='llama', layers=12, dim=1024, heads=16, kv_heads=4, head_dim=64, ffn=2816, vocab=32000, ctx=8192),
    '1b':      dict(arch='llama', layers=16, dim=2048, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab=128256, ctx=131072, rope=5e5),
    '8b':      dict(arch='llama', layers=32, dim=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, ctx=131072, rope=5e5),
    '70b':     dict(arch='llama', layers=80, dim=8192, heads=64, kv_heads=8, head_dim=128, ffn=28672, vocab=128256, ctx=131072, rope=5e5),
    'qwen3-8b':   dict(arch='qwen3', layers=36, dim=4096, heads=32, kv_heads=8, head_dim=128, ffn=12288, vocab=151936, ctx=40960, rope=1e6),
    'qwen3-tiny': dict(arch='qwen3', layers=4, dim=256, heads=4, kv_heads=2, head_dim=64, ffn=768, vocab=4096, ctx=4096, rope=1e6),
    '8x7b':    dict(arch='mixtral', layers=32, dim=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=32000, ctx=32768, rope=1e6, experts=8, experts_used=2),
    '30b-a3b': dict(arch='qwen3moe', layers=48, dim=2048, heads=32, kv_heads=4, head_dim=128, ffn=6144, expert_ffn=768, vocab=151936, ctx=40960, rope=1e6, experts=128, experts_used=8),
    'moe-tiny': dict(arch='qwen3moe', layers=4, dim=512, heads=8, kv_heads=2, head_dim=64, ffn=1024, expert_ffn=256, vocab=8192, ctx=4096, rope=1e6, experts=64, experts_used=8),
    'gptoss':  dict(arch='gpt-oss', layers=24, dim=2880, heads=64, kv_heads=8, head_dim=64, ffn=2880, expert_ffn=2880, vocab=201088, ctx=131072, rope=1.5e5, experts=32, experts_used=4, window=128, quant='MXFP4'),
    'gptoss-tiny': dict(arch='gpt-oss', layers=4, dim=256, heads=8, kv_heads=2, head_dim=64, ffn=256, expert_ffn=256, vocab=4096, ctx=4096, rope=1.5e5, experts=32, experts_used=4, window=64, quant='MXFP4'),
    'qwen35moe': dict(arch='qwen35moe', layers=40, dim=2048, heads=16, kv_heads=2, head_dim=256, ffn=512, expert_ffn=512, vocab=248320, ctx=262144, rope=1e7, experts=256, experts_used=8, states=128, key_heads=16, value_heads=32),
    'qwen35moe-tiny': dict(arch='qwen35moe', layers=4, dim=512, heads=4, kv_heads=2, head_dim=128, ffn=256, expert_ffn=256, vocab=4096, ctx=4096, rope=1e7, experts=256, experts_used=8, states=64, key_heads=2, value_heads=4),
}
# Options of this script: the name GGUF has, and whether feed-forward layers are experts.
ARCHITECTURES = {'llama': ('llama', False), 'mixtral': ('llama', True), 'qwen3': ('qwen3', False), 'qwen3moe': ('qwen3moe', True),
                 'gpt-oss': ('gpt-oss', True), 'qwen35moe': ('qwen35moe', True)}
# One layer in this many attends to everything, the others keep a state (qwen35moe).
FULL_ATTENTION = 4

# ne: dimensions as ggml has them, fastest first. fill: 'pool' (random, deviation gain / sqrt(fan_in)), 'norm', 'embedding', 'router', or
# a number that all weights are.
Tensor = collections.namedtuple('Tensor', 'name ne type fan_in gain fill')


def qtype(a, name, ne0):
    q = a.quant
    if q == 'Q4_K_M':
        q = 'Q6_K' if name.startswith(('output.weight', 'token_embd')) else 'Q4_K'
    if q == 'MXFP4' and '_exps.' not in name:
        q = 'Q8_0'
    if ne0 % TYPES[q][1]:
        q = 'Q8_0' if ne0 % 32 == 0 else 'F16'
    return q


def tensors(a):
    """All tensors, in the file's order."""
    out = []
    hd, qd, kd = a.head_dim, a.heads * a.head_dim, a.kv_heads * a.head_dim
    gguf = ARCHITECTURES[a.arch][0]
    adds = gguf_skew.adds(gguf, a.layers) if a.skew else (1.0, 1.0)
    def w(name, *ne, gain=1.0): out.append(Tensor(name, ne, qtype(a, name, ne[0]), ne[0], gain, 'pool'))
    def norm(name, ne): out.append(Tensor(name, (ne,), 'F32', 0, 1.0, 'norm'))
    def f(name, *ne, std=0.1): out.append(Tensor(name, ne, 'F32', 1, std, 'pool'))
    def alike(name, *ne, value): out.append(Tensor(name, ne, 'F32', 0, 1.0, float(value)))

    def attention(p):
        # Half of what the queries' matrix gives is a gate (qwen35moe).
        w(p + 'attn_q.weight', a.dim, qd * (2 if gguf == 'qwen35moe' else 1))
        w(p + 'attn_k.weight', a.dim, kd); w(p + 'attn_v.weight', a.dim, kd)
        w(p + 'attn_output.weight', qd, a.dim, gain=adds[0])
        if gguf in ('qwen3', 'qwen3moe', 'qwen35moe'):
            norm(p + 'attn_q_norm.weight', hd); norm(p + 'attn_k_norm.weight', hd)
        if gguf == 'gpt-oss':
            f(p + 'attn_q.bias', qd); f(p + 'attn_k.bias', kd); f(p + 'attn_v.bias', kd); f(p + 'attn_output.bias', a.dim)
            f(p + 'attn_sinks.weight', a.heads, std=1.0)

    def delta_net(p):
        keys, values = a.states * a.key_heads, a.states * a.value_heads
        w(p + 'attn_qkv.weight', a.dim, 2 * keys + values); w(p + 'attn_gate.weight', a.dim, values)
        f(p + 'ssm_conv1d.weight', 4, 2 * keys + values, std=0.5)
        # A state halves in about a dozen tokens.
        alike(p + 'ssm_dt.bias', a.value_heads, value=0); alike(p + 'ssm_a', a.value_heads, value=-0.08)
        w(p + 'ssm_beta.weight', a.dim, a.value_heads); w(p + 'ssm_alpha.weight', a.dim, a.value_heads)
        norm(p + 'ssm_norm.weight', a.states); w(p + 'ssm_out.weight', values, a.dim, gain=adds[0])

    def experts(p):
        ff, biased = a.expert_ffn, gguf == 'gpt-oss'
        out.append(Tensor(p + 'ffn_gate_inp.weight', (a.dim, a.experts), 'F32', a.dim, 2.0, 'router'))
        if biased: f(p + 'ffn_gate_inp.bias', a.experts)
        if gguf == 'qwen35moe':
            w(p + 'ffn_gate_up_exps.weight', a.dim, 2 * ff, a.experts)
        else:
            w(p + 'ffn_gate_exps.weight', a.dim, ff, a.experts); w(p + 'ffn_up_exps.weight', a.dim, ff, a.experts)
        w(p + 'ffn_down_exps.weight', ff, a.dim, a.experts, gain=adds[1])
        if biased:
            f(p + 'ffn_gate_exps.bias', ff, a.experts); f(p + 'ffn_up_exps.bias', ff, a.experts)
            f(p + 'ffn_down_exps.bias', a.dim, a.experts, std=0.02)
        if gguf == 'qwen35moe':
            f(p + 'ffn_gate_inp_shexp.weight', a.dim, std=1 / np.sqrt(a.dim))
            w(p + 'ffn_gate_shexp.weight', a.dim, ff); w(p + 'ffn_up_shexp.weight', a.dim, ff)
            w(p + 'ffn_down_shexp.weight', ff, a.dim, gain=adds[1])

    # an embedding row needs unit size, not 1/sqrt(dim): its fan-in is one
    out.append(Tensor('token_embd.weight', (a.dim, a.vocab), qtype(a, 'token_embd.weight', a.dim), 1, 1.0, 'embedding'))
    norm('output_norm.weight', a.dim)
    if not a.tied: w('output.weight', a.dim, a.vocab)
    for i in range(a.layers):
        p = 'blk.%d.' % i
        norm(p + 'attn_norm.weight', a.dim)
        delta_net(p) if gguf == 'qwen35moe' and (i + 1) % FULL_ATTENTION else attention(p)
        norm(p + ('post_attention_norm.weight' if gguf in ('gpt-oss', 'qwen35moe') else 'ffn_norm.weight'), a.dim)
        if a.experts:
            experts(p)
        else:
            w(p + 'ffn_gate.weight', a.dim, a.ffn); w(p + 'ffn_up.weight', a.dim, a.ffn)
            w(p + 'ffn_down.weight', a.ffn, a.dim)
    return out


def metadata(a):
    """(key without the architecture, type, value), in the file's order. A list is an array."""
    gguf = ARCHITECTURES[a.arch][0]
    keys = [('vocab_size', U32, a.vocab), ('context_length', U32, a.ctx), ('embedding_length', U32, a.dim),
            ('block_count', U32, a.layers), ('feed_forward_length', U32, a.ffn),
            ('attention.head_count', U32, a.heads), ('attention.head_count_kv', U32, a.kv_heads),
            ('attention.key_length', U32, a.head_dim), ('attention.value_length', U32, a.head_dim),
            ('attention.layer_norm_rms_epsilon', F32, 1e-5),
            ('rope.dimension_count', U32, a.head_dim // 4 if gguf == 'qwen35moe' else a.head_dim), ('rope.freq_base', F32, a.rope)]
    if a.experts:
        keys += [('expert_count', U32, a.experts), ('expert_used_count', U32, a.experts_used)]
        if gguf != 'llama': keys.append(('expert_feed_forward_length', U32, a.expert_ffn))
    if gguf == 'gpt-oss':
        keys += [('attention.sliding_window', U32, a.window), ('rope.scaling.type', STR, 'yarn'), ('rope.scaling.factor', F32, 32.0),
                 ('rope.scaling.original_context_length', U32, 4096)]
    if gguf == 'qwen35moe':
        turned = a.head_dim // 8                               # pairs of a head that turn, in three sections
        keys += [('expert_shared_feed_forward_length', U32, a.expert_ffn),
                 ('rope.dimension_sections', I32, [turned - 2 * (turned // 3), turned // 3, turned // 3, 0]),
                 ('ssm.conv_kernel', U32, 4), ('ssm.state_size', U32, a.states), ('ssm.group_count', U32, a.key_heads),
                 ('ssm.time_step_rank', U32, a.value_heads), ('ssm.inner_size', U32, a.states * a.value_heads),
                 ('full_attention_interval', U32, FULL_ATTENTION)]
    return keys
