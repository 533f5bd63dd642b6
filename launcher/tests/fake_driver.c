/* A libcuda.so.1 with just the calls that `greenboost probe` makes, working on ordinary memory. FAKE_DRIVER names one
 * fault: no-chunks (of VRAM), no-pin (of 64 MiB), no-file (page cache cannot be registered), old, no-gpu, init, hang (a kernel never ends), unreadable (HOST_NUMA memory reads as zeros to kernels), no-numa, refuse (registering
 * fails). */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t u64;
typedef struct { int type, id; } Location;
typedef struct { int type, handles; Location location; void *win32; unsigned char flags[8]; } Properties;
typedef struct { Location location; int flags; } Access;

static u64 chunk_address, chunk_size;
static int registered, chunk_is_host;

static int fault(const char *name) {
    const char *set = getenv("FAKE_DRIVER");
    return set && !strcmp(set, name);
}

int cuGetErrorName(int code, const char **text) {
    *text = code == 801 ? "CUDA_ERROR_NOT_SUPPORTED" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_INVALID_VALUE";
    return 0;
}
int cuDriverGetVersion(int *version) { *version = fault("old") ? 11040 : 13000; return 0; }
int cuInit(unsigned flags) { return flags ? 1 : fault("init") ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = !fault("no-gpu"); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "Fake GPU"); return 0; }
int cuDeviceGetUuid_v2(unsigned char uuid[16], int device) { memset(uuid, 0x11, 16); return device; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 75: *value = 9; return 0;
    case 76: *value = 0; return 0;
    case 102: *value = 1; return 0;
    case 134: *value = 0; return 0;
    case 141: *value = !fault("no-numa"); return 0;
    default: return 1;
    }
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &registered; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) {
    /* Whatever the probe made, it must have taken back. */
    return chunk_size || registered ? 1 : device;
}
int cuCtxSetCurrent(void *context) { return context ? 0 : 1; }
int cuCtxSynchronize(void) { return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 7ull << 30; *total = 8ull << 30; return 0; }
int cuMemAlloc_v2(u64 *address, size_t bytes) { *address = (u64)malloc(bytes); return 0; }
int cuMemFree_v2(u64 address) { free((void *)address); return 0; }
int cuMemcpyHtoD_v2(u64 to, const void *from, size_t bytes) { memcpy((void *)to, from, bytes); return 0; }
int cuMemcpyDtoH_v2(void *to, u64 from, size_t bytes) { memcpy(to, (void *)from, bytes); return 0; }
int cuMemGetAllocationGranularity(size_t *bytes, const Properties *p, int option) {
    *bytes = 2 << 20;
    return p->type == 1 && !option ? 0 : 1;
}
int cuMemCreate(u64 *handle, size_t bytes, const Properties *p, u64 flags) {
    *handle = bytes;
    chunk_is_host = p->location.type == 3;
    return (p->location.type == 3 || (p->location.type == 1 && !fault("no-chunks"))) && p->location.id == 0 && !flags ? 0 : 1;
}
int cuMemRelease(u64 handle) { return handle ? 0 : 1; }
int cuMemAddressReserve(u64 *address, size_t bytes, size_t alignment, u64 at, u64 flags) {
    (void)alignment;
    *address = (u64)mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at || flags;
}
int cuMemAddressFree(u64 address, size_t bytes) { return munmap((void *)address, bytes) ? 1 : 0; }
int cuMemMap(u64 address, size_t bytes, size_t offset, u64 handle, u64 flags) {
    chunk_address = address, chunk_size = bytes;
    return offset || flags || handle != bytes;
}
int cuMemUnmap(u64 address, size_t bytes) {
    chunk_size = 0;
    return mprotect((void *)address, bytes, PROT_NONE) ? 1 : 0;
}
int cuMemSetAccess(u64 address, size_t bytes, const Access *access, size_t count) {
    if (count != 1 || access->location.type != 1 || access->flags != 3) return 1;
    return mprotect((void *)address, bytes, PROT_READ | PROT_WRITE) ? 1 : 0;
}
int cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) {
    (void)address;
    if (fault("refuse")) return 801;
    registered = 1;
    if (flags == 11) return bytes == 4096 && !fault("no-file") ? 0 : (registered = 0, 801);
    if (bytes == 64 << 20 && fault("no-pin")) return registered = 0, 2;
    return (bytes == 2 << 20 || bytes == 64 << 20) && flags == 3 ? 0 : 1;
}
int cuMemHostUnregister(void *address) { registered = 0; return address ? 0 : 1; }
int cuModuleLoadData(void **module, const void *image) { *module = &registered; return strstr(image, "gb_probe") ? 0 : 1; }
int cuModuleUnload(void *module) { return module ? 0 : 1; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    static int reader;
    *function = strcmp(name, "gb_probe") ? &reader : module;
    return strcmp(name, "gb_probe") && strcmp(name, "gb_probe_read") ? 1 : 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    if (!function || gx * gy * gz * bx * by * bz == 0 || shared || stream || extra) return 1;
    if (fault("hang")) sleep(600);
    uint32_t *source = *(uint32_t **)parameters[0], *target = *(uint32_t **)parameters[1];
    int blind = fault("unreadable") && chunk_is_host && (u64)source == chunk_address && chunk_size;
    for (uint32_t i = 0; i < *(uint32_t *)parameters[2]; i++) {
        target[i] = (blind ? 0 : source[i]) ^ 0x5bd1e995;
        if (function == &registered) source[i]++;
    }
    return 0;
}
