/* What a launch costs while weights are streamed, in nanoseconds: run once as it is and once under gb-launch with VRAM for
 * a part of the weights, by `cargo xtask bench overhead`. Prints one `NAME NANOSECONDS` a line, as overhead.c does.
 */
#define _GNU_SOURCE
#include "timing.h"
#include "../fixtures/c/ggml_like.h"

enum { WEIGHTS = 8 };
static const size_t SIZE = (size_t)32 << 20;

static void *allocate(size_t size)
{
    CUdeviceptr base;
    CHECK(cuMemAlloc_v2(&base, size));
    return (void *)(uintptr_t)base;
}

static void release(void *base)
{
    CHECK(cuMemFree_v2((CUdeviceptr)(uintptr_t)base));
}

static const struct ggml_backend_iface cuda = {allocate, release, NULL, NULL, NULL};

int main(int count, char **arguments)
{
    static struct ggml_tensor weights[WEIGHTS];
    struct gpu gpu = open_gpu(count, arguments);
    for (int i = 0; i < WEIGHTS; i++) {
        weights[i].bytes = SIZE;
        snprintf(weights[i].name, sizeof weights[i].name, "blk.%d.ffn_up.weight", i);
    }
    ggml_backend_buffer_set_usage(ggml_backend_alloc_ctx_tensors(&cuda, weights, WEIGHTS), 1);
    CUdeviceptr small, weight = (CUdeviceptr)(uintptr_t)weights[WEIGHTS - 1].data;
    CHECK(cuMemAlloc_v2(&small, 4096));
    uint64_t n = 1;
    uint32_t value = 7;
    void *plain[] = {&small, &n, &value}, *streamed[] = {&weight, &n, &value};
    MEASURE_LAUNCH("cuLaunchKernel beside streaming", gpu, plain);
    MEASURE_LAUNCH("cuLaunchKernel of a streamed weight", gpu, streamed);
    return 0;
}
