// SPDX-License-Identifier: GPL-2.0-only
/* One fault for every checker: what does not notice its own is not alive. */
#include <linux/bug.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "peer.h"

static DEFINE_MUTEX(fault_a);
static DEFINE_MUTEX(fault_b);
static DEFINE_SPINLOCK(fault_spin);

void peer_inject(unsigned long what)
{
	int shift = 40;
	int *gone;

	switch (what) {
	case 0:
		WARN(1, "injected: the harness must notice this");
		break;
	case 1:	/* KASAN */
		gone = kmalloc(sizeof(*gone), GFP_KERNEL);
		kfree(gone);
		READ_ONCE(*gone);
		break;
	case 2:	/* lockdep */
		mutex_lock(&fault_a);
		mutex_lock(&fault_b);
		mutex_unlock(&fault_b);
		mutex_unlock(&fault_a);
		mutex_lock(&fault_b);
		mutex_lock(&fault_a);
		mutex_unlock(&fault_a);
		mutex_unlock(&fault_b);
		break;
	case 3:	/* kmemleak */
		for (shift = 0; shift < 16; shift++)
			gone = kmalloc(1000, GFP_KERNEL);
		break;
	case 4:	/* DEBUG_ATOMIC_SLEEP */
		spin_lock(&fault_spin);
		might_sleep();
		spin_unlock(&fault_spin);
		break;
	case 5:	/* UBSAN */
		OPTIMIZER_HIDE_VAR(shift);
		shift = 1 << shift;
		OPTIMIZER_HIDE_VAR(shift);
		break;
	}
}
