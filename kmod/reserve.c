// SPDX-License-Identifier: GPL-2.0-only
/*
 * Chunks kept ready: allocated and zeroed in the background, early in the
 * machine's life, so that taking them later costs neither zeroing nor luck
 * with fragmentation. What comes back is zeroed again before it counts.
 *
 * The reserve is idle memory: it shrinks when memory gets low or is wanted from
 * elsewhere, and when the kernel is about to kill somebody it goes at once, and
 * unused shared objects with it.
 */
#include <linux/freezer.h>
#include <linux/highmem.h>
#include <linux/kthread.h>
#include <linux/oom.h>
#include <linux/slab.h>

#include "greenboost.h"

/* Not charged to anybody, and not worth disturbing anybody for. */
#define GFP_RESERVE (GFP_KERNEL | __GFP_COMP | __GFP_ZERO | __GFP_NOWARN | \
		     __GFP_NORETRY | __GFP_THISNODE)
#define RETRY (2 * HZ)

static DEFINE_SPINLOCK(lock);
static struct list_head *ready;		/* zeroed, one list per node */
static LIST_HEAD(used);			/* to be zeroed */
static unsigned long nr_ready, nr_used, target;

static DECLARE_WAIT_QUEUE_HEAD(wake);
static bool kicked;
static struct task_struct *filler;

static unsigned long drop_list(struct list_head *list, unsigned long *nr,
			       unsigned long keep)
{
	struct page *page;
	unsigned long dropped = 0;

	for (;;) {
		spin_lock(&lock);
		page = list_first_entry_or_null(list, struct page, lru);
		if (!page || nr_ready + nr_used <= keep) {
			spin_unlock(&lock);
			return dropped;
		}
		list_del(&page->lru);
		--*nr;
		spin_unlock(&lock);
		__free_pages(page, GB_CHUNK_ORDER);
		dropped++;
	}
}

/* Frees all but so many chunks; returns how many. */
unsigned long gb_reserve_drop(unsigned long keep)
{
	unsigned long dropped = drop_list(&used, &nr_used, keep);
	int node;

	for_each_node(node)
		dropped += drop_list(&ready[node], &nr_ready, keep);
	return dropped;
}

/* Frees at least so many bytes, or all there is; returns how many. */
u64 gb_reserve_shrink(u64 bytes)
{
	unsigned long less = div_u64(bytes + GB_CHUNK_SIZE - 1, GB_CHUNK_SIZE);
	unsigned long held = READ_ONCE(nr_ready) + READ_ONCE(nr_used);

	return (u64)gb_reserve_drop(held > less ? held - less : 0) * GB_CHUNK_SIZE;
}

/* The caller's node first, unless a node was asked for. */
unsigned long gb_reserve_take(struct page **pages, unsigned long want, int node)
{
	int near = node < 0 ? numa_mem_id() : node;
	unsigned long got = 0;
	struct page *page;
	int i;

	for (i = -1; i < (int)nr_node_ids && got < want; i++) {
		int from = i < 0 ? near : i;

		if (i >= 0 && (node >= 0 || !node_possible(i)))
			continue;
		spin_lock(&lock);
		while (got < want && !list_empty(&ready[from])) {
			page = list_first_entry(&ready[from], struct page, lru);
			list_del(&page->lru);
			nr_ready--;
			pages[got++] = page;
			/* Other processes need the lock and the CPU as well. */
			if (got % 512 == 0) {
				spin_unlock(&lock);
				cond_resched();
				spin_lock(&lock);
			}
		}
		spin_unlock(&lock);
	}
	atomic64_add(got, &gb_counters.reserve_hits);
	return got;
}

/* Whether the reserve has taken over the page, which nobody else may hold. */
bool gb_reserve_give(struct page *page)
{
	bool wanted = gb_level(NULL) == GB_LEVEL_OK && page_count(page) == 1;

	spin_lock(&lock);
	wanted = wanted && filler && nr_ready + nr_used < target;
	if (wanted) {
		list_add(&page->lru, &used);
		nr_used++;
	}
	spin_unlock(&lock);
	return wanted;
}

