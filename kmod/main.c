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

struct workqueue_struct *gb_workqueue;

static int gb_file_open(struct inode *inode, struct file *file)
{
	struct gb_client *client = gb_client_create();

	if (IS_ERR(client))
		return PTR_ERR(client);
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
	return gb_state().seq != READ_ONCE(client->seen);
}

static __poll_t gb_file_poll(struct file *file, poll_table *table)
{
	poll_wait(file, &gb_news, table);
	return news(file->private_data) ? EPOLLIN | EPOLLRDNORM | EPOLLPRI : 0;
}

static ssize_t gb_file_read(struct file *file, char __user *to, size_t size,
			    loff_t *pos)
{
	struct gb_client *client = file->private_data;
	struct gb_event event = {};
	struct gb_state state;
	int err;

	if (size < sizeof(event))
		return -EINVAL;
	if (!news(client)) {
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		err = wait_event_interruptible(gb_news, news(client));
		if (err)
			return err;
	}
	state = gb_state();
	event.ram_level = state.ram_level;
	event.spill_level = state.spill_level;
	event.causes = state.causes;
	event.seq = state.seq;
	event.available_bytes = gb_available();
	event.spill_free_bytes = state.spill_free;
	if (copy_to_user(to, &event, sizeof(event)))
		return -EFAULT;
	WRITE_ONCE(client->seen, state.seq);
	return sizeof(event);
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

static ulong pool_mb, user_mb, file_mb, reserve_mb, low_mb, critical_mb;
static uint watchdog_ms = 100;

module_param(pool_mb, ulong, 0444);
MODULE_PARM_DESC(pool_mb, "Limit of the pool in MiB (default: RAM less a quarter, at least 1 GiB of it)");
module_param(user_mb, ulong, 0444);
MODULE_PARM_DESC(user_mb, "Limit of one user in MiB (default: half of RAM, at most 7/8 of the pool)");
module_param(file_mb, ulong, 0444);
MODULE_PARM_DESC(file_mb, "Limit of one open file in MiB (default: the user's)");
module_param(reserve_mb, ulong, 0444);
MODULE_PARM_DESC(reserve_mb, "Memory kept ready in MiB (default: 0)");
module_param(low_mb, ulong, 0444);
MODULE_PARM_DESC(low_mb, "Available RAM in MiB below which the level is low (default: RAM / 10)");
module_param(critical_mb, ulong, 0444);
MODULE_PARM_DESC(critical_mb, "The same for critical (default: RAM / 20)");
module_param(watchdog_ms, uint, 0444);
MODULE_PARM_DESC(watchdog_ms, "While the device is open the watchdog looks this often (default: 100)");

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

static void set_limits(u64 ram)
{
	u64 pool = mb_or(pool_mb, pool_default(ram));
	/* As much as any user may put into /dev/shm, and not all of the pool. */
	u64 user = mb_or(user_mb, min(ram / 2, pool - pool / 8));

	gb_limits[GB_LIMIT_POOL] = pool;
	gb_limits[GB_LIMIT_USER] = user;
	gb_limits[GB_LIMIT_FILE] = mb_or(file_mb, user);
	gb_ram_marks.low = mb_or(low_mb, ram / 10);
	gb_ram_marks.critical = min(mb_or(critical_mb, ram / 20), gb_ram_marks.low);
}

static int __init gb_init(void)
{
	int err;

	set_limits((u64)totalram_pages() << PAGE_SHIFT);
	gb_workqueue = alloc_workqueue("greenboost", WQ_UNBOUND, 0);
	if (!gb_workqueue)
		return -ENOMEM;
	err = gb_reserve_start((u64)reserve_mb << 20);
	if (err)
		goto destroy_workqueue;
	err = gb_spill_start();
	if (err)
		goto stop_reserve;
	err = gb_watchdog_start(watchdog_ms);
	if (err)
		goto stop_spill;
	err = misc_register(&gb_device);
	if (err)
		goto stop_watchdog;
	return 0;

stop_watchdog:
	gb_watchdog_stop();
stop_spill:
	gb_spill_stop();
stop_reserve:
	gb_reserve_stop();
destroy_workqueue:
	destroy_workqueue(gb_workqueue);
	return err;
}

/* Open files and DMA-BUFs hold the module: here nobody uses anything. */
static void __exit gb_exit(void)
{
	misc_deregister(&gb_device);
	gb_watchdog_stop();
	gb_spill_stop();
	gb_buffers_stop();
	gb_reserve_stop();
	destroy_workqueue(gb_workqueue);
}

module_init(gb_init);
module_exit(gb_exit);

MODULE_DESCRIPTION("A pool of ready 2 MiB pages as DMA-BUFs, with a watchdog");
MODULE_AUTHOR("The GreenBoost authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
GB_IMPORT_NS(DMA_BUF);
