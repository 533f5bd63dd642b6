// SPDX-License-Identifier: GPL-2.0-only
/*
 * The filesystem an open file spills to, by a directory in it. Asking a
 * filesystem may take for ever, so a worker asks and the watchdog goes on; one
 * that does not answer counts as gone.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/statfs.h>

#include "greenboost.h"

#define PATIENCE (5 * HZ)

static struct workqueue_struct *queue;

static u32 judge(const struct gb_client *client, u64 free)
{
	u64 low = client->spill_low;
	u64 critical = client->spill_critical;

	/* The level falls a quarter later than it rises. */
	if (client->spill_level == GB_LEVEL_CRITICAL)
		critical += critical / 4;
	if (client->spill_level != GB_LEVEL_OK)
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
	struct gb_client *client = container_of(work, struct gb_client, spill_work);
	struct kstatfs st = {};
	struct path path = {};
	u64 free = 0;
	bool lost;

	spin_lock(&client->lock);
	if (client->spill_set) {
		path = client->spill;
		path_get(&path);
	}
	spin_unlock(&client->lock);
	if (!path.dentry)
		goto put;

	lost = gone(&path, &st);
	if (!lost)
		free = st.f_bavail * st.f_bsize;

	spin_lock(&client->lock);
	if (client->spill_set && path_equal(&path, &client->spill)) {
		client->spill_level = lost ? GB_LEVEL_CRITICAL : judge(client, free);
		client->spill_causes = lost ? GB_CAUSE_SPILL_GONE :
			client->spill_level ? GB_CAUSE_SPILL : 0;
		atomic64_set(&client->spill_free, free);
	}
	spin_unlock(&client->lock);
	path_put(&path);
put:
	gb_client_put(client);
}

void gb_spill_tick(struct gb_client *client)
{
	spin_lock(&client->lock);
	if (client->spill_set && !work_busy(&client->spill_work)) {
		client->spill_asked = jiffies;
		gb_client_get(client);
		if (!queue_work(queue, &client->spill_work))
			gb_client_put(client);
	} else if (client->spill_set &&
		   time_after(jiffies, client->spill_asked + PATIENCE)) {
		client->spill_level = GB_LEVEL_CRITICAL;
		client->spill_causes = GB_CAUSE_SPILL_GONE;
	}
	spin_unlock(&client->lock);
}

static void replace(struct gb_client *client, const struct gb_spill *req,
		    const struct path *path)
{
	struct path old = {};

	spin_lock(&client->lock);
	if (client->spill_set)
		old = client->spill;
	client->spill_set = path;
	client->spill = path ? *path : (struct path){};
	client->spill_low = req ? req->low : 0;
	client->spill_critical = req ? req->critical : 0;
	client->spill_level = GB_LEVEL_OK;
	client->spill_causes = 0;
	client->spill_asked = jiffies;
	spin_unlock(&client->lock);
	if (old.dentry)
		path_put(&old);
}

void gb_spill_clear(struct gb_client *client)
{
	replace(client, NULL, NULL);
	atomic64_set(&client->spill_free, 0);
}

int gb_spill_set(struct gb_client *client, const struct gb_spill *req)
{
	struct file *dir;
	int err = 0;

	if (req->critical > req->low)
		return -EINVAL;
	dir = fget(req->dir_fd);
	if (!dir)
		return -EBADF;
	if (S_ISDIR(file_inode(dir)->i_mode)) {
		path_get(&dir->f_path);
		replace(client, req, &dir->f_path);
	} else {
		err = -ENOTDIR;
	}
	fput(dir);
	return err;
}

void gb_spill_init(struct gb_client *client)
{
	INIT_WORK(&client->spill_work, ask);
}

int gb_spill_start(void)
{
	queue = alloc_workqueue("greenboost_spill", WQ_UNBOUND, 0);
	return queue ? 0 : -ENOMEM;
}

void gb_spill_stop(void)
{
	destroy_workqueue(queue);
}
