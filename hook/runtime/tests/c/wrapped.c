/* Run under interposers: calls each route twice and prints how often an interposer saw them. */
#include "check.h"
#include <math.h>

int cuEventCreate(void **, unsigned);

int main(int argc, char **argv)
{
    (void)argv;
    volatile double angle = argc * 0.5;
    printf("cos %.6f\n", cos(angle));
    void *made;
    NEED(cuEventCreate(&made, 0) == 0 && cuEventCreate(&made, 0) == 0);
    create_fn found = (create_fn)dlsym(RTLD_DEFAULT, "cuEventCreate");
    NEED(found && found(&made, 0) == 0 && found(&made, 0) == 0);
    int (*calls)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "wrapper_calls");
    printf("wrapper %d\n", calls ? calls() : 0);
    return 0;
}
