/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The interface of /dev/greenboost.
 *
 * Every struct has a fixed size, the same for 32- and 64-bit programs. Fields
 * called reserved are zero on the way in, and flags that are not defined here
 * are refused, so that both can get a meaning later.
 */
#ifndef _UAPI_GREENBOOST_H
#define _UAPI_GREENBOOST_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define GB_ABI_MAJOR	1
#define GB_ABI_MINOR	0

/* The unit of allocation, and the congruence a mapping needs: 2 MiB. */
#define GB_CHUNK_SIZE	(2ULL << 20)
#define GB_LABEL_LEN	32

enum gb_level {
	GB_LEVEL_OK = 0,
	GB_LEVEL_LOW = 1,	/* give back what is idle, stop growing */
	GB_LEVEL_CRITICAL = 2,	/* allocations are refused with EAGAIN */
};

/* Why the level is not GB_LEVEL_OK. */
#define GB_CAUSE_MEMORY		(1U << 0)	/* little available RAM */
#define GB_CAUSE_DECLINE	(1U << 1)	/* available RAM falls fast */
#define GB_CAUSE_POOL		(1U << 2)	/* the pool is nearly full */
#define GB_CAUSE_SPILL		(1U << 3)	/* little space for spilling */
#define GB_CAUSE_SPILL_GONE	(1U << 4)	/* nowhere to spill to */

struct gb_info {
	__u32 abi_major;
	__u32 abi_minor;
	__u32 level;		/* as this open file sees it */
	__u32 causes;
	__aligned_u64 pool_limit;
	__aligned_u64 pool_used;
	__aligned_u64 user_limit;
	__aligned_u64 user_used;
	__aligned_u64 file_limit;
	__aligned_u64 file_used;
	__aligned_u64 reserve_target;
	__aligned_u64 reserve_ready;
	__aligned_u64 cache_limit;
	__aligned_u64 cache_used;	/* shared and in nobody's use */
	__aligned_u64 available;	/* RAM */
	__aligned_u64 decline;		/* of available RAM, bytes a second */
	__aligned_u64 spill_free;
	__aligned_u64 refused;		/* allocations, since loading */
	__aligned_u64 reserved[4];
};

/* 4 KiB pages where 2 MiB pages run out; without it that is ENOMEM. */
#define GB_ALLOC_MIXED	(1U << 0)

struct gb_alloc {
	__aligned_u64 bytes;	/* a multiple of GB_CHUNK_SIZE */
	__u32 flags;
	__s32 node;		/* all memory from this NUMA node; -1: any */
	char label[GB_LABEL_LEN];
	__aligned_u64 id;		/* out */
	__aligned_u64 small_bytes;	/* out: in 4 KiB pages, at the end */
	__aligned_u64 ready_bytes;	/* out: taken from the reserve */
	__s32 fd;		/* out: a DMA-BUF, close-on-exec */
	__u32 reserved;
};

#define GB_STATE_SEALED	(1U << 0)
#define GB_STATE_SHARED	(1U << 1)

struct gb_query {
	__aligned_u64 id;	/* in */
	__aligned_u64 bytes;
	__aligned_u64 small_bytes;
	__u32 state;
	__u32 uid;
	__u32 mappings;
	__u32 attachments;
	char label[GB_LABEL_LEN];
	__aligned_u64 reserved[2];
};

/* No more writes, for ever: refused with EBUSY while anything could write. */
struct gb_seal {
	__s32 fd;
	__u32 flags;
};

/* What bytes these are. The kernel only compares. */
struct gb_key {
	__aligned_u64 dev;
	__aligned_u64 ino;
	__aligned_u64 file_bytes;
	__aligned_u64 mtime_ns;
	__aligned_u64 offset;
	__aligned_u64 bytes;
	__aligned_u64 layout;
	__aligned_u64 reserved;
};

struct gb_publish {
	struct gb_key key;
	__s32 fd;
	__u32 ttl_ms;		/* kept so long after its last use; 0: default */
	__aligned_u64 reserved;
};

struct gb_open {
	struct gb_key key;
	__aligned_u64 id;	/* out */
	__aligned_u64 bytes;	/* out */
	__s32 fd;		/* out: a read-only DMA-BUF, close-on-exec */
	__u32 flags;
};

struct gb_withdraw {
	struct gb_key key;
	__aligned_u64 reserved;
};

struct gb_spill {
	__s32 dir_fd;		/* -1: no longer */
	__u32 flags;
	__aligned_u64 low;	/* free bytes below which the level is low */
	__aligned_u64 critical;
};

struct gb_eventfd {
	__s32 fd;		/* -1: no longer */
	__u32 flags;
};

/* What read() gives: the present state, once after every change of it. */
struct gb_event {
	__u32 level;
	__u32 causes;
	__aligned_u64 seq;
	__aligned_u64 available;
	__aligned_u64 spill_free;
};

#define GB_IOC_MAGIC	0xDC
#define GB_IOC_INFO	_IOR(GB_IOC_MAGIC, 0, struct gb_info)
#define GB_IOC_ALLOC	_IOWR(GB_IOC_MAGIC, 1, struct gb_alloc)
#define GB_IOC_QUERY	_IOWR(GB_IOC_MAGIC, 2, struct gb_query)
#define GB_IOC_SEAL	_IOW(GB_IOC_MAGIC, 3, struct gb_seal)
#define GB_IOC_PUBLISH	_IOW(GB_IOC_MAGIC, 4, struct gb_publish)
#define GB_IOC_OPEN	_IOWR(GB_IOC_MAGIC, 5, struct gb_open)
#define GB_IOC_WITHDRAW	_IOW(GB_IOC_MAGIC, 6, struct gb_withdraw)
#define GB_IOC_SPILL	_IOW(GB_IOC_MAGIC, 7, struct gb_spill)
#define GB_IOC_EVENTFD	_IOW(GB_IOC_MAGIC, 8, struct gb_eventfd)

#endif /* _UAPI_GREENBOOST_H */
