/* How many times this process reads anything while a library that calls the driver comes and goes ten times. */
#include "check.h"

static long reads(void)
{
    char line[64];
    long count = -1;
    FILE *io = fopen("/proc/self/io", "r");
    while (io && fgets(line, sizeof line, io))
        if (sscanf(line, "syscr: %ld", &count) == 1)
            break;
    if (io)
        fclose(io);
    return count;
}

static void come_and_go(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    NEED(library);
    NEED(dlclose(library) == 0);
}

int main(int argc, char **argv)
{
    /* The driver stays, as it does in programs; what is done once is done. */
    NEED(argc == 2 && dlopen("libcuda.so.1", RTLD_NOW) && reads() >= 0);
    come_and_go(argv[1]);
    long before = reads();
    for (int i = 0; i < 10; i++)
        come_and_go(argv[1]);
    printf("reads %ld\n", reads() - before);
    return 0;
}
