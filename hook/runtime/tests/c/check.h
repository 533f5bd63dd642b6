/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*create_fn)(void **, unsigned);
typedef int (*resolve_fn)(const char *, void **, int, unsigned long);
typedef int (*resolve_v2_fn)(const char *, void **, int, unsigned long, int *);

#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            const char *message_ = dlerror();                                                                          \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, message_ ? message_ : "-");                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Whether a call through `create` passes the hook. */
static inline int passes(create_fn create)
{
    void *made = NULL;
    NEED(create && create(&made, 0) == 0);
    return made != NULL;
}
static inline void tell(const char *route, int caught)
{
    printf("%s %s\n", route, caught ? "caught" : "missed");
    fflush(stdout);
}
#endif
