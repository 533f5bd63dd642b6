/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The interface of /dev/greenboost: two calls, and read() with poll().
 *
 * Every struct has a fixed size, the same for 32- and 64-bit programs, and a
 * name says its unit. Fields called reserved are zero on the way in, and flags
 * that are not defined here are refused, so that both can get a meaning later.
 */
#ifndef _UAPI_GREENBOOST_H
#define _UAPI_GREENBOOST_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define GB_ABI_MAJOR	2
#define GB_ABI_MINOR	0

/* The unit of allocation, and the congruence a mapping needs: 2 MiB. */
#define GB_CHUNK_BYTES	(2ULL << 20)

enum gb_level {
	GB_LEVEL_OK = 0,
	GB_LEVEL_LOW = 1,	/* give back what is idle, stop growing */
	GB_LEVEL_CRITICAL = 2,	/* of RAM: ALLOC is refused with EAGAIN */
};

/* Why a level is not GB_LEVEL_OK: the first three RAM's, the last two the spill path's. */
#define GB_CAUSE_MEMORY		(1U << 0)	/* little available RAM */
#define GB_CAUSE_DECLINE	(1U << 1)	/* available RAM falls fast */
#define GB_CAUSE_POOL		(1U << 2)	/* the pool is nearly full */
#define GB_CAUSE_SPILL		(1U << 3)	/* little space at the spill path */
#define GB_CAUSE_SPILL_GONE	(1U << 4)	/* the spill path takes nothing */

struct gb_info {
	__u32 abi_major;
	__u32 abi_minor;
	__u32 ram_level;
	__u32 spill_level;
	__u32 causes;
	__u32 reserved0;
	__aligned_u64 pool_limit_bytes;
	__aligned_u64 pool_used_bytes;
	__aligned_u64 user_limit_bytes;
	__aligned_u64 user_used_bytes;
	__aligned_u64 file_limit_bytes;
	__aligned_u64 file_used_bytes;
	__aligned_u64 reserve_wanted_bytes;
	__aligned_u64 reserve_ready_bytes;
	__aligned_u64 available_bytes;		/* RAM, without the reserve */
	__aligned_u64 decline_bytes_per_s;	/* of available RAM */
	__aligned_u64 spill_free_bytes;		/* at the spill path */
	__aligned_u64 refused;			/* allocations, since loading */
	__aligned_u64 reserved[4];
};

struct gb_alloc {
	__aligned_u64 bytes;		/* a multiple of GB_CHUNK_BYTES */
	__u32 flags;			/* none is defined */
	__s32 node;			/* all memory from this NUMA node; -1: any */
	__aligned_u64 ready_bytes;	/* out: taken from the reserve */
	__s32 fd;			/* out: a DMA-BUF, close-on-exec */
	__u32 reserved;
};

/* What read() gives: the present state, once after every change of a level. */
struct gb_event {
	__u32 ram_level;
	__u32 spill_level;
	__u32 causes;
	__u32 reserved;
	__aligned_u64 seq;		/* counts the changes */
	__aligned_u64 available_bytes;
	__aligned_u64 spill_free_bytes;
};

#define GB_IOC_MAGIC	0xDC
#define GB_IOC_INFO	_IOR(GB_IOC_MAGIC, 0, struct gb_info)
#define GB_IOC_ALLOC	_IOWR(GB_IOC_MAGIC, 1, struct gb_alloc)

#endif /* _UAPI_GREENBOOST_H */
