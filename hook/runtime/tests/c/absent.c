/* On a machine without a driver nothing may look as if there were one. */
#include "check.h"
#include <errno.h>

static void gone(const char *route, void *handle, const char *name)
{
    dlerror();
    errno = 1234;
    void *found = dlsym(handle, name);
    int error = errno;
    const char *message = dlerror();
    printf("%s %s %s %s errno %d\n", route, name, found ? "found" : "absent",
           message && strstr(message, "undefined symbol") && strstr(message, name) ? "told" : "not told", error);
    printf("%s\n", dlerror() ? "told twice" : "told once");
}

int main(void)
{
    const char *names[] = {"cuMemAlloc_v2", "cuGetProcAddress", "nvmlDeviceGetMemoryInfo", "cuNoSuchThing", "no_such_thing"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        gone("default", RTLD_DEFAULT, names[i]);
        gone("next", RTLD_NEXT, names[i]);
        gone("program", dlopen(NULL, RTLD_NOW), names[i]);
    }
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    const char *message = dlerror();
    printf("%s %s\n", driver ? "opened" : "not opened", message ? message : "-");
    void *broken = dlopen("/nonexistent/x.so", RTLD_NOW);
    message = dlerror();
    printf("%s %s\n", broken ? "opened" : "not opened", message ? message : "-");
    return 0;
}
