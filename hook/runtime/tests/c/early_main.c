#include "check.h"

int early_caught(void);
int main(void)
{
    tell("early", early_caught());
    return 0;
}
