// SPDX-License-Identifier: GPL-2.0-only
/*
 * An allocation. It belongs to its DMA-BUF: whatever way a process ends, the
 * last descriptor, mapping or importer gives everything back.
 *
 * A page that is still pinned then - by a GPU, by I/O in flight - is not free,
 * and must not look free to a budget. Such a buffer lingers, charged, until a
 * worker finds the pins gone.
 */
#include <linux/slab.h>

#include "greenboost.h"

#define LOOK_AGAIN (HZ / 10)

static LIST_HEAD(lingering);
static DEFINE_SPINLOCK(linger_lock);

static void reap(struct work_struct *work);
static DECLARE_DELAYED_WORK(reaper, reap);

static void destroy(struct gb_buffer *buf)
{
	gb_depopulate(buf);
	gb_uncharge(buf->client, buf->bytes);
	gb_client_put(buf->client);
	mutex_destroy(&buf->lock);
	kfree(buf);
	atomic64_inc(&gb_counters.frees);
}

/*
 * Of a buffer without references, looks on from the chunk that was the first at
 * the last look, since nobody can pin what is before it. Whoever holds a chunk
 * beside us (a page table, a pin, somebody looking at the page) has a reference.
 */
static bool still_held(struct gb_buffer *buf)
{
	while (buf->first_held < buf->nr_chunks &&
	       page_count(buf->chunks[buf->first_held]) == 1)
		buf->first_held++;
	return buf->first_held < buf->nr_chunks;
}

static void reap_some(bool all)
{
	struct gb_buffer *buf, *next;
	LIST_HEAD(mine);
	bool done;

	spin_lock(&linger_lock);
	list_splice_init(&lingering, &mine);
	spin_unlock(&linger_lock);
	list_for_each_entry_safe(buf, next, &mine, linger) {
		if (!all && still_held(buf))
			continue;
		list_del(&buf->linger);
		destroy(buf);
		cond_resched();
	}
	spin_lock(&linger_lock);
	list_splice(&mine, &lingering);
	done = list_empty(&lingering);
	spin_unlock(&linger_lock);
	if (!done)
		queue_delayed_work(gb_workqueue, &reaper, LOOK_AGAIN);
}

static void reap(struct work_struct *work)
{
	reap_some(false);
}

void gb_buffer_release(struct gb_buffer *buf)
{
	if (!still_held(buf)) {
		destroy(buf);
		return;
	}
	spin_lock(&linger_lock);
	list_add_tail(&buf->linger, &lingering);
	spin_unlock(&linger_lock);
	queue_delayed_work(gb_workqueue, &reaper, LOOK_AGAIN);
}

/* On unloading: what is pinned is let go of, and stays the pinner's. */
void gb_buffers_stop(void)
{
	cancel_delayed_work_sync(&reaper);
	reap_some(true);
}

struct gb_buffer *gb_buffer_create(struct gb_client *client, u64 bytes, int node)
{
	struct gb_buffer *buf;
	int err;

	buf = kzalloc(sizeof(*buf), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	mutex_init(&buf->lock);
	INIT_LIST_HEAD(&buf->attachments);
	buf->bytes = bytes;
	buf->node = node;
	buf->client = client;
	err = gb_populate(buf);
	if (err)
		goto free;
	gb_client_get(client);
	atomic64_inc(&gb_counters.allocations);
	return buf;

free:
	mutex_destroy(&buf->lock);
	kfree(buf);
	return ERR_PTR(err);
}

/* The page at an index in pages of PAGE_SIZE. */
struct page *gb_buffer_page(struct gb_buffer *buf, unsigned long index)
{
	return buf->chunks[index / GB_CHUNK_PAGES] + index % GB_CHUNK_PAGES;
}
