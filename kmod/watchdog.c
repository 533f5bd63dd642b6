// SPDX-License-Identifier: GPL-2.0-only
/*
 * The level of RAM: ok, low, critical. It rises at once and falls only after a
 * while of calm above a higher mark, so that it does not flutter.
 *
 * At low the reserve goes back to the machine; at critical nothing is allocated,
 * before the kernel has to kill anybody. Memory in use is never taken: its owner
 * is told and answers. The watchdog looks and tells; freeing, which may take
 * long, and asking filesystems, which may take for ever, are others' work.
 */
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>

#include "greenboost.h"

#define CALM		(HZ / 2)
#define HORIZON_MS	1000
/* Where nobody listens, it looks for the reserve's sake only. */
#define IDLE_PERIOD	(10 * HZ)

struct gb_marks gb_ram_marks;

static u64 decline;
static unsigned int period;
static struct task_struct *watchdog;
static DECLARE_WAIT_QUEUE_HEAD(wake);
static bool kicked;

/* Without the reserve, which the kernel counts as well. */
u64 gb_available(void)
{
	long pages = si_mem_available();
	u64 available = pages > 0 ? (u64)pages << PAGE_SHIFT : 0;
	u64 held = gb_reserve_held();

	return available > held ? available - held : 0;
}

u64 gb_decline(void)
{
	return READ_ONCE(decline);
}

static bool pool_nearly_full(u64 bytes)
{
	u64 limit = READ_ONCE(gb_limits[GB_LIMIT_POOL]);

	return limit && bytes > limit - limit / 16;
}

/* Whether a level may fall is judged by marks a quarter higher. */
static u32 judge(u64 available, bool falling, u32 *causes)
{
	u32 from = falling ? GB_LEVEL_CRITICAL : GB_LEVEL_OK;
	u64 loss = div_u64(decline * HORIZON_MS, MSEC_PER_SEC);
	u64 soon = available > loss ? available - loss : 0;
	u64 used = atomic64_read(&gb_pool_used);
	u32 now = gb_level_of(&gb_ram_marks, available, from);
	u32 then = gb_level_of(&gb_ram_marks, soon, from);

	*causes = now ? GB_CAUSE_MEMORY : 0;
	/* A fall counts where memory is short already, or a little later. */
	if (then > now &&
	    (now || gb_level_of(&gb_ram_marks, available / 2, from))) {
		*causes |= GB_CAUSE_DECLINE;
		now++;
	}
	if (pool_nearly_full(falling ? used + used / 32 : used)) {
		*causes |= GB_CAUSE_POOL;
		now = max(now, GB_LEVEL_LOW);
	}
	return now;
}

/*
 * What the reserve takes is no decline: it comes back when it is needed. On a
 * busy machine a tick comes late, and what was lost since was lost more slowly.
 */
static void measure(u64 available, bool idle)
{
	static u64 before;
	static ktime_t looked;
	ktime_t now = ktime_get();
	u64 ms = max(ktime_ms_delta(now, looked), 1LL);
	u64 rate = 0;

	available += gb_reserve_held();
	if (before > available)
		rate = div64_u64((before - available) * MSEC_PER_SEC, ms);
	before = idle ? 0 : available;
	looked = now;
	WRITE_ONCE(decline, idle ? 0 : (3 * decline + rate) / 4);
}

static void tick(bool idle)
{
	static unsigned long calm_since;
	static bool calm;
	u64 available = gb_available();
	u32 causes, now, relaxed, relaxed_causes, level = gb_ram_level();

	measure(available, idle);
	now = judge(available, false, &causes);
	relaxed = judge(available, true, &relaxed_causes);
	if (now >= level || relaxed >= level) {
		calm = false;
		if (now >= level)
			gb_ram_level_set(level, now, causes);
	} else if (!calm && !idle) {
		calm = true;
		calm_since = jiffies;
	} else if (idle || time_after_eq(jiffies, calm_since + CALM)) {
		calm = false;
		gb_ram_level_set(level, relaxed, relaxed_causes);
	}
	gb_spill_tick();
	gb_reserve_kick();
}

static int watch(void *unused)
{
	while (!kthread_should_stop()) {
		bool idle = !gb_any_client();

		WRITE_ONCE(kicked, false);
		tick(idle);
		wait_event_interruptible_timeout(wake, READ_ONCE(kicked) ||
						 kthread_should_stop(),
						 idle ? IDLE_PERIOD :
						 msecs_to_jiffies(period));
	}
	return 0;
}

/* Has it look now. */
void gb_watchdog_kick(void)
{
	WRITE_ONCE(kicked, true);
	wake_up(&wake);
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
