/* Two drivers in one process, from files of their own, as WSL 2 has them. */
#include "check.h"

int main(void)
{
    void *first = dlopen("libcuda.so.1", RTLD_NOW), *second = dlopen("libcuda.so", RTLD_NOW);
    NEED(first && second && first != second);
    tell("first", passes((create_fn)dlsym(first, "cuEventCreate")));
    tell("second", passes((create_fn)dlsym(second, "cuEventCreate")));
    tell("first again", passes((create_fn)dlsym(first, "cuEventCreate")));
    return 0;
}
