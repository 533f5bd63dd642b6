// SPDX-License-Identifier: GPL-2.0-only
/*
 * The level: ok, low, critical. It rises at once and falls only after a while
 * of calm above a higher mark, so that it does not flutter.
 *
 * At low the reserve and unused shared objects go back to the machine; at
 * critical nothing is allocated, before the kernel has to kill anybody. Memory
 * in use is never taken: its owner is told (read, poll, eventfd) and answers.
 */
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>

#include "greenboost.h"
#include "trace.h"

#define CALM_TICKS	5
#define HORIZON_MS	1000

u64 gb_low_mark;
u64 gb_critical_mark;
atomic64_t gb_level_counts[3];

static u32 level, level_causes;
static u64 decline;
static unsigned int period;
static struct task_struct *watchdog;

u64 gb_available(void)
{
	long pages = si_mem_available();

	return pages > 0 ? (u64)pages << PAGE_SHIFT : 0;
}

static DEFINE_MUTEX(marks);

/* Critical is worse than low: its mark is never the higher one. */
int gb_low_mark_set(u64 bytes)
{
	int err = -EINVAL;

	mutex_lock(&marks);
	if (bytes >= gb_critical_mark) {
		WRITE_ONCE(gb_low_mark, bytes);
		err = 0;
	}
	mutex_unlock(&marks);
	return err;
}

int gb_critical_mark_set(u64 bytes)
{
	int err = -EINVAL;

	mutex_lock(&marks);
	if (bytes <= gb_low_mark) {
		WRITE_ONCE(gb_critical_mark, bytes);
		err = 0;
	}
	mutex_unlock(&marks);
	return err;
}

u64 gb_decline(void)
{
	return READ_ONCE(decline);
}

u32 gb_level(u32 *causes)
{
	if (causes)
		*causes = READ_ONCE(level_causes);
	return READ_ONCE(level);
}

/*
 * How much must be freed before so much can be taken without coming near the
 * critical mark. When the level is critical, no amount is enough.
 */
u64 gb_shortage(u64 bytes)
{
	u64 wanted = bytes + READ_ONCE(gb_critical_mark);
	u64 available = gb_available();

	if (gb_level(NULL) == GB_LEVEL_CRITICAL)
		return U64_MAX;
	return wanted > available ? wanted - available : 0;
}

static bool pool_nearly_full(u64 bytes)
{
	u64 limit = READ_ONCE(gb_limits[GB_LIMIT_POOL]);

	return limit && bytes > limit - limit / 16;
}

/* Marks are raised by a quarter to see whether the level may fall. */
static u32 judge(u64 available, bool falling, u32 *causes)
{
	u64 low = READ_ONCE(gb_low_mark);
	u64 critical = READ_ONCE(gb_critical_mark);
	u64 loss = div_u64(decline * HORIZON_MS, MSEC_PER_SEC);
	u64 soon = available > loss ? available - loss : 0;
	u64 used = atomic64_read(&gb_pool_used);
	u32 now = GB_LEVEL_OK;

	*causes = 0;
	if (falling) {
		low += low / 4;
		critical += critical / 4;
		used += used / 32;
	}
	if (pool_nearly_full(used)) {
		*causes |= GB_CAUSE_POOL;
		now = GB_LEVEL_LOW;
	}
	/* A fall counts where memory is short already, or a little later. */
	if (available < low) {
		*causes |= GB_CAUSE_MEMORY;
		now = GB_LEVEL_LOW;
	} else if (available < 2 * low && soon < low) {
		*causes |= GB_CAUSE_DECLINE;
		now = GB_LEVEL_LOW;
	}
	if (available < critical) {
		now = GB_LEVEL_CRITICAL;
	} else if (available < low && soon < critical) {
		*causes |= GB_CAUSE_DECLINE;
		now = GB_LEVEL_CRITICAL;
	}
	return now;
}

/*
 * What the reserve takes is no decline: it comes back when it is needed. On a
 * busy machine a tick comes late, and what was lost since was lost more slowly.
 */
static void measure(u64 available)
{
	static u64 before;
	static ktime_t looked;
	ktime_t now = ktime_get();
	u64 ms = max(ktime_ms_delta(now, looked), 1LL);
	u64 rate = 0;

	available += gb_reserve_ready();
	if (before > available)
		rate = div64_u64((before - available) * MSEC_PER_SEC, ms);
	before = available;
	looked = now;
	WRITE_ONCE(decline, (3 * decline + rate) / 4);
}

static void set_level(u32 to, u32 causes, u64 available)
{
	WRITE_ONCE(level_causes, causes);
	if (to == level)
		return;
	trace_gb_level(level, to, causes, available);
	atomic64_inc(&gb_level_counts[to]);
	WRITE_ONCE(level, to);
	gb_reserve_kick();
}

static void tick(void)
{
	static unsigned int calm;
	u64 available = gb_available();
	u32 causes, now, relaxed, relaxed_causes;
	struct gb_client *client;

	measure(available);
	now = judge(available, false, &causes);
	relaxed = judge(available, true, &relaxed_causes);
	if (now >= level) {
		calm = 0;
		set_level(now, causes, available);
	} else if (relaxed >= level) {
		calm = 0;
	} else if (++calm >= CALM_TICKS) {
		calm = 0;
		set_level(relaxed, relaxed_causes, available);
	}

	if (level != GB_LEVEL_OK)
		gb_reserve_drop(0);
	gb_share_tick(level);
	gb_buffer_reap(false);

	mutex_lock(&gb_clients_lock);
	list_for_each_entry(client, &gb_clients, node) {
		gb_spill_tick(client);
		gb_client_update(client, max(level, client->spill_level),
				 level_causes | client->spill_causes);
	}
	mutex_unlock(&gb_clients_lock);
}

static int watch(void *unused)
{
	while (!kthread_should_stop()) {
		tick();
		schedule_timeout_interruptible(msecs_to_jiffies(period));
	}
	return 0;
}

int gb_watchdog_start(unsigned int period_ms)
{
	struct task_struct *task;

	period = clamp(period_ms, 10U, 10000U);
	task = kthread_run(watch, NULL, "greenboost_dog");
	if (IS_ERR(task))
		return PTR_ERR(task);
	watchdog = task;
	return 0;
}

void gb_watchdog_stop(void)
{
	kthread_stop(watchdog);
}
