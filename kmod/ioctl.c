// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calls. Each copies in, works, copies out, and gives a new DMA-BUF its
 * number last of all, so that a call that fails leaves nothing behind.
 */
#include <linux/cpuset.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/uaccess.h>

#include "greenboost.h"

static u64 read_bytes(const atomic64_t *bytes)
{
	return atomic64_read(bytes);
}

static long call_info(struct gb_client *client, void __user *to)
{
	struct gb_state state = gb_state();
	struct gb_info info = {
		.abi_major = GB_ABI_MAJOR,
		.abi_minor = GB_ABI_MINOR,
		.ram_level = state.ram_level,
		.spill_level = state.spill_level,
		.causes = state.causes,
		.pool_limit_bytes = READ_ONCE(gb_limits[GB_LIMIT_POOL]),
		.pool_used_bytes = read_bytes(&gb_pool_used),
		.user_limit_bytes = READ_ONCE(gb_limits[GB_LIMIT_USER]),
		.user_used_bytes = read_bytes(&client->user->used),
		.file_limit_bytes = READ_ONCE(gb_limits[GB_LIMIT_FILE]),
		.file_used_bytes = read_bytes(&client->used),
		.reserve_wanted_bytes = gb_reserve_wanted(),
		.reserve_ready_bytes = gb_reserve_ready(),
		.available_bytes = gb_available(),
		.decline_bytes_per_s = gb_decline(),
		.spill_free_bytes = state.spill_free,
		.refused = read_bytes(&gb_counters.refused),
	};

	return copy_to_user(to, &info, sizeof(info)) ? -EFAULT : 0;
}

static bool valid(const struct gb_alloc *req)
{
	if (req->flags || req->reserved || !req->bytes ||
	    req->bytes % GB_CHUNK_BYTES || req->bytes > LONG_MAX)
		return false;
	return req->node == -1 ||
	       (req->node >= 0 && req->node < nr_node_ids &&
		node_online(req->node) &&
		node_isset(req->node, cpuset_current_mems_allowed));
}

static long call_alloc(struct gb_client *client, void __user *user)
{
	struct dma_buf *dmabuf;
	struct gb_buffer *buf;
	struct gb_alloc req;

	if (copy_from_user(&req, user, sizeof(req)))
		return -EFAULT;
	if (!valid(&req))
		return -EINVAL;
	buf = gb_buffer_create(client, req.bytes, req.node);
	if (IS_ERR(buf)) {
		atomic64_inc(&gb_counters.refused);
		return PTR_ERR(buf);
	}
	req.ready_bytes = (u64)buf->nr_ready * GB_CHUNK_BYTES;
	req.fd = get_unused_fd_flags(O_CLOEXEC);
	if (req.fd < 0) {
		gb_buffer_release(buf);
		return req.fd;
	}
	dmabuf = gb_export(buf);
	if (IS_ERR(dmabuf)) {
		put_unused_fd(req.fd);
		return PTR_ERR(dmabuf);
	}
	if (copy_to_user(user, &req, sizeof(req))) {
		put_unused_fd(req.fd);
		dma_buf_put(dmabuf);
		return -EFAULT;
	}
	fd_install(req.fd, dmabuf->file);
	return 0;
}

long gb_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case GB_IOC_INFO:
		return call_info(file->private_data, user);
	case GB_IOC_ALLOC:
		return call_alloc(file->private_data, user);
	default:
		return -ENOTTY;
	}
}

/* The ABI: a size or an offset that changes breaks somebody. */
#define SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes))
#define OFFSET(type, field, bytes) \
	static_assert(offsetof(struct type, field) == (bytes))

SIZE(gb_info, 152);
OFFSET(gb_info, pool_limit_bytes, 24);
OFFSET(gb_info, refused, 112);
OFFSET(gb_info, reserved, 120);
SIZE(gb_alloc, 32);
OFFSET(gb_alloc, node, 12);
OFFSET(gb_alloc, fd, 24);
SIZE(gb_event, 40);
OFFSET(gb_event, seq, 16);
