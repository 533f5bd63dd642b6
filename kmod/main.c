// SPDX-License-Identifier: GPL-2.0-only
/*
 * GreenBoost: a pool of 2 MiB pages as DMA-BUFs, for memory that a GPU uses
 * next to its own. See docs/kernel-module.md, and greenboost.h for what is
 * where.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "greenboost.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static int gb_file_open(struct inode *inode, struct file *file)
{
	struct gb_client *client = gb_client_create();

	if (!client)
		return -ENOMEM;
	file->private_data = client;
	return nonseekable_open(inode, file);
}

static int gb_file_release(struct inode *inode, struct file *file)
{
	gb_client_close(file->private_data);
	return 0;
}

static bool news(struct gb_client *client)
{
	return READ_ONCE(client->seq) != READ_ONCE(client->seen);
}

static __poll_t gb_file_poll(struct file *file, poll_table *table)
{
	struct gb_client *client = file->private_data;

	poll_wait(file, &client->wait, table);
	return news(client) ? EPOLLIN | EPOLLRDNORM | EPOLLPRI : 0;
}

static ssize_t gb_file_read(struct file *file, char __user *to, size_t size,
			    loff_t *pos)
{
	struct gb_client *client = file->private_data;
	struct gb_event event = {};
	int err;

	if (size < sizeof(event))
		return -EINVAL;
	if (!news(client)) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = wait_event_interruptible(client->wait, news(client));
		if (err)
			return err;
	}
	spin_lock(&client->lock);
	event.level = client->level;
	event.causes = client->causes;
	event.seq = client->seq;
	client->seen = client->seq;
	spin_unlock(&client->lock);
	event.available = gb_available();
	event.spill_free = atomic64_read(&client->spill_free);
	return copy_to_user(to, &event, sizeof(event)) ? -EFAULT : sizeof(event);
}

static const struct file_operations gb_fops = {
	.owner = THIS_MODULE,
	.open = gb_file_open,
	.release = gb_file_release,
	.unlocked_ioctl = gb_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = gb_file_poll,
	.read = gb_file_read,
};

static struct miscdevice gb_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "greenboost",
	.mode = 0660,
	.fops = &gb_fops,
	.groups = gb_sysfs_groups,
};

static ulong pool_mb, user_mb, file_mb, reserve_mb, cache_mb, low_mb, critical_mb;
static uint cache_ttl_s = 600;
static uint watchdog_ms = 100;

module_param(pool_mb, ulong, 0444);
MODULE_PARM_DESC(pool_mb, "Limit of the pool in MiB (default: RAM less a quarter, at least 1 GiB of it)");
module_param(user_mb, ulong, 0444);
MODULE_PARM_DESC(user_mb, "Limit of one user in MiB (default: the pool's)");
module_param(file_mb, ulong, 0444);
MODULE_PARM_DESC(file_mb, "Limit of one open file in MiB (default: the user's)");
module_param(reserve_mb, ulong, 0444);
MODULE_PARM_DESC(reserve_mb, "Memory kept ready in MiB (default: 0)");
module_param(cache_mb, ulong, 0444);
MODULE_PARM_DESC(cache_mb, "Unused shared objects in MiB (default: half the pool)");
module_param(cache_ttl_s, uint, 0444);
MODULE_PARM_DESC(cache_ttl_s, "Seconds an unused shared object is kept (default: 600)");
module_param(low_mb, ulong, 0444);
MODULE_PARM_DESC(low_mb, "Available RAM in MiB below which the level is low (default: RAM / 10)");
module_param(critical_mb, ulong, 0444);
MODULE_PARM_DESC(critical_mb, "The same for critical (default: RAM / 20)");
module_param(watchdog_ms, uint, 0444);
MODULE_PARM_DESC(watchdog_ms, "The watchdog looks so often (default: 100)");

static u64 mb_or(ulong mb, u64 otherwise)
{
	return mb ? (u64)mb << 20 : otherwise;
}

/* What is left to the machine: a quarter, and 1 GiB even of a small one. */
static u64 pool_default(u64 ram)
{
	u64 left = max(ram / 4, (u64)SZ_1G);

	return ram > left + SZ_64M ? ram - left : SZ_64M;
}

static int __init gb_init(void)
{
	u64 ram = (u64)totalram_pages() << PAGE_SHIFT;
	u64 pool = mb_or(pool_mb, pool_default(ram));
	u64 user = mb_or(user_mb, pool);
	int err;

	gb_budget_init(pool, user, mb_or(file_mb, user));
	gb_cache_limit = mb_or(cache_mb, pool / 2);
	gb_cache_ttl_ms = min(cache_ttl_s, UINT_MAX / 1000) * 1000;

	gb_low_mark = mb_or(low_mb, ram / 10);
	gb_critical_mark = min(mb_or(critical_mb, ram / 20), gb_low_mark);

	err = gb_spill_start();
	if (err)
		return err;
	err = gb_reserve_start((u64)reserve_mb << 20);
	if (err)
		goto stop_spill;
	err = gb_watchdog_start(watchdog_ms);
	if (err)
		goto stop_reserve;
	gb_debugfs_start();
	err = misc_register(&gb_device);
	if (err)
		goto stop_watchdog;
	return 0;

stop_watchdog:
	gb_debugfs_stop();
	gb_watchdog_stop();
stop_reserve:
	gb_reserve_stop();
stop_spill:
	gb_spill_stop();
	return err;
}

/* Open files and DMA-BUFs hold the module: here nobody uses anything. */
static void __exit gb_exit(void)
{
	misc_deregister(&gb_device);
	gb_debugfs_stop();
	gb_watchdog_stop();
	gb_spill_stop();
	gb_share_stop();
	gb_buffer_reap(true);
	gb_reserve_stop();
}

module_init(gb_init);
module_exit(gb_exit);

MODULE_DESCRIPTION("A pool of ready 2 MiB pages as DMA-BUFs, with a watchdog");
MODULE_AUTHOR("The GreenBoost authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
GB_IMPORT_NS(DMA_BUF);
