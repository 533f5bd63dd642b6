/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the module know of each other.
 *
 *	main.c		the device: open, close, read, poll; loading, unloading
 *	ioctl.c		the calls, one row each
 *	client.c	open files and their users
 *	budget.c	pool, user and file limits
 *	buffer.c	an allocation from birth to its last reference
 *	populate.c	getting its pages
 *	reserve.c	pages kept ready
 *	dmabuf.c	what importers may do with it
 *	map.c		what processes may do with it
 *	share.c		sealed objects that outlive a process
 *	watchdog.c	the level, and who hears of it
 *	spill.c		the filesystem an open file spills to
 *	sysfs.c, debugfs.c, trace.h	what can be watched
 *
 * Locks, outermost first: gb_share_lock; gb_clients_lock; gb_buffer::lock;
 * gb_client::lock, the reserve's lock, the xarray's and the linger lock are
 * spinlocks and innermost.
 */
#ifndef _GREENBOOST_H
#define _GREENBOOST_H

#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/dma-buf.h>
#include <linux/eventfd.h>
#include <linux/huge_mm.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>

#include <uapi/greenboost.h>

#define GB_CHUNK_ORDER	(21 - PAGE_SHIFT)
#define GB_CHUNK_PAGES	(1UL << GB_CHUNK_ORDER)

struct gb_user {
	struct list_head node;
	unsigned int refs;	/* by gb_clients_lock */
	kuid_t uid;
	atomic64_t used;
};

struct gb_spill_watch;

/* An open file of the device. Its buffers keep it after it is closed. */
struct gb_client {
	struct kref refs;
	struct list_head node;
	struct gb_user *user;
	pid_t pid;
	char comm[TASK_COMM_LEN];
	atomic64_t used;
	atomic64_t spill_free;

	spinlock_t lock;	/* the rest */
	u32 level;
	u32 causes;
	u64 seq;
	u64 seen;
	struct eventfd_ctx *eventfd;
	wait_queue_head_t wait;
	struct gb_spill_watch *spill;
	u32 spill_level;
	u32 spill_causes;
};

struct gb_buffer {
	struct kref refs;	/* one per DMA-BUF, one by share.c */
	u64 id;
	u64 bytes;
	struct gb_client *client;
	char label[GB_LABEL_LEN];
	int node;

	/* First nr_huge chunks, the first nr_ready of them the reserve's. */
	struct page **huge;
	struct page **small;
	unsigned long nr_huge;
	unsigned long nr_ready;
	unsigned long nr_small;

	struct mutex lock;	/* seal against mmap, map and vmap */
	struct list_head attachments;
	unsigned int vmaps;
	bool sealed;
	bool shared;
	atomic_t attached;
	atomic_t mappings;
	atomic_t writable_mappings;

	struct list_head linger;
	unsigned long first_held;	/* those before it are free already */
};

/* A DMA-BUF made by a call, and the number it gets if the call succeeds. */
struct gb_export {
	struct dma_buf *dmabuf;
	int fd;
};

/* main.c, ioctl.c */
long gb_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* client.c */
extern struct list_head gb_clients;
extern struct mutex gb_clients_lock;
struct gb_client *gb_client_create(void);
void gb_client_close(struct gb_client *client);
void gb_client_get(struct gb_client *client);
void gb_client_put(struct gb_client *client);
int gb_client_set_eventfd(struct gb_client *client, int fd);
void gb_client_update(struct gb_client *client, u32 level, u32 causes);

/* budget.c */
enum gb_limit { GB_LIMIT_POOL, GB_LIMIT_USER, GB_LIMIT_FILE, GB_NR_LIMITS };
extern u64 gb_limits[GB_NR_LIMITS];
extern atomic64_t gb_pool_used;
void gb_budget_init(u64 pool, u64 user, u64 file);
int gb_charge(struct gb_client *client, u64 bytes);
void gb_uncharge(struct gb_client *client, u64 bytes);

/* buffer.c */
struct gb_buffer *gb_buffer_create(struct gb_client *client,
				   const struct gb_alloc *req);
void gb_buffer_put(struct gb_buffer *buf);
int gb_buffer_query(const struct gb_client *client, struct gb_query *req);
struct page *gb_buffer_page(struct gb_buffer *buf, unsigned long index);
bool gb_buffer_pinned(const struct gb_buffer *buf);
int gb_buffer_seal(struct gb_buffer *buf);
void gb_buffer_reap(bool all);
void gb_buffers_show(struct seq_file *m);

/* populate.c */
int gb_populate(struct gb_buffer *buf, u32 flags);
void gb_depopulate(struct gb_buffer *buf);

/* reserve.c */
int gb_reserve_start(u64 bytes);
void gb_reserve_stop(void);
void gb_reserve_resize(u64 bytes);
void gb_reserve_kick(void);
unsigned long gb_reserve_drop(unsigned long keep);
u64 gb_reserve_shrink(u64 bytes);
unsigned long gb_reserve_take(struct page **pages, unsigned long want, int node);
bool gb_reserve_give(struct page *page);
u64 gb_reserve_target(void);
u64 gb_reserve_ready(void);

/* dmabuf.c */
int gb_export(struct gb_buffer *buf, int flags, struct gb_export *export);
struct gb_buffer *gb_buffer_from_fd(int fd, struct dma_buf **dmabuf);

/* map.c */
int gb_mmap(struct gb_buffer *buf, struct vm_area_struct *vma);

/* share.c */
extern u64 gb_cache_limit;
extern unsigned int gb_cache_ttl_ms;
int gb_share_publish(struct gb_client *client, struct gb_buffer *buf,
		     const struct gb_key *key, unsigned int ttl_ms);
struct gb_buffer *gb_share_open(struct gb_client *client,
				const struct gb_key *key);
int gb_share_withdraw(struct gb_client *client, const struct gb_key *key);
u64 gb_share_evict(u64 bytes);
u64 gb_share_evict_at_oom(void);
bool gb_share_make_room(const struct gb_client *client,
			const u64 lack[GB_NR_LIMITS]);
void gb_share_tick(u32 level);
void gb_share_stop(void);
u64 gb_share_idle(void);

/* watchdog.c */
extern u64 gb_low_mark;
extern u64 gb_critical_mark;
extern atomic64_t gb_level_counts[3];
int gb_low_mark_set(u64 bytes);
int gb_critical_mark_set(u64 bytes);
int gb_watchdog_start(unsigned int period_ms);
void gb_watchdog_stop(void);
u32 gb_level(u32 *causes);
u64 gb_available(void);
u64 gb_decline(void);
u64 gb_shortage(u64 bytes);

/* spill.c */
int gb_spill_start(void);
void gb_spill_stop(void);
int gb_spill_set(struct gb_client *client, const struct gb_spill *req);
void gb_spill_clear(struct gb_client *client);
void gb_spill_tick(struct gb_client *client);

/* sysfs.c, debugfs.c */
struct gb_counters {
	atomic64_t allocations;
	atomic64_t frees;
	atomic64_t refused;
	atomic64_t reserve_hits;
};

extern struct gb_counters gb_counters;
extern const struct attribute_group *gb_sysfs_groups[];
void gb_debugfs_start(void);
void gb_debugfs_stop(void);

#endif /* _GREENBOOST_H */
