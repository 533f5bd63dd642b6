// SPDX-License-Identifier: GPL-2.0-only
/*
 * Getting the pages of a buffer: from the reserve what is there, the rest from
 * the page allocator, by several workers where there is enough to zero. All of
 * it or nothing; and never by letting the kernel kill somebody.
 *
 * Fresh pages are charged to the caller's memory cgroup. The reserve's cannot
 * be (no module may charge a page after the fact), so a caller whose group, or
 * a group above it, has a limit does not get them: its limit stays exact.
 */
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "greenboost.h"

#define GFP_CHUNK (GFP_KERNEL_ACCOUNT | __GFP_COMP | __GFP_ZERO | \
		   __GFP_NOWARN | __GFP_RETRY_MAYFAIL)
#define GFP_SMALL (GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN | \
		   __GFP_RETRY_MAYFAIL)

/* Zeroing fewer chunks than this is done before a worker has woken up. */
#define CHUNKS_PER_WORKER	32
#define MAX_WORKERS		8

/* A look at available memory costs as much as a small page: one in so many. */
#define ROOM_EVERY		16

struct fill {
	struct gb_buffer *buf;
	struct mem_cgroup *memcg;
	unsigned long want;
	int node;		/* the caller's, where it asked for none */
	gfp_t gfp;
	bool limited;		/* the caller's memory cgroup */
	atomic_long_t next;
	atomic_t running;
	struct completion idle;
	int err;
};

struct fill_worker {
	struct work_struct work;
	struct fill *fill;
};

static bool memcg_limited(void)
{
	bool limited = false;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;
	struct page_counter *counter;

	if (mem_cgroup_disabled())
		return false;
	rcu_read_lock();
	memcg = mem_cgroup_from_task(current);
	counter = memcg ? &memcg->memory : NULL;
	for (; counter && !limited; counter = counter->parent)
		limited = READ_ONCE(counter->max) < PAGE_COUNTER_MAX ||
			  READ_ONCE(counter->high) < PAGE_COUNTER_MAX;
	rcu_read_unlock();
#endif
	return limited;
}

/*
 * What nobody uses goes before anybody is refused: the reserve, which costs
 * only zeroing again, then shared objects. Not where that would not suffice.
 */
static bool make_room(u64 bytes)
{
	u64 shortage = gb_shortage(bytes);

	if (shortage > gb_reserve_ready() + gb_share_idle())
		return false;
	while (shortage && shortage != U64_MAX) {
		if (!gb_reserve_shrink(shortage) && !gb_share_evict(shortage))
			return false;
		shortage = gb_shortage(bytes);
	}
	return !shortage;
}

/*
 * Where memory is in pieces, what nobody uses is whole. That is no help against
 * the limit of a cgroup, nor surely where one node is asked for.
 */
static struct page *get_chunk(const struct fill *fill)
{
	bool any = fill->buf->node < 0 || num_node_state(N_MEMORY) == 1;
	struct page *page;

	do {
		page = alloc_pages_node(fill->node, fill->gfp, GB_CHUNK_ORDER);
	} while (!page && any && !fill->limited &&
		 !fatal_signal_pending(current) &&
		 (gb_reserve_shrink(GB_CHUNK_SIZE) ||
		  gb_share_evict(GB_CHUNK_SIZE)));
	return page;
}

/* Chunks are claimed in steps, so that nobody waits for the slowest worker. */
static void fill_share(struct fill *fill, bool signals)
{
	struct gb_buffer *buf = fill->buf;
	unsigned long i, end;

	for (;;) {
		i = atomic_long_fetch_add(ROOM_EVERY, &fill->next);
		end = min(i + ROOM_EVERY, fill->want);
		if (i >= fill->want || READ_ONCE(fill->err))
			return;
		if (!make_room((end - i) * GB_CHUNK_SIZE)) {
			WRITE_ONCE(fill->err, -ENOMEM);
			return;
		}
		for (; i < end; i++) {
			if (signals && fatal_signal_pending(current)) {
				WRITE_ONCE(fill->err, -EINTR);
				return;
			}
			buf->huge[i] = get_chunk(fill);
			if (!buf->huge[i]) {
				WRITE_ONCE(fill->err, -ENOMEM);
				return;
			}
			cond_resched();
		}
	}
}

static void fill_work(struct work_struct *work)
{
	struct fill_worker *worker = container_of(work, struct fill_worker, work);
	struct fill *fill = worker->fill;
	struct mem_cgroup *old = set_active_memcg(fill->memcg);

	fill_share(fill, false);
	set_active_memcg(old);
	if (atomic_dec_and_test(&fill->running))
		complete(&fill->idle);
}

