/* Every route to the driver that needs no link-time dependency on it. Arguments: plugin libraries to open as well. */
#include "check.h"

int main(int argc, char **argv)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    tell("dlsym", passes((create_fn)dlsym(driver, "cuEventCreate")));
    tell("dlvsym", passes((create_fn)dlvsym(driver, "cuEventCreate", "DRIVER_1")));
    NEED(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL));
    tell("default", passes((create_fn)dlsym(RTLD_DEFAULT, "cuEventCreate")));

    void *found = NULL;
    int status = -1;
    resolve_fn resolve = (resolve_fn)dlsym(driver, "cuGetProcAddress");
    NEED(resolve && resolve("cuEventCreate", &found, 2000, 1) == 0);
    tell("proc_address", passes((create_fn)found));
    resolve_v2_fn resolve_v2 = (resolve_v2_fn)dlsym(driver, "cuGetProcAddress_v2");
    NEED(resolve_v2 && resolve_v2("cuEventCreate", &found, 12000, 0, &status) == 0 && status == 0);
    tell("proc_address_v2", passes((create_fn)found));
    NEED(resolve_v2("cuStreamCreate", &found, 12000, 0, NULL) == 0);
    tell("twin", passes((create_fn)found));
    NEED(resolve_v2("cuGetProcAddress", &found, 12000, 0, NULL) == 0);
    resolve_v2_fn again = (resolve_v2_fn)found;
    NEED(again("cuEventCreate", &found, 12000, 0, NULL) == 0);
    tell("resolver_of_resolver", passes((create_fn)found));
    /* A caller of an old version gets that version, whatever it is called. */
    NEED(resolve_v2("cuMemAlloc", &found, 2000, 0, NULL) == 0);
    NEED(!passes((create_fn)found));
    NEED(resolve_v2("cuNoSuchThing", &found, 12000, 0, &status) != 0 && status == 1 && !found);
    int (*finds_itself)(void) = (int (*)(void))dlsym(driver, "cuTestFindsItself");
    NEED(finds_itself && finds_itself());

    for (int plugin = 1; plugin < argc; plugin++) {
        for (int deep = 0; deep < 2; deep++) {
            void *library = dlopen(argv[plugin], RTLD_NOW | RTLD_LOCAL | (deep ? RTLD_DEEPBIND : 0));
            NEED(library);
            int (*call)(void) = (int (*)(void))dlsym(library, "plugin_call");
            int (*look)(void) = (int (*)(void))dlsym(library, "plugin_look");
            NEED(call && look);
            tell(deep ? "deepbind_plt" : "plugin_plt", call());
            tell(deep ? "deepbind_dlsym" : "plugin_dlsym", look());
            NEED(dlclose(library) == 0);
        }
    }
    return 0;
}
