// SPDX-License-Identifier: GPL-2.0-only
/*
 * The levels, of RAM and of the spill path, and who hears of them: everybody
 * who has the device open, by read or poll. A change is told at once, and
 * telling waits for nobody.
 */
#include <linux/poll.h>

#include "greenboost.h"

#define SPILL_CAUSES (GB_CAUSE_SPILL | GB_CAUSE_SPILL_GONE)

DECLARE_WAIT_QUEUE_HEAD(gb_news);
atomic64_t gb_level_counts[3];	/* how often RAM came to each */

static DEFINE_SPINLOCK(lock);
static struct gb_state now;

/* Critical is worse than low: its mark is never the higher one. */
int gb_marks_set(struct gb_marks *marks, u64 low, u64 critical)
{
	if (critical > low)
		return -EINVAL;
	WRITE_ONCE(marks->low, low);
	WRITE_ONCE(marks->critical, critical);
	return 0;
}

/* It falls from a level a quarter later than it rises to it. */
u32 gb_level_of(const struct gb_marks *marks, u64 left, u32 level)
{
	u64 low = READ_ONCE(marks->low);
	u64 critical = READ_ONCE(marks->critical);

	if (level == GB_LEVEL_CRITICAL)
		critical += critical / 4;
	if (level != GB_LEVEL_OK)
		low += low / 4;
	if (left < critical)
		return GB_LEVEL_CRITICAL;
	return left < low ? GB_LEVEL_LOW : GB_LEVEL_OK;
}

struct gb_state gb_state(void)
{
	struct gb_state state;

	spin_lock(&lock);
	state = now;
	spin_unlock(&lock);
	return state;
}

u32 gb_ram_level(void)
{
	return READ_ONCE(now.ram_level);
}

/* A full pool is a level, but no want of RAM. */
bool gb_ram_short(void)
{
	return READ_ONCE(now.causes) & (GB_CAUSE_MEMORY | GB_CAUSE_DECLINE);
}

static void tell(void)
{
	wake_up_interruptible_poll(&gb_news, EPOLLIN | EPOLLRDNORM | EPOLLPRI);
}

/* Nothing, where somebody else was quicker. */
void gb_ram_level_set(u32 from, u32 to, u32 causes)
{
	bool mine;

	spin_lock(&lock);
	mine = now.ram_level == from;
	if (mine) {
		now.ram_level = to;
		now.causes = (now.causes & SPILL_CAUSES) | causes;
		now.seq += to != from;
	}
	spin_unlock(&lock);
	if (!mine || to == from)
		return;
	tell();
	atomic64_inc(&gb_level_counts[to]);
}

void gb_spill_level_set(u32 to, u32 causes, u64 free)
{
	bool changed;

	spin_lock(&lock);
	changed = now.spill_level != to;
	now.spill_level = to;
	now.causes = (now.causes & ~SPILL_CAUSES) | causes;
	now.spill_free = free;
	now.seq += changed;
	spin_unlock(&lock);
	if (changed)
		tell();
}
