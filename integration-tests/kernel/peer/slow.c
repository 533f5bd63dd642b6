// SPDX-License-Identifier: GPL-2.0-only
/*
 * An empty filesystem for one question: how much is free. It counts in pieces
 * of another size than it likes to be written in, as network filesystems do;
 * and where it is told to hang it does not answer, as they do as well.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/module.h>
#include <linux/statfs.h>
#include <linux/wait.h>

#include "peer.h"

#define MAGIC 0x67627370

static DECLARE_WAIT_QUEUE_HEAD(told);
static bool hanging;

/* Of no use to those who watch for tasks that wait too long. */
static int slow_statfs(struct dentry *dentry, struct kstatfs *st)
{
	wait_event_idle(told, !READ_ONCE(hanging));
	st->f_type = MAGIC;
	st->f_bsize = 1 << 20;
	st->f_frsize = 4096;
	st->f_blocks = 1 << 16;
	st->f_bfree = 1 << 15;
	st->f_bavail = 1 << 14;
	return 0;
}

void peer_slow_hang(bool hang)
{
	WRITE_ONCE(hanging, hang);
	wake_up(&told);
}

static const struct super_operations slow_ops = { .statfs = slow_statfs };

static int slow_fill(struct super_block *sb, struct fs_context *fc)
{
	static const struct tree_descr nothing[] = { { "" } };
	int err = simple_fill_super(sb, MAGIC, nothing);

	if (!err)
		sb->s_op = &slow_ops;
	return err;
}

static int slow_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, slow_fill);
}

static const struct fs_context_operations slow_context = {
	.get_tree = slow_get_tree,
};

static int slow_init(struct fs_context *fc)
{
	fc->ops = &slow_context;
	return 0;
}

static struct file_system_type slow_type = {
	.owner = THIS_MODULE,
	.name = "gb_slow",
	.init_fs_context = slow_init,
	.kill_sb = kill_anon_super,
};

int peer_slow_start(void)
{
	return register_filesystem(&slow_type);
}

void peer_slow_stop(void)
{
	unregister_filesystem(&slow_type);
}
