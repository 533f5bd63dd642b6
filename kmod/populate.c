// SPDX-License-Identifier: GPL-2.0-only
/*
 * Getting the pages of a buffer: from the reserve what is there, the rest from
 * the page allocator. All of it or nothing; and never by letting the kernel
 * kill somebody. What is going to fail is found out first: it takes nothing
 * from the reserve, from a budget or from the machine.
 *
 * The asker allocates by itself, so its NUMA policy, its cpuset and its memory
 * cgroup hold. The reserve's pages cannot be charged to a cgroup (no module may
 * charge a page after the fact), so a caller whose group, or a group above it,
 * has a limit does not get them: its limit stays exact.
 */
#include <linux/memcontrol.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "greenboost.h"

#define GFP_CHUNK (GFP_USER | __GFP_ACCOUNT | __GFP_COMP | __GFP_ZERO | \
		   __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

/* Available memory is looked at again after this many chunks. */
#define LOOK_EVERY	16

/* Bytes that requests under way have been granted and not yet allocated. */
static atomic64_t promised;

/* The most bytes that the caller's memory cgroups could ever hold. */
static u64 memcg_limit(void)
{
	u64 limit = U64_MAX;
#ifdef CONFIG_MEMCG
	struct page_counter *counter;
	struct mem_cgroup *memcg;

	if (mem_cgroup_disabled())
		return limit;
	rcu_read_lock();
	memcg = mem_cgroup_from_task(current);
	counter = memcg ? &memcg->memory : NULL;
	for (; counter; counter = counter->parent) {
		u64 pages = min(READ_ONCE(counter->max), READ_ONCE(counter->high));

		if (pages < PAGE_COUNTER_MAX)
			limit = min(limit, pages << PAGE_SHIFT);
	}
	rcu_read_unlock();
#endif
	return limit;
}

/* At the critical mark nothing is allocated, and everybody hears of it now. */
static bool critical(u64 available)
{
	u32 level = gb_ram_level();

	if (level == GB_LEVEL_CRITICAL)
		return true;
	if (available >= READ_ONCE(gb_ram_marks.critical))
		return false;
	gb_ram_level_set(level, GB_LEVEL_CRITICAL, GB_CAUSE_MEMORY);
	gb_watchdog_kick();
	return true;
}

/*
 * Grants bytes, of which some may come from dropping a part of the reserve.
 * EAGAIN: the machine has them, and is or would come near the critical mark.
 * ENOMEM: it has not that much.
 */
static int promise(u64 bytes, u64 droppable)
{
	u64 all = atomic64_add_return(bytes, &promised);
	u64 available = gb_available();
	u64 wanted = all + READ_ONCE(gb_ram_marks.critical);
	int err = -EAGAIN;

	if (critical(available))
		goto refuse;
	if (wanted > available + droppable) {
		if (bytes > available + droppable)
			err = -ENOMEM;
		goto refuse;
	}
	if (wanted > available)
		gb_reserve_shrink(wanted - available);
	return 0;

refuse:
	atomic64_sub(bytes, &promised);
	return err;
}

static struct page *fresh(int node)
{
	if (node < 0)
		return alloc_pages(GFP_CHUNK, GB_CHUNK_ORDER);
	return alloc_pages_node(node, GFP_CHUNK | __GFP_THISNODE, GB_CHUNK_ORDER);
}

/* What the reserve had not zeroed yet. */
static int zero(struct gb_buffer *buf, unsigned long from)
{
	for (; from < buf->nr_chunks; from++) {
		if (fatal_signal_pending(current)) {
			/* Not all of it is zero: none of it is ready. */
			buf->touched = true;
			return -EINTR;
		}
		gb_chunk_zero(buf->chunks[from]);
	}
	return 0;
}

/* Takes what the reserve has, as far as it is zeroed first. */
static int take_ready(struct gb_buffer *buf, unsigned long want)
{
	unsigned long dirty;

	buf->nr_ready = gb_reserve_take(buf->chunks, want, buf->node, &dirty);
	buf->nr_chunks = buf->nr_ready;
	return zero(buf, buf->nr_ready - dirty);
}

/* The rest, which is promised. */
static int take_fresh(struct gb_buffer *buf, unsigned long want, bool limited)
{
	while (buf->nr_chunks < want) {
		struct page *page;

		if (fatal_signal_pending(current))
			return -EINTR;
		if (buf->nr_chunks % LOOK_EVERY == 0 && critical(gb_available()))
			return -EAGAIN;
		page = fresh(buf->node);
		/* Where there is memory still, it is whole pages that are not. */
		if (!page)
			return limited || buf->node >= 0 ? -ENOMEM : -ENOSPC;
		buf->chunks[buf->nr_chunks++] = page;
		atomic64_sub(GB_CHUNK_BYTES, &promised);
		cond_resched();
	}
	return 0;
}

int gb_populate(struct gb_buffer *buf)
{
	unsigned long want = buf->bytes / GB_CHUNK_BYTES, usable = 0, missing;
	u64 limit = memcg_limit();
	bool limited = limit != U64_MAX;
	u64 held = gb_reserve_held();
	int err;

	if (buf->bytes > min(limit, (u64)totalram_pages() << PAGE_SHIFT))
		return -ENOMEM;
	if (!limited)
		usable = min(gb_reserve_usable(buf->node), want);
	missing = want - usable;
	err = promise(missing * GB_CHUNK_BYTES,
		      held - min(held, usable * GB_CHUNK_BYTES));
	if (err)
		return err;
	err = gb_charge(buf->client, buf->bytes);
	if (err)
		goto break_promise;
	buf->chunks = kvcalloc(want, sizeof(*buf->chunks),
			       GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!buf->chunks) {
		err = -ENOMEM;
		goto uncharge;
	}
	err = usable ? take_ready(buf, usable) : 0;
	/* Somebody else may have been quicker. */
	if (!err && buf->nr_ready < usable) {
		err = promise((usable - buf->nr_ready) * GB_CHUNK_BYTES, 0);
		if (!err)
			missing += usable - buf->nr_ready;
	}
	if (!err)
		err = take_fresh(buf, want, limited);
	missing -= buf->nr_chunks - buf->nr_ready;
	if (err)
		goto depopulate;
	return 0;

depopulate:
	gb_depopulate(buf);
uncharge:
	gb_uncharge(buf->client, buf->bytes);
break_promise:
	atomic64_sub(missing * GB_CHUNK_BYTES, &promised);
	return err;
}

/* One page at a time, in the task that lets go of the buffer. */
void gb_depopulate(struct gb_buffer *buf)
{
	unsigned long i;

	for (i = 0; i < buf->nr_chunks; i++) {
		if (i >= buf->nr_ready ||
		    !gb_reserve_give(buf->chunks[i], !buf->touched))
			gb_chunk_free(buf->chunks[i]);
		cond_resched();
	}
	buf->nr_chunks = 0;
	buf->nr_ready = 0;
	kvfree(buf->chunks);
	gb_reserve_kick();
}
