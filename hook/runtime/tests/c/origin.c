/* A search that depends on who calls: run-time paths and $ORIGIN are the caller's. */
#include "check.h"

int main(void)
{
    /* Found through this program's RUNPATH. */
    void *outer = dlopen("outer.so", RTLD_NOW);
    NEED(outer);
    int (*open_inner)(void) = (int (*)(void))dlsym(outer, "open_inner");
    NEED(open_inner);
    printf("inner %d\n", open_inner());
    /* Not found: inner.so is in outer.so's folder, not in ours. */
    printf("%s\n", dlopen("inner.so", RTLD_NOW | RTLD_NOLOAD) ? "loaded" : "not loaded");
    printf("%s\n", dlopen("$ORIGIN/plugins/outer.so", RTLD_NOW) == outer ? "same" : "another");
    return 0;
}
