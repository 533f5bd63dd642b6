/* Threads that resolve without pause while others open and close plugins, so that the hook patches under them.
 * Arguments: seed, plugins.
 */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int stop, misses;
static atomic_long looked, opened;
static char **plugins;
static int plugin_count;

static unsigned next(unsigned *state)
{
    return *state = *state * 1664525u + 1013904223u;
}
static void *look(void *seed)
{
    unsigned state = (unsigned)(long)seed;
    while (!atomic_load(&stop)) {
        void *driver = dlopen("libcuda.so.1", RTLD_NOW);
        NEED(driver);
        for (unsigned i = next(&state) % 50; i > 0; i--) {
            const char *names[] = {"cuEventCreate", "cuStreamCreate", "malloc", "cuMemAlloc", "cuNothing"};
            unsigned which = next(&state) >> 8;
            void *found = dlsym(driver, names[which % 5]);
            NEED((found != NULL) == (which % 5 != 4));
            if (which % 5 < 2 && !passes((create_fn)found))
                atomic_fetch_add(&misses, 1);
            atomic_fetch_add(&looked, 1);
        }
        dlerror();
        NEED(dlclose(driver) == 0);
    }
    return NULL;
}
static void *open_and_close(void *seed)
{
    unsigned state = (unsigned)(long)seed;
    while (!atomic_load(&stop)) {
        int flags = next(&state) & 0x10000 ? RTLD_NOW : RTLD_LAZY;
        void *plugin = dlopen(plugins[(next(&state) >> 8) % plugin_count], flags | RTLD_LOCAL);
        NEED(plugin);
        int (*call)(void) = (int (*)(void))dlsym(plugin, "plugin_call");
        NEED(call);
        if (!call())
            atomic_fetch_add(&misses, 1);
        NEED(dlclose(plugin) == 0);
        atomic_fetch_add(&opened, 1);
    }
    return NULL;
}
int main(int argc, char **argv)
{
    NEED(argc > 2);
    long seed = atol(argv[1]);
    plugins = argv + 2;
    plugin_count = argc - 2;
    /* The real driver stays once it is loaded; with odd seeds this one comes and goes under the threads. */
    if (seed % 2 == 0)
        NEED(dlopen("libcuda.so.1", RTLD_NOW));
    pthread_t threads[8];
    for (long i = 0; i < 8; i++)
        NEED(pthread_create(&threads[i], NULL, i < 5 ? look : open_and_close, (void *)(seed * 8 + i)) == 0);
    /* Stopping threads to patch is a signal, and cuts a sleep short. */
    for (int i = 0; i < 400; i++)
        usleep(1000);
    stop = 1;
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    if (getenv("COUNTS"))
        printf("looked %ld opened %ld ", looked, opened);
    NEED(looked > 0 && opened > 0);
    printf("misses %d\n", misses);
    return 0;
}
