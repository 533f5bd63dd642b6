/* Tells whether it is left alone: the loader's code as it is on disk, no file of the hook open; then runs its arguments. */
#include "check.h"
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    tell("self", passes((create_fn)dlsym(driver, "cuEventCreate")));
    if (argv[1]) {
        execv(argv[1], argv + 1);
        return 1;
    }
    return 0;
}