static bool may_grow(void)
{
	u64 held = gb_reserve_ready() + atomic64_read(&gb_pool_used);

	return gb_level(NULL) == GB_LEVEL_OK &&
	       held + GB_CHUNK_SIZE <= READ_ONCE(gb_limits[GB_LIMIT_POOL]) &&
	       gb_available() > gb_low_mark + gb_low_mark / 4;
}

static struct page *rezeroed(void)
{
	struct page *page;
	unsigned long i;

	spin_lock(&lock);
	page = list_first_entry_or_null(&used, struct page, lru);
	if (page) {
		list_del(&page->lru);
		nr_used--;
	}
	spin_unlock(&lock);
	for (i = 0; page && i < GB_CHUNK_PAGES; i++) {
		clear_highpage(page + i);
		cond_resched();
	}
	return page;
}

/* One chunk more. Nodes take turns, so that each has its part. */
static bool grow(void)
{
	static int node = NUMA_NO_NODE;
	struct page *page = rezeroed();
	int tries = num_node_state(N_MEMORY);
	bool wanted;

	while (!page && tries--) {
		node = next_node_in(node < 0 ? MAX_NUMNODES - 1 : node,
				    node_states[N_MEMORY]);
		page = alloc_pages_node(node, GFP_RESERVE, GB_CHUNK_ORDER);
	}
	if (!page)
		return false;
	spin_lock(&lock);
	/* Zeroing takes its time, in which less may have come to be wanted. */
	wanted = nr_ready + nr_used < target;
	if (wanted) {
		list_add_tail(&page->lru, &ready[page_to_nid(page)]);
		nr_ready++;
	}
	spin_unlock(&lock);
	if (!wanted)
		__free_pages(page, GB_CHUNK_ORDER);
	return true;
}

static int fill(void *unused)
{
	set_user_nice(current, 10);
	while (!kthread_should_stop()) {
		WRITE_ONCE(kicked, false);
		while (nr_ready < READ_ONCE(target) && !kthread_should_stop()) {
			if (!may_grow() || !grow())
				break;
			cond_resched();
		}
		wait_event_interruptible_timeout(wake, READ_ONCE(kicked) ||
						 kthread_should_stop(), RETRY);
	}
	return 0;
}

void gb_reserve_kick(void)
{
	WRITE_ONCE(kicked, true);
	wake_up(&wake);
}

void gb_reserve_resize(u64 bytes)
{
	unsigned long chunks = div_u64(bytes, GB_CHUNK_SIZE);

	WRITE_ONCE(target, chunks);
	gb_reserve_drop(chunks);
	gb_reserve_kick();
}

u64 gb_reserve_target(void)
{
	return (u64)READ_ONCE(target) * GB_CHUNK_SIZE;
}

u64 gb_reserve_ready(void)
{
	return (u64)READ_ONCE(nr_ready) * GB_CHUNK_SIZE;
}

/* The objects first: what they free could end in the reserve. */
static int on_oom(struct notifier_block *nb, unsigned long action, void *freed)
{
	u64 pages = gb_share_evict_at_oom() >> PAGE_SHIFT;

	pages += gb_reserve_drop(0) * GB_CHUNK_PAGES;
	*(unsigned long *)freed += pages;
	return NOTIFY_OK;
}

static struct notifier_block oom_notifier = { .notifier_call = on_oom };

int gb_reserve_start(u64 bytes)
{
	struct task_struct *task;
	int node, err;

	ready = kcalloc(nr_node_ids, sizeof(*ready), GFP_KERNEL);
	if (!ready)
		return -ENOMEM;
	for (node = 0; node < nr_node_ids; node++)
		INIT_LIST_HEAD(&ready[node]);
	err = register_oom_notifier(&oom_notifier);
	if (err)
		goto free;
	task = kthread_run(fill, NULL, "greenboost_fill");
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto unregister;
	}
	filler = task;
	gb_reserve_resize(bytes);
	return 0;

unregister:
	unregister_oom_notifier(&oom_notifier);
free:
	kfree(ready);
	return err;
}

void gb_reserve_stop(void)
{
	struct task_struct *task = filler;

	spin_lock(&lock);
	filler = NULL;
	spin_unlock(&lock);
	kthread_stop(task);
	unregister_oom_notifier(&oom_notifier);
	gb_reserve_drop(0);
	kfree(ready);
}
