/* ggml opens a backend, scores it, closes it and opens it again; the driver goes with it. Between the rounds something
 * else may take its place in memory.
 */
#include "check.h"
#include <sys/mman.h>

int main(int argc, char **argv)
{
    NEED(argc == 2);
    for (int round = 0; round < 6; round++) {
        void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        NEED(plugin);
        int (*call)(void) = (int (*)(void))dlsym(plugin, "plugin_call");
        int (*table)(void) = (int (*)(void))dlsym(plugin, "plugin_table_call");
        NEED(call && table);
        tell("plt", call());
        tell("table", table());
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        create_fn create = (create_fn)dlsym(driver, "cuEventCreate");
        tell("dlsym", passes(create));
        NEED(dlclose(driver) == 0 && dlclose(plugin) == 0);
        NEED(!dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD));
        if (round % 2)
            NEED(mmap(NULL, (size_t)(round + 1) << 21, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    }
    return 0;
}
