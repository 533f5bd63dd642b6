// SPDX-License-Identifier: GPL-2.0-only
/* /sys/kernel/debug/greenboost: who holds what, for a person to read. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "greenboost.h"

static struct dentry *dir;

static int clients_show(struct seq_file *m, void *unused)
{
	struct gb_client *client;

	seq_puts(m, "pid uid used user_used level causes seq spill_free comm\n");
	mutex_lock(&gb_clients_lock);
	list_for_each_entry(client, &gb_clients, node)
		seq_printf(m, "%d %u %lld %lld %u %#x %llu %lld %s\n",
			   client->pid,
			   from_kuid_munged(seq_user_ns(m), client->user->uid),
			   atomic64_read(&client->used),
			   atomic64_read(&client->user->used),
			   client->level, client->causes, client->seq,
			   atomic64_read(&client->spill_free), client->comm);
	mutex_unlock(&gb_clients_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(clients);

static int buffers_show(struct seq_file *m, void *unused)
{
	gb_buffers_show(m);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(buffers);

void gb_debugfs_start(void)
{
	dir = debugfs_create_dir("greenboost", NULL);
	debugfs_create_file("clients", 0400, dir, NULL, &clients_fops);
	debugfs_create_file("buffers", 0400, dir, NULL, &buffers_fops);
}

void gb_debugfs_stop(void)
{
	debugfs_remove_recursive(dir);
}
