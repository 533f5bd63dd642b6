// SPDX-License-Identifier: GPL-2.0-only
/*
 * Chunks kept ready: allocated and zeroed in the background, early in the
 * machine's life, so that taking them later costs neither zeroing nor luck
 * with fragmentation. What comes back unchanged is ready at once; what was
 * written to is the reserve's as well, to be zeroed by a thread of ours or by
 * whoever wants it before.
 *
 * The reserve is idle memory, and the kernel counts it as reclaimable: whoever
 * looks at MemAvailable sees it as available. It goes when RAM is short, to
 * reclaim below the low mark, and all of it before the kernel kills anybody.
 */
#include <linux/cpuset.h>
#include <linux/highmem.h>
#include <linux/kthread.h>
#include <linux/oom.h>
#include <linux/page-flags.h>
#include <linux/slab.h>
#include <linux/vmstat.h>

#include "compat.h"
#include "greenboost.h"

/* Not charged to anybody, and not worth disturbing anybody for. */
#define GFP_RESERVE (GFP_KERNEL | __GFP_COMP | __GFP_ZERO | __GFP_NOWARN | \
		     __GFP_NORETRY | __GFP_THISNODE)

enum chunk_kind { ZEROED, DIRTY, NR_KINDS };

static DEFINE_SPINLOCK(lock);
static struct list_head *lists[NR_KINDS];	/* one per node */
static unsigned long nr[NR_KINDS], wanted;
static unsigned long nr_on[MAX_NUMNODES];

static DECLARE_WAIT_QUEUE_HEAD(wake);
static bool kicked;
static struct task_struct *filler;
static struct shrinker *shrinker;

static unsigned long held(void)
{
	return READ_ONCE(nr[ZEROED]) + READ_ONCE(nr[DIRTY]);
}

static void count(struct page *page, enum chunk_kind kind, int chunks)
{
	nr[kind] += chunks;
	nr_on[page_to_nid(page)] += chunks;
	mod_node_page_state(page_pgdat(page), NR_KERNEL_MISC_RECLAIMABLE,
			    chunks * (long)GB_CHUNK_PAGES);
}

/* Takes a chunk over, if more are wanted. */
static bool push(struct page *page, enum chunk_kind kind)
{
	bool done;

	spin_lock(&lock);
	done = filler && held() < wanted;
	if (done) {
		list_add(&page->lru, &lists[kind][page_to_nid(page)]);
		count(page, kind, 1);
	}
	spin_unlock(&lock);
	return done;
}

/* Lets go of one, while more than these are held. */
static struct page *pop(enum chunk_kind kind, int node, unsigned long keep)
{
	struct page *page = NULL;

	spin_lock(&lock);
	if (held() > keep)
		page = list_first_entry_or_null(&lists[kind][node], struct page, lru);
	if (page) {
		list_del(&page->lru);
		count(page, kind, -1);
	}
	spin_unlock(&lock);
	return page;
}

static bool poisoned(struct page *page)
{
	unsigned long i;

	for (i = 0; i < GB_CHUNK_PAGES; i++) {
		if (PageHWPoison(page + i))
			return true;
	}
	return false;
}

/* A chunk with broken memory is nobody's ever after: 2 MiB are lost. */
void gb_chunk_free(struct page *page)
{
	if (poisoned(page))
		pr_warn_ratelimited("greenboost: 2 MiB with a memory error are put away\n");
	else
		__free_pages(page, GB_CHUNK_ORDER);
}

void gb_chunk_zero(struct page *page)
{
	unsigned long i;

	for (i = 0; i < GB_CHUNK_PAGES; i++) {
		clear_highpage(page + i);
		cond_resched();
	}
}

/* Frees all but this many chunks, what costs zeroing first; says how many. */
static unsigned long drop(unsigned long keep)
{
	unsigned long dropped = 0;
	struct page *page;
	int kind, node;

	for (kind = NR_KINDS - 1; kind >= 0; kind--) {
		for_each_node(node) {
			while ((page = pop(kind, node, keep))) {
				gb_chunk_free(page);
				dropped++;
			}
		}
	}
	return dropped;
}

