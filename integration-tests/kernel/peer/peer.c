// SPDX-License-Identifier: GPL-2.0-only
/*
 * The other side, for tests: pins a process's memory as a GPU driver does, and
 * imports DMA-BUFs as a device does. /dev/gb_peer holds one of each per open
 * file, and lets go when it is closed.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/iosys-map.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "peer.h"

#ifndef GB_HAVE_VMAP_UNLOCKED
#define dma_buf_vmap_unlocked dma_buf_vmap
#define dma_buf_vunmap_unlocked dma_buf_vunmap
#endif

#ifdef GB_HAVE_PIN_VMAS
#define pin_locked(at, nr, flags, pages) pin_user_pages(at, nr, flags, pages, NULL)
#else
#define pin_locked pin_user_pages
#endif

struct peer_pin {
	__u64 address;
	__u64 bytes;
	__u32 write;
	__u32 huge;		/* out: 2 MiB runs, aligned and contiguous */
	__u64 first;		/* out: the first 8 bytes, as the kernel sees them */
	__u64 ns;		/* out: what pinning alone took */
	__u32 locked;		/* pin_user_pages, as NVIDIA's driver calls it */
	__u32 reserved;
};

struct peer_import {
	__s32 fd;
	__u32 direction;	/* enum dma_data_direction */
	__u32 segments;		/* out */
	__u32 huge_segments;	/* out */
	__u64 bytes;		/* out */
	__u64 sum;		/* out: of all 8-byte words, through vmap */
	__u64 poke;		/* written to the first word, unless 0 */
};

#define PEER_PIN	_IOWR('P', 0, struct peer_pin)
#define PEER_UNPIN	_IO('P', 1)
#define PEER_IMPORT	_IOWR('P', 2, struct peer_import)
#define PEER_RELEASE	_IO('P', 3)
#define PEER_INJECT	_IO('P', 4)
#define PEER_FRAGMENT	_IO('P', 5)
#define PEER_HANG	_IO('P', 6)

struct peer {
	struct mutex lock;	/* of all that follows */
	struct page **pages;
	unsigned long nr_pages;
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attachment;
	struct sg_table *table;
	enum dma_data_direction direction;
	struct list_head pieces;
	struct list_head whole;
};

static struct miscdevice peer_device;

static void unpin(struct peer *peer)
{
	if (!peer->pages)
		return;
	unpin_user_pages(peer->pages, peer->nr_pages);
	kvfree(peer->pages);
	peer->pages = NULL;
}

static long pin_some(const struct peer_pin *req, unsigned long done,
		     unsigned long nr, struct page **pages)
{
	unsigned int flags = FOLL_LONGTERM | (req->write ? FOLL_WRITE : 0);
	unsigned long at = req->address + (done << PAGE_SHIFT);
	long got;

	if (!req->locked)
		return pin_user_pages_fast(at, nr, flags, pages);
	mmap_read_lock(current->mm);
	got = pin_locked(at, nr, flags, pages);
	mmap_read_unlock(current->mm);
	return got;
}

static int pin(struct peer *peer, struct peer_pin *req)
{
	unsigned long nr = req->bytes >> PAGE_SHIFT, i;
	u64 start;
	long got;

	if (peer->pages)
		return -EBUSY;
	peer->pages = kvmalloc_array(nr, sizeof(*peer->pages), GFP_KERNEL);
	if (!peer->pages)
		return -ENOMEM;
	/* Not to be timed: this array's own first touch. */
	memset(peer->pages, 0, nr * sizeof(*peer->pages));
	start = ktime_get_ns();
	for (peer->nr_pages = 0; peer->nr_pages < nr; peer->nr_pages += got) {
		got = pin_some(req, peer->nr_pages,
			       min(nr - peer->nr_pages, 65536UL),
			       peer->pages + peer->nr_pages);
		if (got <= 0) {
			unpin(peer);
			return got ?: -EFAULT;
		}
	}
	req->ns = ktime_get_ns() - start;
	req->huge = 0;
	for (i = 0; i + 512 <= nr; i += 512) {
		unsigned long pfn = page_to_pfn(peer->pages[i]), j;

		for (j = 1; j < 512; j++) {
			if (page_to_pfn(peer->pages[i + j]) != pfn + j)
				break;
		}
		req->huge += j == 512 && IS_ALIGNED(pfn, 512);
	}
	req->first = *(u64 *)page_address(peer->pages[0]);
	return 0;
}

static void release_import(struct peer *peer)
{
	if (!peer->dmabuf)
		return;
	dma_buf_unmap_attachment_unlocked(peer->attachment, peer->table,
					  peer->direction);
	dma_buf_detach(peer->dmabuf, peer->attachment);
	dma_buf_put(peer->dmabuf);
	peer->dmabuf = NULL;
}

static int look(struct peer *peer, struct peer_import *req)
{
	struct scatterlist *sg;
	struct iosys_map map;
	unsigned long i;
	int err;

	req->bytes = 0;
	req->sum = 0;
	req->segments = peer->table->nents;
	req->huge_segments = 0;
	/* What a device sees; DMABUF_DEBUG hides the pages behind it. */
	for_each_sgtable_dma_sg(peer->table, sg, i) {
		req->huge_segments += sg_dma_len(sg) == SZ_2M;
		req->bytes += sg_dma_len(sg);
	}
	err = dma_buf_begin_cpu_access(peer->dmabuf, DMA_FROM_DEVICE);
	if (err)
		return err;
	err = dma_buf_vmap_unlocked(peer->dmabuf, &map);
	if (!err) {
		u64 *words = map.vaddr;

		for (i = 0; i < peer->dmabuf->size / sizeof(u64); i++)
			req->sum += words[i];
		if (req->poke)
			words[0] = req->poke;
		dma_buf_vunmap_unlocked(peer->dmabuf, &map);
	}
	dma_buf_end_cpu_access(peer->dmabuf, DMA_FROM_DEVICE);
	return err;
}

