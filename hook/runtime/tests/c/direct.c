/* A program linked against the driver: calls through its own PLT, and through a table. */
#include "check.h"

int cuEventCreate(void **, unsigned);
create_fn table[] = {cuEventCreate};

int main(void)
{
    tell("plt", passes(cuEventCreate));
    tell("plt_again", passes(cuEventCreate));
    tell("table", passes(table[0]));
    return 0;
}
