// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calls, one row each. What is common to all of them happens in one place:
 * copying in, copying out, and giving a new DMA-BUF its number last of all, so
 * that a call that fails leaves nothing behind.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/uaccess.h>

#include "greenboost.h"

union gb_arg {
	struct gb_info info;
	struct gb_alloc alloc;
	struct gb_query query;
	struct gb_seal seal;
	struct gb_publish publish;
	struct gb_open open;
	struct gb_withdraw withdraw;
	struct gb_spill spill;
	struct gb_eventfd eventfd;
};

static bool label_ok(const char *label)
{
	const char *c;

	for (c = label; c < label + GB_LABEL_LEN && *c; c++) {
		if (*c <= ' ' || *c > '~')
			return false;
	}
	return c < label + GB_LABEL_LEN;
}

static u64 spent(const atomic64_t *bytes)
{
	return atomic64_read(bytes);
}

static int call_info(struct gb_client *client, union gb_arg *arg,
		     struct gb_export *export)
{
	spin_lock(&client->lock);
	arg->info = (struct gb_info) {
		.abi_major = GB_ABI_MAJOR,
		.abi_minor = GB_ABI_MINOR,
		.level = client->level,
		.causes = client->causes,
	};
	spin_unlock(&client->lock);
	arg->info.pool_limit = READ_ONCE(gb_limits[GB_LIMIT_POOL]);
	arg->info.pool_used = spent(&gb_pool_used);
	arg->info.user_limit = READ_ONCE(gb_limits[GB_LIMIT_USER]);
	arg->info.user_used = spent(&client->user->used);
	arg->info.file_limit = READ_ONCE(gb_limits[GB_LIMIT_FILE]);
	arg->info.file_used = spent(&client->used);
	arg->info.reserve_target = gb_reserve_target();
	arg->info.reserve_ready = gb_reserve_ready();
	arg->info.cache_limit = READ_ONCE(gb_cache_limit);
	arg->info.cache_used = gb_share_idle();
	arg->info.available = gb_available();
	arg->info.decline = gb_decline();
	arg->info.spill_free = spent(&client->spill_free);
	arg->info.refused = spent(&gb_counters.refused);
	return 0;
}

static int call_alloc(struct gb_client *client, union gb_arg *arg,
		      struct gb_export *export)
{
	struct gb_alloc *req = &arg->alloc;
	struct gb_buffer *buf;
	int err;

	if (req->flags & ~GB_ALLOC_MIXED || req->reserved || !req->bytes ||
	    req->bytes % GB_CHUNK_SIZE || req->bytes > LONG_MAX ||
	    !label_ok(req->label))
		return -EINVAL;
	if (req->node < -1 || (req->node >= 0 && (req->node >= nr_node_ids ||
						  !node_online(req->node))))
		return -EINVAL;

	buf = READ_ONCE(client->level) == GB_LEVEL_CRITICAL ?
		ERR_PTR(-EAGAIN) : gb_buffer_create(client, req);
	if (IS_ERR(buf)) {
		atomic64_inc(&gb_counters.refused);
		return PTR_ERR(buf);
	}
	req->id = buf->id;
	req->small_bytes = (u64)buf->nr_small << PAGE_SHIFT;
	req->ready_bytes = (u64)buf->nr_ready * GB_CHUNK_SIZE;
	err = gb_export(buf, O_RDWR, export);
	req->fd = export->fd;
	return err;
}

static int call_query(struct gb_client *client, union gb_arg *arg,
		      struct gb_export *export)
{
	if (arg->query.reserved[0] || arg->query.reserved[1])
		return -EINVAL;
	return gb_buffer_query(client, &arg->query);
}

static int call_seal(struct gb_client *client, union gb_arg *arg,
		     struct gb_export *export)
{
	struct gb_buffer *buf;
	struct dma_buf *dmabuf;
	int err = -EPERM;

	if (arg->seal.flags)
		return -EINVAL;
	buf = gb_buffer_from_fd(arg->seal.fd, &dmabuf);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	if (buf->client->user == client->user)
		err = gb_buffer_seal(buf);
	dma_buf_put(dmabuf);
	return err;
}

static int call_publish(struct gb_client *client, union gb_arg *arg,
			struct gb_export *export)
{
	struct gb_publish *req = &arg->publish;
	struct gb_buffer *buf;
	struct dma_buf *dmabuf;
	int err;

	if (req->reserved || req->key.reserved)
		return -EINVAL;
	buf = gb_buffer_from_fd(req->fd, &dmabuf);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	err = gb_share_publish(client, buf, &req->key, req->ttl_ms);
	dma_buf_put(dmabuf);
	return err;
}

