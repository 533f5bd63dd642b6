// SPDX-License-Identifier: GPL-2.0-only
/*
 * A buffer as a DMA-BUF: what other drivers may do with it.
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

	for (i = 0; i < buf->nr_chunks; i++, sg = sg_next(sg))
		sg_set_page(sg, buf->chunks[i], GB_CHUNK_BYTES, 0);
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
	err = sg_alloc_table(&at->table, buf->nr_chunks, GFP_KERNEL);
	if (err)
		goto free;
	fill_table(buf, &at->table);
	attach->priv = at;
	WRITE_ONCE(buf->touched, true);
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

static void sync_all(struct gb_buffer *buf, enum dma_data_direction dir,
		     void (*sync)(struct device *dev, struct sg_table *table,
				  enum dma_data_direction dir))
{
	struct attachment *at;

	mutex_lock(&buf->lock);
	list_for_each_entry(at, &buf->attachments, node) {
		if (at->dir != DMA_NONE)
			sync(at->dev, &at->table, sync_dir(at, dir));
	}
	mutex_unlock(&buf->lock);
}

static int gb_begin_cpu_access(struct dma_buf *dmabuf,
			       enum dma_data_direction dir)
{
	sync_all(dmabuf->priv, dir, dma_sync_sgtable_for_cpu);
	return 0;
}

static int gb_end_cpu_access(struct dma_buf *dmabuf,
			     enum dma_data_direction dir)
{
	sync_all(dmabuf->priv, dir, dma_sync_sgtable_for_device);
	return 0;
}

static int gb_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	struct gb_buffer *buf = dmabuf->priv;
	unsigned long i, nr = buf->bytes >> PAGE_SHIFT;
	struct page **pages;
	void *vaddr;

	pages = kvmalloc_array(nr, sizeof(*pages), GFP_KERNEL | __GFP_NOWARN);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < nr; i++)
		pages[i] = gb_buffer_page(buf, i);
	WRITE_ONCE(buf->touched, true);
	vaddr = vmap(pages, nr, VM_MAP, PAGE_KERNEL);
	kvfree(pages);
	if (!vaddr)
		return -ENOMEM;
	iosys_map_set_vaddr(map, vaddr);
	return 0;
}

static void gb_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	vunmap(map->vaddr);
}

static int gb_dmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	return gb_mmap(dmabuf->priv, vma);
}

static void gb_release(struct dma_buf *dmabuf)
{
	gb_buffer_release(dmabuf->priv);
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
struct dma_buf *gb_export(struct gb_buffer *buf)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;

	info.ops = &gb_dmabuf_ops;
	info.size = buf->bytes;
	info.flags = O_RDWR;
	info.priv = buf;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf))
		gb_buffer_release(buf);
	return dmabuf;
}
