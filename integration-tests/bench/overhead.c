/* What single driver calls cost this process, in nanoseconds: run once as it is and once under gb-launch, by
 * `cargo xtask bench overhead`. Prints one `NAME NANOSECONDS` a line.
 *
 * Launches are measured on a stream held up by a host function: they queue, nothing runs beside the clock, and no
 * thread is woken by them. What is timed is the path from the program through the hook into the driver's queue.
 */
#define _GNU_SOURCE
#include "../fixtures/c/cu.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern CUresult cuInit(unsigned);
extern CUresult cuDeviceGet(CUdevice *, int);
extern CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice);
extern CUresult cuCtxSetCurrent(CUcontext);
extern CUresult cuCtxSynchronize(void);
extern CUresult cuMemGetInfo_v2(size_t *, size_t *);
extern CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
extern CUresult cuMemFree_v2(CUdeviceptr);
extern CUresult cuModuleLoadData(CUmodule *, const void *);
extern CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
extern CUresult cuStreamCreate(CUstream *, unsigned);
extern CUresult cuLaunchHostFunc(CUstream, void (*)(void *), void *);
extern CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                               void **, void **);

enum { BATCHES = 400, CALLS = 64 };

static void check(CUresult result, const char *what)
{
    if (result) {
        fprintf(stderr, "%s answered %d\n", what, result);
        exit(1);
    }
}
#define CHECK(call) check((call), #call)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The median of the batches, each divided by its calls. */
static void report(const char *name, double *batches, int calls)
{
    qsort(batches, BATCHES, sizeof *batches, ascending);
    printf("%s %.2f\n", name, batches[BATCHES / 2] / calls);
}

#define MEASURE(name, calls, before, call, after)                                                                      \
    do {                                                                                                               \
        double batches[BATCHES];                                                                                       \
        for (int batch = -BATCHES / 10; batch < BATCHES; batch++) { /* the first ones warm up */                       \
            before;                                                                                                    \
            double from = now();                                                                                       \
            for (int i = 0; i < (calls); i++)                                                                          \
                call;                                                                                                  \
            if (batch >= 0)                                                                                            \
                batches[batch] = now() - from;                                                                         \
            after;                                                                                                     \
        }                                                                                                              \
        report(name, batches, calls);                                                                                  \
    } while (0)

static atomic_int held, holding;

static void hold(void *unused)
{
    (void)unused;
    atomic_store(&holding, 1);
    while (atomic_load(&held))
        sched_yield();
}

static void *volatile found;

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: overhead FILE.ptx\n");
        return 2;
    }
    FILE *file = fopen(arguments[1], "rb");
    static char ptx[1 << 20];
    if (!file || !fread(ptx, 1, sizeof ptx - 1, file)) {
        perror(arguments[1]);
        return 1;
    }
    fclose(file);

    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction fill;
    CUstream stream;
    CUdeviceptr words, block;
    size_t free_bytes, total;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&fill, module, "gb_fill_u32"));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAlloc_v2(&words, 4096));

    uint64_t n = 1;
    uint32_t value = 7;
    void *parameters[] = {&words, &n, &value};
    MEASURE("cuLaunchKernel", CALLS,
            (atomic_store(&held, 1), atomic_store(&holding, 0), CHECK(cuLaunchHostFunc(stream, hold, NULL)));
            while (!atomic_load(&holding)) sched_yield(),
            CHECK(cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL)),
            (atomic_store(&held, 0), CHECK(cuCtxSynchronize())));
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