static unsigned long drop_some(unsigned long chunks)
{
	unsigned long now = held();

	return drop(now > chunks ? now - chunks : 0);
}

/* Frees at least this many bytes, or all there is. */
void gb_reserve_shrink(u64 bytes)
{
	drop_some(DIV_ROUND_UP_ULL(bytes, GB_CHUNK_BYTES));
}

static bool may_take_from(int from, int node)
{
	if (node >= 0)
		return from == node;
	return node_possible(from) && node_isset(from, cpuset_current_mems_allowed);
}

/* How many chunks the caller would get, of this node or of those it may use. */
unsigned long gb_reserve_usable(int node)
{
	unsigned long usable = 0;
	int from;

	for_each_node(from) {
		if (may_take_from(from, node))
			usable += READ_ONCE(nr_on[from]);
	}
	return usable;
}

/*
 * Those that are ready first, and of each the nearest; the last of them, as
 * many as it says, the caller has to zero.
 */
unsigned long gb_reserve_take(struct page **pages, unsigned long want, int node,
			      unsigned long *dirty)
{
	int near = node < 0 ? numa_mem_id() : node;
	unsigned long got = 0, zeroed = 0;
	struct page *page;
	int kind, i, from;

	for (kind = 0; kind < NR_KINDS; kind++) {
		for (i = -1; i < (int)nr_node_ids; i++) {
			from = i < 0 ? near : i;
			if (!may_take_from(from, node))
				continue;
			while (got < want && (page = pop(kind, from, 0))) {
				if (poisoned(page))
					gb_chunk_free(page);
				else
					pages[got++] = page;
				cond_resched();
			}
		}
		if (kind == ZEROED)
			zeroed = got;
	}
	*dirty = got - zeroed;
	atomic64_add(got, &gb_counters.reserve_hits);
	return got;
}

/* Whether the reserve has taken back the page, which nobody else may hold. */
bool gb_reserve_give(struct page *page, bool zeroed)
{
	return !gb_ram_short() && page_count(page) == 1 && !poisoned(page) &&
	       push(page, zeroed ? ZEROED : DIRTY);
}

/* What is given up at the low mark is not taken shortly above it. */
static bool may_grow(void)
{
	u64 all = gb_reserve_held() + atomic64_read(&gb_pool_used);

	return held() < READ_ONCE(wanted) && !gb_ram_short() &&
	       all + GB_CHUNK_BYTES <= READ_ONCE(gb_limits[GB_LIMIT_POOL]) &&
	       gb_level_of(&gb_ram_marks, gb_available(), GB_LEVEL_LOW) == GB_LEVEL_OK;
}

/* One chunk more. Nodes take turns, so that each has its part. */
static bool grow(void)
{
	static int node = NUMA_NO_NODE;
	int tries = num_node_state(N_MEMORY);
	struct page *page = NULL;

	if (!may_grow())
		return false;
	while (!page && tries--) {
		node = next_node_in(node < 0 ? MAX_NUMNODES - 1 : node,
				    node_states[N_MEMORY]);
		page = alloc_pages_node(node, GFP_RESERVE, GB_CHUNK_ORDER);
	}
	if (!page)
		return false;
	/* Zeroing takes its time, in which less may have come to be wanted. */
	if (!push(page, ZEROED))
		gb_chunk_free(page);
	return true;
}

/* Takes no memory, so it needs no more of it than there is. */
static bool zero_one(void)
{
	struct page *page = NULL;
	int node;

	for_each_node_state(node, N_MEMORY) {
		page = pop(DIRTY, node, 0);
		if (page)
			break;
	}
	if (!page)
		return false;
	gb_chunk_zero(page);
	if (!gb_reserve_give(page, true))
		gb_chunk_free(page);
	return true;
}

