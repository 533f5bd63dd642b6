/* What a look-up in an open library says must not depend on the hook. */
#include "check.h"

int main(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    const char *names[] = {"cuMemcpy3D_v2", "cuNoSuchThing", "nothing", ""};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        NEED(!dlsym(driver, names[i]));
        printf("%s\n", dlerror());
        NEED(!dlvsym(driver, names[i], "DRIVER_9"));
        printf("%s\n", dlerror());
        NEED(!dlerror());
    }
    NEED(dlclose(driver) == 0);
    return 0;
}
