/* Timing of single calls, for the programs of `cargo xtask bench overhead`: batches of calls, and their median. */
#ifndef GB_TIMING_H
#define GB_TIMING_H

#include "../fixtures/c/cu.h"

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

/* The device, its context current, and a kernel that writes words. */
struct gpu {
    CUcontext context;
    CUfunction fill;
    CUstream stream;
};

static struct gpu open_gpu(int count, char **arguments)
{
    struct gpu gpu;
    CUdevice device;
    CUmodule module;
    static char ptx[1 << 20];
    if (count != 2) {
        fprintf(stderr, "usage: %s FILE.ptx\n", arguments[0]);
        exit(2);
    }
    FILE *file = fopen(arguments[1], "rb");
    if (!file || !fread(ptx, 1, sizeof ptx - 1, file)) {
        perror(arguments[1]);
        exit(1);
    }
    fclose(file);
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&gpu.context, device));
    CHECK(cuCtxSetCurrent(gpu.context));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&gpu.fill, module, "gb_fill_u32"));
    CHECK(cuStreamCreate(&gpu.stream, 1));
    return gpu;
}

/* A launch on a stream held up by a host function: they queue, nothing runs beside the clock, and no thread is woken by
 * them. What is timed is the path from the program through the hook into the driver's queue. */
#define MEASURE_LAUNCH(name, gpu, parameters)                                                                          \
    MEASURE(name, CALLS,                                                                                               \
            (atomic_store(&held, 1), atomic_store(&holding, 0), CHECK(cuLaunchHostFunc((gpu).stream, hold, NULL)));    \
            while (!atomic_load(&holding)) sched_yield(),                                                              \
            CHECK(cuLaunchKernel((gpu).fill, 1, 1, 1, 1, 1, 1, 0, (gpu).stream, parameters, NULL)),                    \
            (atomic_store(&held, 0), CHECK(cuCtxSynchronize())))

#endif
