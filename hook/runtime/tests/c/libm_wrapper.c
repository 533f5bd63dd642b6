/* An interposer of somebody else's: counts what it passes on to the next definition. */
#include "check.h"

static int calls;
int wrapper_calls(void)
{
    return calls;
}
double cos(double x)
{
    static double (*next)(double);
    if (!next)
        next = (double (*)(double))dlsym(RTLD_NEXT, "cos");
    NEED(next && next != cos);
    calls++;
    return next(x);
}
