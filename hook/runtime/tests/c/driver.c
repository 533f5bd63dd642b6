/* A libcuda.so.1 that can do one thing: tell whether it was called by the hook. Every "create" writes 1 if its caller is
 * the hook and 0 if it is not; the rest is what a program needs to reach it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

static int hooked(void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) && strstr(info.dli_fname, "greenboost_hook") != NULL;
}
#define CREATE(name)                                                                                                   \
    int name(void **made, unsigned flags)                                                                              \
    {                                                                                                                  \
        (void)flags;                                                                                                   \
        *made = (void *)(long)hooked(__builtin_return_address(0));                                                     \
        return 0;                                                                                                      \
    }
CREATE(cuEventCreate)
CREATE(cuStreamCreate)
/* The driver may answer with an internal function instead of the exported one. */
#define hidden static
hidden CREATE(twin_of_cuStreamCreate)
/* The 32-bit form: another ABI, never to be replaced. */
CREATE(cuMemAlloc)
int cuMemAlloc_v2(void **made, unsigned long bytes)
{
    *made = (void *)bytes;
    return 0;
}
int cuMemFree_v2(unsigned long address)
{
    (void)address;
    return 0;
}
int cuInit(unsigned flags)
{
    (void)flags;
    return 0;
}

int cuGetProcAddress(const char *name, void **found, int version, unsigned long flags);
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long flags, int *status);

static int look_up(const char *name, void **found, int version)
{
    *found = NULL;
    if (!name)
        return 1;
    if (!strcmp(name, "cuGetProcAddress"))
        *found = version >= 12000 ? (void *)cuGetProcAddress_v2 : (void *)cuGetProcAddress;
    else if (!strcmp(name, "cuEventCreate"))
        *found = (void *)cuEventCreate;
    else if (!strcmp(name, "cuStreamCreate"))
        *found = (void *)twin_of_cuStreamCreate;
    else if (!strcmp(name, "cuMemAlloc"))
        *found = version >= 3020 ? (void *)cuMemAlloc_v2 : (void *)cuMemAlloc;
    return *found ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long flags)
{
    (void)flags;
    return look_up(name, found, version);
}
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long flags, int *status)
{
    (void)flags;
    int result = look_up(name, found, version);
    if (status)
        *status = result ? 1 : 0;
    return result;
}
/* The driver looks itself up, and must find itself. */
int cuTestFindsItself(void)
{
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    return self && dlsym(self, "cuEventCreate") == (void *)cuEventCreate;
}
