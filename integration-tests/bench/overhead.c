/* What single driver calls cost this process, in nanoseconds: run once as it is and once under gb-launch, by
 * `cargo xtask bench overhead`. Prints one `NAME NANOSECONDS` a line.
 */
#define _GNU_SOURCE
#include "timing.h"

#include <dlfcn.h>

static void *volatile found;

int main(int count, char **arguments)
{
    CUdeviceptr words, block;
    size_t free_bytes, total;
    struct gpu gpu = open_gpu(count, arguments);
    CHECK(cuMemAlloc_v2(&words, 4096));

    uint64_t n = 1;
    uint32_t value = 7;
    void *parameters[] = {&words, &n, &value};
    MEASURE_LAUNCH("cuLaunchKernel", gpu, parameters);
    MEASURE("cuMemGetInfo", CALLS, (void)0, CHECK(cuMemGetInfo_v2(&free_bytes, &total)), (void)0);
    MEASURE("cuMemAlloc+cuMemFree 1 MiB", 8, (void)0, (CHECK(cuMemAlloc_v2(&block, 1 << 20)), CHECK(cuMemFree_v2(block))),
            (void)0);

    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    MEASURE("dlsym, a driver function", CALLS, (void)0, found = dlsym(driver, "cuMemGetInfo_v2"), (void)0);
    MEASURE("dlsym, any other name", CALLS, (void)0, found = dlsym(RTLD_DEFAULT, "strtoul"), (void)0);
    return found ? 0 : 1;
}
