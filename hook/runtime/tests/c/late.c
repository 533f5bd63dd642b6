/* The driver comes while other threads wait in the kernel, in calls that a signal would end, and one for its vfork. Prints
 * what came of the calls, and whether the driver's functions are caught.
 */
#include "check.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAITERS = 3 };
static int ends[2];
static int wrong[WAITERS];
static atomic_int ready, back;

static void *wait_in(void *which)
{
    long kind = (long)which;
    struct pollfd end = {ends[0], POLLIN, 0};
    struct timespec soon = {1, 500000000};
    char byte;
    atomic_fetch_add(&ready, 1);
    errno = 0;
    int result = kind == 0 ? poll(&end, 1, 60000) : kind == 1 ? -clock_nanosleep(CLOCK_MONOTONIC, 0, &soon, NULL)
                                                              : (int)read(ends[0], &byte, 1);
    wrong[kind] = result < 0;
    return NULL;
}

/* The thread cannot run while its child does, whatever is sent to it. */
static void *fork_and_wait(void *seconds)
{
    char *arguments[] = {"sleep", seconds, NULL};
    pid_t child = vfork();
    if (child == 0) {
        struct timespec time = {2, 0};
        while (nanosleep(&time, &time))
            ;
        execv("/bin/true", arguments);
        _exit(1);
    }
    atomic_store(&back, 1);
    waitpid(child, NULL, 0);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[WAITERS + 1];
    NEED(argc == 2 && pipe(ends) == 0);
    for (long kind = 0; kind < WAITERS; kind++)
        NEED(pthread_create(&threads[kind], NULL, wait_in, (void *)kind) == 0);
    NEED(pthread_create(&threads[WAITERS], NULL, fork_and_wait, "1") == 0);
    struct timespec moment = {0, 300000000};
    while (atomic_load(&ready) < WAITERS)
        nanosleep(&moment, NULL);
    nanosleep(&moment, NULL);

    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    NEED(driver && plugin);
    printf("loaded %s the vfork\n", atomic_load(&back) ? "after" : "during");
    tell("dlsym", passes((create_fn)dlsym(driver, "cuEventCreate")));
    void *found = NULL;
    resolve_v2_fn resolve = (resolve_v2_fn)dlsym(driver, "cuGetProcAddress_v2");
    NEED(resolve && resolve("cuEventCreate", &found, 12000, 0, NULL) == 0);
    tell("proc_address_v2", passes((create_fn)found));
    tell("plt", ((int (*)(void))dlsym(plugin, "plugin_call"))());

    NEED(write(ends[1], "xx", 2) == 2);
    for (int i = 0; i <= WAITERS; i++)
        pthread_join(threads[i], NULL);
    printf("poll %d nanosleep %d read %d\n", wrong[0], wrong[1], wrong[2]);
    return 0;
}
