/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the module know of each other.
 *
 *	main.c		the device: open, close, read, poll; loading, unloading
 *	ioctl.c		the two calls
 *	client.c	open files and their users
 *	budget.c	pool, user and file limits
 *	buffer.c	an allocation, and what is pinned beyond its end
 *	populate.c	getting its pages
 *	reserve.c	pages kept ready
 *	dmabuf.c	what importers may do with it
 *	map.c		what processes may do with it
 *	level.c		the levels, and who hears of them
 *	watchdog.c	the level of RAM
 *	spill.c		the level of the spill path
 *	sysfs.c		what can be watched and set
 *
 * Every lock is a spinlock, held for a few instructions and innermost: whoever
 * holds one cannot be kept off its processor, and no page is allocated, zeroed
 * or freed under one. Exceptions: gb_buffer::lock, which only importers of that
 * buffer take, and the mutexes of settings, which only root takes.
 */
#ifndef _GREENBOOST_H
#define _GREENBOOST_H

#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/dma-buf.h>
#include <linux/huge_mm.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <uapi/greenboost.h>

#define GB_CHUNK_ORDER	(21 - PAGE_SHIFT)
#define GB_CHUNK_PAGES	(1UL << GB_CHUNK_ORDER)

struct gb_user {
	struct list_head node;
	unsigned int refs;	/* these two by the lock of client.c */
	unsigned int files;
	kuid_t uid;
	atomic64_t used;
};

/* An open file of the device. Its buffers keep it after it is closed. */
struct gb_client {
	struct kref refs;
	struct gb_user *user;
	atomic64_t used;
	u64 seen;		/* the last change of a level that it was told */
};

struct gb_buffer {
	u64 bytes;
	struct gb_client *client;
	int node;
	bool touched;		/* somebody may have written to it */

	/* The first nr_ready are the reserve's, uncharged. */
	struct page **chunks;
	unsigned long nr_chunks;
	unsigned long nr_ready;

	struct mutex lock;	/* of the attachments */
	struct list_head attachments;

	struct list_head linger;
	unsigned long first_held;	/* those before it are free already */
};

/* main.c, ioctl.c */
extern struct workqueue_struct *gb_workqueue;
long gb_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* client.c */
struct gb_client *gb_client_create(void);
void gb_client_close(struct gb_client *client);
void gb_client_get(struct gb_client *client);
void gb_client_put(struct gb_client *client);
bool gb_any_client(void);

/* budget.c */
enum gb_limit { GB_LIMIT_POOL, GB_LIMIT_USER, GB_LIMIT_FILE, GB_NR_LIMITS };
extern u64 gb_limits[GB_NR_LIMITS];
extern atomic64_t gb_pool_used;
int gb_charge(struct gb_client *client, u64 bytes);
void gb_uncharge(struct gb_client *client, u64 bytes);

/* buffer.c */
struct gb_buffer *gb_buffer_create(struct gb_client *client, u64 bytes, int node);
void gb_buffer_release(struct gb_buffer *buf);
struct page *gb_buffer_page(struct gb_buffer *buf, unsigned long index);
void gb_buffers_stop(void);

/* populate.c */
int gb_populate(struct gb_buffer *buf);
void gb_depopulate(struct gb_buffer *buf);

/* reserve.c */
int gb_reserve_start(u64 bytes);
void gb_reserve_stop(void);
void gb_reserve_resize(u64 bytes);
void gb_reserve_kick(void);
void gb_reserve_shrink(u64 bytes);
unsigned long gb_reserve_usable(int node);
unsigned long gb_reserve_take(struct page **pages, unsigned long want, int node,
			      unsigned long *dirty);
bool gb_reserve_give(struct page *page, bool zeroed);
void gb_chunk_zero(struct page *page);
void gb_chunk_free(struct page *page);
u64 gb_reserve_wanted(void);
u64 gb_reserve_ready(void);
u64 gb_reserve_held(void);

/* dmabuf.c */
struct dma_buf *gb_export(struct gb_buffer *buf);

/* map.c */
int gb_mmap(struct gb_buffer *buf, struct vm_area_struct *vma);

/* level.c */
struct gb_marks {
	u64 low;
	u64 critical;
};

struct gb_state {
	u32 ram_level;
	u32 spill_level;
	u32 causes;
	u64 seq;
	u64 spill_free;
};

extern struct wait_queue_head gb_news;
extern atomic64_t gb_level_counts[3];
struct gb_state gb_state(void);
int gb_marks_set(struct gb_marks *marks, u64 low, u64 critical);
u32 gb_level_of(const struct gb_marks *marks, u64 left, u32 level);
u32 gb_ram_level(void);
bool gb_ram_short(void);
void gb_ram_level_set(u32 from, u32 to, u32 causes);
void gb_spill_level_set(u32 to, u32 causes, u64 free);

/* watchdog.c */
extern struct gb_marks gb_ram_marks;
int gb_watchdog_start(unsigned int period_ms);
void gb_watchdog_stop(void);
void gb_watchdog_kick(void);
u64 gb_available(void);
u64 gb_decline(void);

/* spill.c */
extern struct gb_marks gb_spill_marks;
int gb_spill_start(void);
void gb_spill_stop(void);
int gb_spill_path_set(const char *path);
ssize_t gb_spill_path_show(char *out);
void gb_spill_tick(void);

/* sysfs.c */
struct gb_counters {
	atomic64_t allocations;
	atomic64_t frees;
	atomic64_t refused;
	atomic64_t reserve_hits;
};

extern struct gb_counters gb_counters;
extern const struct attribute_group *gb_sysfs_groups[];

#endif /* _GREENBOOST_H */
