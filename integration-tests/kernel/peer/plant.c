// SPDX-License-Identifier: GPL-2.0-only
/* One fault for every checker: what does not notice its own is not alive. */
#include <linux/bug.h>
#include <linux/kernel.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "peer.h"

static DEFINE_MUTEX(plant_a);
static DEFINE_MUTEX(plant_b);
static DEFINE_SPINLOCK(plant_spin);

void peer_plant(unsigned long what)
{
	int shift = 40;
	int *gone;

	switch (what) {
	case 0:
		WARN(1, "planted: the harness must notice this");
		break;
	case 1:	/* KASAN */
		gone = kmalloc(sizeof(*gone), GFP_KERNEL);
		kfree(gone);
		READ_ONCE(*gone);
		break;
	case 2:	/* lockdep */
		mutex_lock(&plant_a);
		mutex_lock(&plant_b);
		mutex_unlock(&plant_b);
		mutex_unlock(&plant_a);
		mutex_lock(&plant_b);
		mutex_lock(&plant_a);
		mutex_unlock(&plant_a);
		mutex_unlock(&plant_b);
		break;
	case 3:	/* kmemleak */
		for (shift = 0; shift < 16; shift++)
			gone = kmalloc(1000, GFP_KERNEL);
		break;
	case 4:	/* DEBUG_ATOMIC_SLEEP */
		spin_lock(&plant_spin);
		might_sleep();
		spin_unlock(&plant_spin);
		break;
	case 5:	/* UBSAN */
		OPTIMIZER_HIDE_VAR(shift);
		shift = 1 << shift;
		OPTIMIZER_HIDE_VAR(shift);
		break;
	}
}
