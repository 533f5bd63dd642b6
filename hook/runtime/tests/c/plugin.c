/* A plugin linked against the driver, as libggml-cuda is. */
#include "check.h"

int cuEventCreate(void **, unsigned);
/* A table of functions: pointers that are relocated as data. */
create_fn plugin_table[] = {cuEventCreate};

int plugin_call(void)
{
    return passes(cuEventCreate);
}
int plugin_table_call(void)
{
    return passes(plugin_table[0]);
}
int plugin_look(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    return passes((create_fn)dlsym(driver, "cuEventCreate"));
}
