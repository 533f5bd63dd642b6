// SPDX-License-Identifier: GPL-2.0-only
/*
 * The filesystem an open file spills to, by a directory in it. Asking a
 * filesystem may take for ever, so a worker asks and the watchdog goes on; one
 * that does not answer counts as gone.
 *
 * A question outlives the open file that asked, and the filesystem that took
 * its place there: it is its own, held by the file and by the worker. While the
 * worker waits the module cannot be unloaded, which is refused and not waited
 * for.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/path.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/workqueue.h>

#include "greenboost.h"

#define PATIENCE (5 * HZ)

struct gb_spill_watch {
	struct kref refs;
	struct path path;
	u64 low;
	u64 critical;
	unsigned long asked_at;
	struct work_struct work;

	/* The worker's while it is asked, the watchdog's otherwise. */
	bool asked;
	u64 free;
	u32 level;
	u32 causes;
};

static struct workqueue_struct *queue;

static void watch_free(struct kref *refs)
{
	struct gb_spill_watch *watch = container_of(refs, struct gb_spill_watch, refs);

	path_put(&watch->path);
	kfree(watch);
}

static u32 judge(const struct gb_spill_watch *watch, u64 free)
{
	u64 low = watch->low;
	u64 critical = watch->critical;

	/* The level falls a quarter later than it rises. */
	if (watch->level == GB_LEVEL_CRITICAL)
		critical += critical / 4;
	if (watch->level != GB_LEVEL_OK)
		low += low / 4;
	if (free < critical)
		return GB_LEVEL_CRITICAL;
	return free < low ? GB_LEVEL_LOW : GB_LEVEL_OK;
}

static bool gone(const struct path *path, struct kstatfs *st)
{
	return vfs_statfs(path, st) || sb_rdonly(path->dentry->d_sb) ||
	       d_unlinked(path->dentry);
}

static void ask(struct work_struct *work)
{
	struct gb_spill_watch *watch = container_of(work, struct gb_spill_watch, work);
	struct kstatfs st = {};

	if (gone(&watch->path, &st)) {
		watch->free = 0;
		watch->level = GB_LEVEL_CRITICAL;
		watch->causes = GB_CAUSE_SPILL_GONE;
	} else {
		watch->free = st.f_bavail * (st.f_frsize ?: st.f_bsize);
		watch->level = judge(watch, watch->free);
		watch->causes = watch->level ? GB_CAUSE_SPILL : 0;
	}
	/* With the answer before it: the watchdog's again, see gb_spill_tick(). */
	smp_store_release(&watch->asked, false);
	kref_put(&watch->refs, watch_free);
	module_put(THIS_MODULE);
}

/* Takes the answer to the last question, and asks the next one. */
void gb_spill_tick(struct gb_client *client)
{
	struct gb_spill_watch *watch;

	spin_lock(&client->lock);
	watch = client->spill;
	/* The answer comes with it, see ask(). */
	if (watch && !smp_load_acquire(&watch->asked)) {
		client->spill_level = watch->level;
		client->spill_causes = watch->causes;
		atomic64_set(&client->spill_free, watch->free);
		watch->asked = true;
		watch->asked_at = jiffies;
		kref_get(&watch->refs);
		__module_get(THIS_MODULE);
		queue_work(queue, &watch->work);
	} else if (watch && time_after(jiffies, watch->asked_at + PATIENCE)) {
		client->spill_level = GB_LEVEL_CRITICAL;
		client->spill_causes = GB_CAUSE_SPILL_GONE;
		atomic64_set(&client->spill_free, 0);
	}
	spin_unlock(&client->lock);
}

static void replace(struct gb_client *client, struct gb_spill_watch *watch)
{
	spin_lock(&client->lock);
	swap(client->spill, watch);
	client->spill_level = GB_LEVEL_OK;
	client->spill_causes = 0;
	atomic64_set(&client->spill_free, 0);
	spin_unlock(&client->lock);
	if (watch)
		kref_put(&watch->refs, watch_free);
}

void gb_spill_clear(struct gb_client *client)
{
	replace(client, NULL);
}

int gb_spill_set(struct gb_client *client, const struct gb_spill *req)
{
	struct gb_spill_watch *watch;
	struct file *dir;
	int err = 0;

	if (req->critical > req->low)
		return -EINVAL;
	dir = fget(req->dir_fd);
	if (!dir)
		return -EBADF;
	if (!S_ISDIR(file_inode(dir)->i_mode)) {
		err = -ENOTDIR;
		goto put;
	}
	watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);
	if (!watch) {
		err = -ENOMEM;
		goto put;
	}
	kref_init(&watch->refs);
	INIT_WORK(&watch->work, ask);
	watch->low = req->low;
	watch->critical = req->critical;
	watch->path = dir->f_path;
	path_get(&watch->path);
	replace(client, watch);
put:
	fput(dir);
	return err;
}

int gb_spill_start(void)
{
	queue = alloc_workqueue("greenboost_spill", WQ_UNBOUND, 0);
	return queue ? 0 : -ENOMEM;
}

/* The last worker may still be on its way out of its function. */
void gb_spill_stop(void)
{
	destroy_workqueue(queue);
}
