// SPDX-License-Identifier: GPL-2.0-only
/*
 * A buffer as a DMA-BUF: what other drivers may do with it. A sealed buffer is
 * given to devices for reading only.
 */
#include <linux/dma-mapping.h>
#include <linux/iosys-map.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "greenboost.h"

struct attachment {
	struct list_head node;
	struct device *dev;
	struct sg_table table;
	enum dma_data_direction dir;	/* DMA_NONE: not mapped */
};

static void fill_table(struct gb_buffer *buf, struct sg_table *table)
{
	struct scatterlist *sg = table->sgl;
	unsigned long i;

	for (i = 0; i < buf->nr_huge; i++, sg = sg_next(sg))
		sg_set_page(sg, buf->huge[i], GB_CHUNK_SIZE, 0);
	for (i = 0; i < buf->nr_small; i++, sg = sg_next(sg))
		sg_set_page(sg, buf->small[i], PAGE_SIZE, 0);
}

static int gb_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct gb_buffer *buf = dmabuf->priv;
	struct attachment *at;
	int err;

	at = kzalloc(sizeof(*at), GFP_KERNEL);
	if (!at)
		return -ENOMEM;
	at->dev = attach->dev;
	at->dir = DMA_NONE;
	err = sg_alloc_table(&at->table, buf->nr_huge + buf->nr_small, GFP_KERNEL);
	if (err)
		goto free;
	fill_table(buf, &at->table);
	attach->priv = at;
	atomic_inc(&buf->attached);
	mutex_lock(&buf->lock);
	list_add(&at->node, &buf->attachments);
	mutex_unlock(&buf->lock);
	return 0;

free:
	kfree(at);
	return err;
}

static void gb_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct gb_buffer *buf = dmabuf->priv;
	struct attachment *at = attach->priv;

	mutex_lock(&buf->lock);
	list_del(&at->node);
	mutex_unlock(&buf->lock);
	atomic_dec(&buf->attached);
	sg_free_table(&at->table);
	kfree(at);
}

static struct sg_table *gb_map(struct dma_buf_attachment *attach,
			       enum dma_data_direction dir)
{
	struct gb_buffer *buf = attach->dmabuf->priv;
	struct attachment *at = attach->priv;
	int err;

	mutex_lock(&buf->lock);
	if (buf->sealed && dir != DMA_TO_DEVICE)
		err = -EPERM;
	else
		err = dma_map_sgtable(at->dev, &at->table, dir, 0);
	if (!err)
		at->dir = dir;
	mutex_unlock(&buf->lock);
	return err ? ERR_PTR(err) : &at->table;
}

static void gb_unmap(struct dma_buf_attachment *attach, struct sg_table *table,
		     enum dma_data_direction dir)
{
	struct gb_buffer *buf = attach->dmabuf->priv;
	struct attachment *at = attach->priv;

	mutex_lock(&buf->lock);
	at->dir = DMA_NONE;
	dma_unmap_sgtable(at->dev, table, dir, 0);
	mutex_unlock(&buf->lock);
}

/*
 * Who accesses knows nothing of how others have mapped the buffer: only what is
 * mapped both ways may be synced in the direction of the access.
 */
static enum dma_data_direction sync_dir(const struct attachment *at,
					enum dma_data_direction access)
{
	return at->dir == DMA_BIDIRECTIONAL ? access : at->dir;
}

static int gb_begin_cpu_access(struct dma_buf *dmabuf,
			       enum dma_data_direction dir)
{
	struct gb_buffer *buf = dmabuf->priv;
	struct attachment *at;

	mutex_lock(&buf->lock);
	list_for_each_entry(at, &buf->attachments, node) {
		if (at->dir != DMA_NONE)
			dma_sync_sgtable_for_cpu(at->dev, &at->table,
						 sync_dir(at, dir));
	}
	mutex_unlock(&buf->lock);
	return 0;
}

static int gb_end_cpu_access(struct dma_buf *dmabuf,
			     enum dma_data_direction dir)
{
	struct gb_buffer *buf = dmabuf->priv;
	struct attachment *at;

	mutex_lock(&buf->lock);
	list_for_each_entry(at, &buf->attachments, node) {
		if (at->dir != DMA_NONE)
			dma_sync_sgtable_for_device(at->dev, &at->table,
						    sync_dir(at, dir));
	}
	mutex_unlock(&buf->lock);
	return 0;
}

static int gb_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct gb_buffer *buf = dmabuf->priv;
	unsigned long i, nr = buf->bytes >> PAGE_SHIFT;
	struct page **pages;
	void *vaddr;

	pages = kvmalloc_array(nr, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < nr; i++)
		pages[i] = gb_buffer_page(buf, i);
	mutex_lock(&buf->lock);
	vaddr = vmap(pages, nr, VM_MAP, buf->sealed ? PAGE_KERNEL_RO : PAGE_KERNEL);
	if (vaddr)
		buf->vmaps++;
	mutex_unlock(&buf->lock);
	kvfree(pages);
	if (!vaddr)
		return -ENOMEM;
	iosys_map_set_vaddr(map, vaddr);
	return 0;
}

static void gb_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct gb_buffer *buf = dmabuf->priv;

	mutex_lock(&buf->lock);
	vunmap(map->vaddr);
	buf->vmaps--;
	mutex_unlock(&buf->lock);
}

static int gb_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	return gb_mmap(dmabuf->priv, vma);
}

static void gb_release(struct dma_buf *dmabuf)
{
	gb_buffer_put(dmabuf->priv);
}

static const struct dma_buf_ops gb_dmabuf_ops = {
	.attach = gb_attach,
	.detach = gb_detach,
	.map_dma_buf = gb_map,
	.unmap_dma_buf = gb_unmap,
	.begin_cpu_access = gb_begin_cpu_access,
	.end_cpu_access = gb_end_cpu_access,
	.mmap = gb_dmabuf_mmap,
	.vmap = gb_vmap,
	.vunmap = gb_vunmap,
	.release = gb_release,
};

/* Takes over the caller's reference to the buffer, also where it fails. */
int gb_export(struct gb_buffer *buf, int flags, struct gb_export *export)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	int fd;

	info.ops = &gb_dmabuf_ops;
	info.size = buf->bytes;
	info.flags = flags;
	info.priv = buf;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		gb_buffer_put(buf);
		return fd;
	}
	export->dmabuf = dma_buf_export(&info);
	if (IS_ERR(export->dmabuf)) {
		put_unused_fd(fd);
		gb_buffer_put(buf);
		return PTR_ERR(export->dmabuf);
	}
	export->fd = fd;
	return 0;
}

/* The caller puts the DMA-BUF, which keeps the buffer until then. */
struct gb_buffer *gb_buffer_from_fd(int fd, struct dma_buf **dmabuf)
{
	*dmabuf = dma_buf_get(fd);
	if (IS_ERR(*dmabuf))
		return ERR_CAST(*dmabuf);
	if ((*dmabuf)->ops == &gb_dmabuf_ops)
		return (*dmabuf)->priv;
	dma_buf_put(*dmabuf);
	return ERR_PTR(-EINVAL);
}
