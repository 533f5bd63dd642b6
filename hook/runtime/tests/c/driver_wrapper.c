/* An interposer of the driver: another tool that stands in the same place as the hook, before or behind it.
 * EXPLICIT: it asks the library itself and not for the next definition.
 */
#include "check.h"

static int calls;
int wrapper_calls(void)
{
    return calls;
}
int cuEventCreate(void **made, unsigned flags)
{
    static create_fn next;
    if (!next)
#ifdef EXPLICIT
        next = (create_fn)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuEventCreate");
#else
        next = (create_fn)dlsym(RTLD_NEXT, "cuEventCreate");
#endif
    NEED(next && next != cuEventCreate);
    /* The hook and this interposer calling each other would not end. */
    NEED(++calls < 100);
    return next(made, flags);
}