static int fill(void *unused)
{
	set_user_nice(current, 10);
	while (!kthread_should_stop()) {
		WRITE_ONCE(kicked, false);
		if (gb_ram_short())
			drop(0);
		while (!kthread_should_stop() && (zero_one() || grow()))
			cond_resched();
		wait_event_interruptible(wake, READ_ONCE(kicked) ||
					 kthread_should_stop());
	}
	return 0;
}

/* Wakes the filler, where it has something to do. */
void gb_reserve_kick(void)
{
	if (!(gb_ram_short() ? held() : READ_ONCE(nr[DIRTY]) || may_grow()))
		return;
	WRITE_ONCE(kicked, true);
	wake_up(&wake);
}

void gb_reserve_resize(u64 bytes)
{
	unsigned long chunks = div_u64(bytes, GB_CHUNK_BYTES);

	WRITE_ONCE(wanted, chunks);
	drop(chunks);
	gb_reserve_kick();
}

u64 gb_reserve_wanted(void)
{
	return (u64)READ_ONCE(wanted) * GB_CHUNK_BYTES;
}

u64 gb_reserve_ready(void)
{
	return (u64)READ_ONCE(nr[ZEROED]) * GB_CHUNK_BYTES;
}

u64 gb_reserve_held(void)
{
	return (u64)held() * GB_CHUNK_BYTES;
}

/*
 * Reclaim gets it where RAM is short without it. Where it is not, the kernel
 * only wants cheaper pages for its cache, of which there is no end.
 */
static unsigned long shrink_count(struct shrinker *unused, struct shrink_control *sc)
{
	return gb_available() < READ_ONCE(gb_ram_marks.low) ? held() * GB_CHUNK_PAGES : 0;
}

static unsigned long shrink_scan(struct shrinker *unused, struct shrink_control *sc)
{
	unsigned long dropped = drop_some(DIV_ROUND_UP(sc->nr_to_scan, GB_CHUNK_PAGES));

	return dropped ? dropped * GB_CHUNK_PAGES : SHRINK_STOP;
}

static int on_oom(struct notifier_block *nb, unsigned long action, void *freed)
{
	*(unsigned long *)freed += drop(0) * GB_CHUNK_PAGES;
	return NOTIFY_OK;
}

static struct notifier_block oom_notifier = { .notifier_call = on_oom };

static int start_giving_up(void)
{
	int err;

	shrinker = shrinker_alloc(0, "greenboost");
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = shrink_count;
	shrinker->scan_objects = shrink_scan;
	shrinker->batch = GB_CHUNK_PAGES;
	err = gb_shrinker_register(shrinker);
	if (!err)
		err = register_oom_notifier(&oom_notifier);
	if (err)
		shrinker_free(shrinker);
	return err;
}

static void stop_giving_up(void)
{
	unregister_oom_notifier(&oom_notifier);
	shrinker_free(shrinker);
}

int gb_reserve_start(u64 bytes)
{
	struct task_struct *task;
	int node, err;

	lists[0] = kcalloc(NR_KINDS * nr_node_ids, sizeof(*lists[0]), GFP_KERNEL);
	if (!lists[0])
		return -ENOMEM;
	lists[1] = lists[0] + nr_node_ids;
	for (node = 0; node < NR_KINDS * nr_node_ids; node++)
		INIT_LIST_HEAD(&lists[0][node]);
	err = start_giving_up();
	if (err)
		goto free;
	task = kthread_run(fill, NULL, "greenboost_fill");
	if (IS_ERR(task)) {
		err = PTR_ERR(task);
		goto stop;
	}
	filler = task;
	gb_reserve_resize(bytes);
	return 0;

stop:
	stop_giving_up();
free:
	kfree(lists[0]);
	return err;
}

void gb_reserve_stop(void)
{
	struct task_struct *task = filler;

	spin_lock(&lock);
	filler = NULL;
	spin_unlock(&lock);
	kthread_stop(task);
	stop_giving_up();
	drop(0);
	kfree(lists[0]);
}
