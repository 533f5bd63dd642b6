// SPDX-License-Identifier: GPL-2.0-only
/*
 * An allocation, from the call to its last reference. It belongs to its
 * DMA-BUFs (and to share.c while it is published): whatever way a process
 * ends, the last reference gives everything back.
 *
 * A page that is still pinned then - by a GPU, by I/O in flight - is not free,
 * and must not look free to a budget. Such a buffer lingers, charged, until the
 * watchdog finds the pins gone.
 */
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "greenboost.h"
#include "trace.h"

static DEFINE_XARRAY(buffers);
static atomic64_t last_id;
static LIST_HEAD(lingering);
static DEFINE_SPINLOCK(linger_lock);

static void destroy(struct gb_buffer *buf)
{
	trace_gb_free(buf->id, buf->bytes);
	gb_depopulate(buf);
	gb_uncharge(buf->client, buf->bytes);
	gb_client_put(buf->client);
	mutex_destroy(&buf->lock);
	kfree(buf);
	atomic64_inc(&gb_counters.frees);
}

/*
 * Whether anything beside us holds a page: a page table, a pin, or for a moment
 * somebody looking at the page. Nothing else takes references on these pages.
 */
static bool held(const struct page *page)
{
	return page_count(page) > 1;
}

static unsigned long first_held(const struct gb_buffer *buf, unsigned long from)
{
	unsigned long i, nr = buf->nr_huge + buf->nr_small;

	for (i = from; i < nr; i++) {
		if (held(i < buf->nr_huge ? buf->huge[i] :
					    buf->small[i - buf->nr_huge]))
			break;
	}
	return i;
}

/*
 * Of a buffer without references, looks on from the page that was the first at
 * the last look: nobody can pin what is before it.
 */
static bool still_held(struct gb_buffer *buf)
{
	buf->first_held = first_held(buf, buf->first_held);
	return buf->first_held < buf->nr_huge + buf->nr_small;
}

static void release(struct kref *refs)
{
	struct gb_buffer *buf = container_of(refs, struct gb_buffer, refs);

	xa_erase(&buffers, buf->id);
	if (still_held(buf)) {
		spin_lock(&linger_lock);
		list_add_tail(&buf->linger, &lingering);
		spin_unlock(&linger_lock);
		return;
	}
	destroy(buf);
}

void gb_buffer_put(struct gb_buffer *buf)
{
	kref_put(&buf->refs, release);
}

/*
 * Frees what lingered and is pinned no longer; on unloading, lets go of all.
 * There is one caller at a time, which looks at its leisure: only the list is
 * locked, for those who join it.
 */
void gb_buffer_reap(bool all)
{
	struct gb_buffer *buf, *next;
	LIST_HEAD(mine);

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
	spin_unlock(&linger_lock);
}

struct gb_buffer *gb_buffer_create(struct gb_client *client,
				   const struct gb_alloc *req)
{
	struct gb_buffer *buf;
	int err;

	buf = kzalloc(sizeof(*buf), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	kref_init(&buf->refs);
	mutex_init(&buf->lock);
	INIT_LIST_HEAD(&buf->attachments);
	buf->bytes = req->bytes;
	buf->node = req->node;
	buf->client = client;
	memcpy(buf->label, req->label, sizeof(buf->label));
	buf->id = atomic64_inc_return(&last_id);

	err = gb_charge(client, buf->bytes);
	if (err)
		goto free;
	err = gb_populate(buf, req->flags);
	if (err)
		goto uncharge;
	gb_client_get(client);
	err = xa_err(xa_store(&buffers, buf->id, buf, GFP_KERNEL_ACCOUNT));
	if (err)
		goto depopulate;
	atomic64_inc(&gb_counters.allocations);
	trace_gb_alloc(buf->id, buf->bytes, buf->nr_ready, buf->nr_small);
	return buf;

depopulate:
	gb_client_put(client);
	gb_depopulate(buf);
uncharge:
	gb_uncharge(client, buf->bytes);
free:
	mutex_destroy(&buf->lock);
	kfree(buf);
	return ERR_PTR(err);
}

/*
 * Takes no reference, which to share.c would look like a use: a buffer is there
 * until it is out of the array.
 */
int gb_buffer_query(const struct gb_client *client, struct gb_query *req)
{
	struct gb_query got = { .id = req->id };
	struct gb_buffer *buf = NULL;
	bool others = false;

	xa_lock(&buffers);
	if (req->id <= ULONG_MAX)
		buf = xa_load(&buffers, req->id);
	if (buf) {
		others = buf->client->user != client->user;
		got.bytes = buf->bytes;
		got.small_bytes = (u64)buf->nr_small << PAGE_SHIFT;
		got.state = (READ_ONCE(buf->sealed) ? GB_STATE_SEALED : 0) |
			    (READ_ONCE(buf->shared) ? GB_STATE_SHARED : 0);
		got.uid = from_kuid_munged(current_user_ns(),
					   buf->client->user->uid);
		got.mappings = atomic_read(&buf->mappings);
		got.attachments = atomic_read(&buf->attached);
		memcpy(got.label, buf->label, sizeof(got.label));
	}
	xa_unlock(&buffers);
	/* Whether another user has such an id is not told. */
	if (!buf || (others && !capable(CAP_SYS_ADMIN)))
		return -ENOENT;
	*req = got;
	return 0;
}

/* The page at an index in pages of PAGE_SIZE. */
struct page *gb_buffer_page(struct gb_buffer *buf, unsigned long index)
{
	unsigned long chunk = index / GB_CHUNK_PAGES;

	if (chunk < buf->nr_huge)
		return buf->huge[chunk] + index % GB_CHUNK_PAGES;
	return buf->small[index - buf->nr_huge * GB_CHUNK_PAGES];
}

/* Whether anything beside us holds a page of it. */
bool gb_buffer_pinned(const struct gb_buffer *buf)
{
	return first_held(buf, 0) < buf->nr_huge + buf->nr_small;
}

/*
 * After this nothing can write: no mapping that may be made writable, no pin a
 * device could write through, no importer and no kernel address is left, and
 * map.c and dmabuf.c allow no new ones.
 */
int gb_buffer_seal(struct gb_buffer *buf)
{
	int err = 0;

	mutex_lock(&buf->lock);
	if (buf->sealed)
		err = -EALREADY;
	else if (atomic_read(&buf->writable_mappings) || buf->vmaps ||
		 !list_empty(&buf->attachments) || gb_buffer_pinned(buf))
		err = -EBUSY;
	else
		WRITE_ONCE(buf->sealed, true);
	mutex_unlock(&buf->lock);
	return err;
}

void gb_buffers_show(struct seq_file *m)
{
	struct gb_buffer *buf;
	unsigned long id;

	seq_puts(m, "id uid pid bytes small ready sealed shared mappings attached label\n");
	xa_lock(&buffers);
	xa_for_each(&buffers, id, buf)
		seq_printf(m, "%llu %u %d %llu %lu %lu %d %d %d %d %s\n",
			   buf->id,
			   from_kuid_munged(seq_user_ns(m),
					    buf->client->user->uid),
			   buf->client->pid, buf->bytes,
			   buf->nr_small << PAGE_SHIFT,
			   buf->nr_ready * (unsigned long)GB_CHUNK_SIZE,
			   READ_ONCE(buf->sealed), READ_ONCE(buf->shared),
			   atomic_read(&buf->mappings),
			   atomic_read(&buf->attached), buf->label);
	xa_unlock(&buffers);
}
