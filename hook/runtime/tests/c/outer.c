#include "check.h"

int open_inner(void)
{
    void *inner = dlopen("inner.so", RTLD_NOW);
    NEED(inner);
    NEED(dlopen("$ORIGIN/deep/inner.so", RTLD_NOW) == inner);
    int (*value)(void) = (int (*)(void))dlsym(inner, "plugin_call");
    NEED(value);
    return value();
}
