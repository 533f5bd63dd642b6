/* Children forked before and after the first call of the driver, with threads that resolve meanwhile. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int stop;
static void *churn(void *driver)
{
    /* Not dlopen: a fork in the middle of one leaves glibc's own list of objects half made. */
    while (!atomic_load(&stop)) {
        NEED(dlsym(driver, "cuMemAlloc_v2") && !dlsym(driver, "cuNoSuchThing"));
        NEED(dlerror());
    }
    return NULL;
}
static int child(void)
{
    fflush(stdout);
    pid_t pid = fork();
    NEED(pid >= 0);
    if (pid == 0) {
        alarm(20);
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        NEED(driver);
        exit(passes((create_fn)dlsym(driver, "cuEventCreate")) ? 10 : 11);
    }
    int status;
    NEED(waitpid(pid, &status, 0) == pid);
    NEED(WIFEXITED(status) && WEXITSTATUS(status) >= 10);
    return WEXITSTATUS(status) == 10;
}
int main(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    NEED(driver);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        NEED(pthread_create(&threads[i], NULL, churn, driver) == 0);
    int caught = 0;
    for (int i = 0; i < 40; i++)
        caught += child();
    printf("before %d\n", caught);
    tell("parent", passes((create_fn)dlsym(driver, "cuEventCreate")));
    /* Whether these are hooked only a driver with memory shows; here they must come back. */
    for (int i = 0; i < 40; i++)
        child();
    puts("after");
    tell("parent", passes((create_fn)dlsym(driver, "cuEventCreate")));
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