/* Fills huge[nr_ready..]; leaves no holes, also where it fails. */
static int fill_fresh(struct gb_buffer *buf, unsigned long want, bool limited)
{
	struct fill fill = {
		.buf = buf,
		.want = want,
		.node = buf->node < 0 ? numa_mem_id() : buf->node,
		.gfp = GFP_CHUNK | (buf->node < 0 ? 0 : __GFP_THISNODE),
		.limited = limited,
	};
	unsigned int nr_workers, i;
	struct fill_worker *workers;
	unsigned long from, to;

	nr_workers = min3((want - buf->nr_ready) / CHUNKS_PER_WORKER,
			  num_online_cpus() - 1UL, MAX_WORKERS - 1UL);
	workers = kcalloc(nr_workers, sizeof(*workers), GFP_KERNEL);
	if (!workers)
		nr_workers = 0;
	atomic_long_set(&fill.next, buf->nr_ready);
	atomic_set(&fill.running, nr_workers + 1);
	init_completion(&fill.idle);
	fill.memcg = get_mem_cgroup_from_mm(current->mm);
	for (i = 0; i < nr_workers; i++) {
		workers[i].fill = &fill;
		INIT_WORK(&workers[i].work, fill_work);
		queue_work(system_unbound_wq, &workers[i].work);
	}
	fill_share(&fill, true);
	if (!atomic_dec_and_test(&fill.running)) {
		if (wait_for_completion_killable(&fill.idle)) {
			WRITE_ONCE(fill.err, -EINTR);
			wait_for_completion(&fill.idle);
		}
	}
	/* The last worker may still be on its way out of its function. */
	for (i = 0; i < nr_workers; i++)
		flush_work(&workers[i].work);
	kfree(workers);
	mem_cgroup_put(fill.memcg);

	for (from = to = buf->nr_ready; from < want; from++) {
		if (buf->huge[from])
			buf->huge[to++] = buf->huge[from];
	}
	buf->nr_huge = to;
	return fill.err;
}

/* What is left, in pages of PAGE_SIZE. */
static int fill_small(struct gb_buffer *buf, unsigned long nr)
{
	int node = buf->node < 0 ? numa_mem_id() : buf->node;
	gfp_t gfp = GFP_SMALL | (buf->node < 0 ? 0 : __GFP_THISNODE);
	struct page *page;

	buf->small = kvcalloc(nr, sizeof(*buf->small), GFP_KERNEL_ACCOUNT);
	if (!buf->small)
		return -ENOMEM;
	while (buf->nr_small < nr) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (buf->nr_small % GB_CHUNK_PAGES == 0 &&
		    !make_room(GB_CHUNK_SIZE))
			return -ENOMEM;
		page = alloc_pages_node(node, gfp, 0);
		if (!page)
			return -ENOMEM;
		buf->small[buf->nr_small++] = page;
		cond_resched();
	}
	return 0;
}

int gb_populate(struct gb_buffer *buf, u32 flags)
{
	unsigned long want = buf->bytes / GB_CHUNK_SIZE;
	bool limited = memcg_limited();
	int err = -ENOMEM;

	buf->huge = kvcalloc(want, sizeof(*buf->huge), GFP_KERNEL_ACCOUNT);
	if (!buf->huge)
		return -ENOMEM;
	if (!limited)
		buf->nr_ready = gb_reserve_take(buf->huge, want, buf->node);
	buf->nr_huge = buf->nr_ready;
	/* Hopeless is found out before the page cache is squeezed for it. */
	if (!make_room((want - buf->nr_ready) * GB_CHUNK_SIZE))
		goto out;
	err = buf->nr_ready < want ? fill_fresh(buf, want, limited) : 0;
	if (err == -ENOMEM && (flags & GB_ALLOC_MIXED))
		err = fill_small(buf, (want - buf->nr_huge) * GB_CHUNK_PAGES);
out:
	if (err)
		gb_depopulate(buf);
	return err;
}

void gb_depopulate(struct gb_buffer *buf)
{
	unsigned long i;

	for (i = 0; i < buf->nr_huge; i++) {
		if (i >= buf->nr_ready || !gb_reserve_give(buf->huge[i]))
			__free_pages(buf->huge[i], GB_CHUNK_ORDER);
		cond_resched();
	}
	for (i = 0; i < buf->nr_small; i++) {
		__free_page(buf->small[i]);
		cond_resched();
	}
	buf->nr_huge = 0;
	buf->nr_ready = 0;
	buf->nr_small = 0;
	kvfree(buf->huge);
	kvfree(buf->small);
	gb_reserve_kick();
}