static int call_open(struct gb_client *client, union gb_arg *arg,
		     struct gb_export *export)
{
	struct gb_open *req = &arg->open;
	struct gb_buffer *buf;
	int err;

	if (req->flags || req->key.reserved)
		return -EINVAL;
	buf = gb_share_open(client, &req->key);
	if (!buf)
		return -ENOENT;
	req->id = buf->id;
	req->bytes = buf->bytes;
	err = gb_export(buf, O_RDONLY, export);
	req->fd = export->fd;
	return err;
}

static int call_withdraw(struct gb_client *client, union gb_arg *arg,
			 struct gb_export *export)
{
	if (arg->withdraw.reserved || arg->withdraw.key.reserved)
		return -EINVAL;
	return gb_share_withdraw(client, &arg->withdraw.key);
}

static int call_spill(struct gb_client *client, union gb_arg *arg,
		      struct gb_export *export)
{
	if (arg->spill.flags || arg->spill.dir_fd < -1)
		return -EINVAL;
	if (arg->spill.dir_fd >= 0)
		return gb_spill_set(client, &arg->spill);
	gb_spill_clear(client);
	return 0;
}

static int call_eventfd(struct gb_client *client, union gb_arg *arg,
			struct gb_export *export)
{
	if (arg->eventfd.flags || arg->eventfd.fd < -1)
		return -EINVAL;
	return gb_client_set_eventfd(client, arg->eventfd.fd);
}

static const struct {
	unsigned int cmd;
	int (*call)(struct gb_client *client, union gb_arg *arg,
		    struct gb_export *export);
} calls[] = {
	{ GB_IOC_INFO, call_info },
	{ GB_IOC_ALLOC, call_alloc },
	{ GB_IOC_QUERY, call_query },
	{ GB_IOC_SEAL, call_seal },
	{ GB_IOC_PUBLISH, call_publish },
	{ GB_IOC_OPEN, call_open },
	{ GB_IOC_WITHDRAW, call_withdraw },
	{ GB_IOC_SPILL, call_spill },
	{ GB_IOC_EVENTFD, call_eventfd },
};

long gb_ioctl(struct file *file, unsigned int cmd, unsigned long uarg)
{
	void __user *user = (void __user *)uarg;
	struct gb_export export = { .fd = -1 };
	unsigned int size = _IOC_SIZE(cmd);
	union gb_arg arg = {};
	int i, err;

	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		if (calls[i].cmd == cmd)
			break;
	}
	if (i == ARRAY_SIZE(calls))
		return -ENOTTY;
	if (_IOC_DIR(cmd) & _IOC_WRITE && copy_from_user(&arg, user, size))
		return -EFAULT;
	err = calls[i].call(file->private_data, &arg, &export);
	if (err)
		return err;
	if (_IOC_DIR(cmd) & _IOC_READ && copy_to_user(user, &arg, size)) {
		if (export.dmabuf) {
			put_unused_fd(export.fd);
			dma_buf_put(export.dmabuf);
		}
		return -EFAULT;
	}
	if (export.dmabuf)
		fd_install(export.fd, export.dmabuf->file);
	return 0;
}

/* The ABI: a size or an offset that changes breaks somebody. */
#define SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes))
#define OFFSET(type, field, bytes) \
	static_assert(offsetof(struct type, field) == (bytes))

SIZE(gb_info, 160);
OFFSET(gb_info, pool_limit, 16);
OFFSET(gb_info, refused, 120);
OFFSET(gb_info, reserved, 128);
SIZE(gb_alloc, 80);
OFFSET(gb_alloc, node, 12);
OFFSET(gb_alloc, label, 16);
OFFSET(gb_alloc, id, 48);
OFFSET(gb_alloc, fd, 72);
SIZE(gb_query, 88);
OFFSET(gb_query, state, 24);
OFFSET(gb_query, label, 40);
SIZE(gb_seal, 8);
SIZE(gb_key, 64);
OFFSET(gb_key, layout, 48);
SIZE(gb_publish, 80);
OFFSET(gb_publish, fd, 64);
SIZE(gb_open, 88);
OFFSET(gb_open, fd, 80);
SIZE(gb_withdraw, 72);
SIZE(gb_spill, 24);
OFFSET(gb_spill, low, 8);
SIZE(gb_eventfd, 8);
SIZE(gb_event, 32);
OFFSET(gb_event, seq, 8);
