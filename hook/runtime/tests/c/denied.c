/* Runs a program where memory cannot be both written and executed:
 *
 *   denied seccomp|mprotect|mdwe PROGRAM [ARGUMENT ...]
 *
 * as systemd's MemoryDenyWriteExecute= has it, with only mprotect refusing, and as PR_SET_MDWE of the kernel. Exits with 77
 * where this kernel has no such thing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SET_MDWE = 65, REFUSE_EXEC_GAIN = 1, THIRD_ARGUMENT = offsetof(struct seccomp_data, args[2]) };

static int filter(int mmap_too)
{
    const int both = PROT_WRITE | PROT_EXEC;
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mmap_too ? SYS_mmap : SYS_mprotect, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, THIRD_ARGUMENT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, both),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, both, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int failed = !strcmp(argv[1], "mdwe") ? prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)
                                          : filter(!strcmp(argv[1], "seccomp"));
    if (failed)
        return 77;
    execv(argv[2], argv + 2);
    return 2;
}