static int import(struct peer *peer, struct peer_import *req)
{
	struct dma_buf_attachment *attachment;
	struct dma_buf *dmabuf;
	struct sg_table *table;
	int err;

	if (peer->dmabuf)
		return -EBUSY;
	dmabuf = dma_buf_get(req->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	attachment = dma_buf_attach(dmabuf, peer_device.this_device);
	if (IS_ERR(attachment)) {
		err = PTR_ERR(attachment);
		goto put;
	}
	table = dma_buf_map_attachment_unlocked(attachment, req->direction);
	if (IS_ERR(table)) {
		err = PTR_ERR(table);
		goto detach;
	}
	peer->dmabuf = dmabuf;
	peer->attachment = attachment;
	peer->table = table;
	peer->direction = req->direction;
	err = look(peer, req);
	if (err)
		release_import(peer);
	return err;

detach:
	dma_buf_detach(dmabuf, attachment);
put:
	dma_buf_put(dmabuf);
	return err;
}

#define PIECES 160

/*
 * Takes every free 2 MiB, and gives some of them back but for a page of each:
 * none can be put together again.
 */
static int fragment(struct peer *peer)
{
	struct page *page, *next;
	LIST_HEAD(chunks);
	int i, nr = 0;

	for (;;) {
		page = alloc_pages(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN, 9);
		if (!page)
			break;
		list_add(&page->lru, &chunks);
		cond_resched();
	}
	list_for_each_entry_safe(page, next, &chunks, lru) {
		if (nr++ == PIECES)
			break;
		split_page(page, 9);
		for (i = 1; i < 512; i++)
			__free_page(page + i);
		cond_resched();
	}
	list_cut_before(&peer->pieces, &chunks, &page->lru);
	list_splice(&chunks, &peer->whole);
	return 0;
}

static void put_together(struct peer *peer)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &peer->pieces, lru)
		__free_page(page);
	list_for_each_entry_safe(page, next, &peer->whole, lru)
		__free_pages(page, 9);
}

static long peer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;
	struct peer *peer = file->private_data;
	struct peer_import imp;
	struct peer_pin req;
	int err = 0;

	mutex_lock(&peer->lock);
	switch (cmd) {
	case PEER_PIN:
		err = copy_from_user(&req, user, sizeof(req)) ? -EFAULT : pin(peer, &req);
		if (!err && copy_to_user(user, &req, sizeof(req)))
			err = -EFAULT;
		break;
	case PEER_UNPIN:
		unpin(peer);
		break;
	case PEER_IMPORT:
		err = copy_from_user(&imp, user, sizeof(imp)) ? -EFAULT : import(peer, &imp);
		if (!err && copy_to_user(user, &imp, sizeof(imp)))
			err = -EFAULT;
		break;
	case PEER_RELEASE:
		release_import(peer);
		break;
	case PEER_FRAGMENT:
		err = fragment(peer);
		break;
	case PEER_INJECT:
		peer_inject(arg);
		break;
	case PEER_HANG:
		peer_slow_hang(arg);
		break;
	default:
		err = -ENOTTY;
	}
	mutex_unlock(&peer->lock);
	return err;
}

static int peer_open(struct inode *inode, struct file *file)
{
	struct peer *peer = kzalloc(sizeof(*peer), GFP_KERNEL);

	if (!peer)
		return -ENOMEM;
	mutex_init(&peer->lock);
	INIT_LIST_HEAD(&peer->pieces);
	INIT_LIST_HEAD(&peer->whole);
	file->private_data = peer;
	return nonseekable_open(inode, file);
}

static int peer_close(struct inode *inode, struct file *file)
{
	struct peer *peer = file->private_data;

	unpin(peer);
	release_import(peer);
	put_together(peer);
	kfree(peer);
	return 0;
}

static const struct file_operations peer_fops = {
	.owner = THIS_MODULE,
	.open = peer_open,
	.release = peer_close,
	.unlocked_ioctl = peer_ioctl,
};

static struct miscdevice peer_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "gb_peer",
	.mode = 0666,
	.fops = &peer_fops,
};

static struct device_dma_parameters peer_dma;

static int __init peer_init(void)
{
	int err = peer_slow_start();

	if (err)
		return err;
	err = misc_register(&peer_device);
	if (err)
		goto stop;
	/* As a GPU does; else segments over 64 KiB are against the rules. */
	peer_device.this_device->dma_parms = &peer_dma;
	dma_set_max_seg_size(peer_device.this_device, UINT_MAX);
	err = dma_coerce_mask_and_coherent(peer_device.this_device, DMA_BIT_MASK(64));
	if (err)
		goto deregister;
	return 0;

deregister:
	misc_deregister(&peer_device);
stop:
	peer_slow_stop();
	return err;
}

static void __exit peer_exit(void)
{
	misc_deregister(&peer_device);
	peer_slow_stop();
}

module_init(peer_init);
module_exit(peer_exit);

MODULE_DESCRIPTION("Pins and imports, for the tests of greenboost.ko");
MODULE_LICENSE("GPL");
#ifdef GB_HAVE_IMPORT_NS_TOKEN
MODULE_IMPORT_NS(DMA_BUF);
#else
MODULE_IMPORT_NS("DMA_BUF");
#endif
