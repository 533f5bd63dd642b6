/* A library whose constructor uses the driver before anybody else had a turn. */
#include "check.h"

static int caught;
__attribute__((constructor(101))) static void begin(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    caught = passes((create_fn)dlsym(driver, "cuEventCreate"));
}
int early_caught(void)
{
    return caught;
}
