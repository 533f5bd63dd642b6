// SPDX-License-Identifier: GPL-2.0-only
/*
 * A buffer in a process: a plain shared mapping whose faults answer with pages
 * of order-9 compounds. The kernel then maps 2 MiB at once where address and
 * offset agree modulo 2 MiB, and FOLL_LONGTERM pins (what CUDA takes) work.
 *
 * Both depend on what is not here. A PFN or mixed map cannot be pinned, or not
 * mapped huge; and with a page_mkwrite of ours, however empty, the pages count
 * as a filesystem's, which no long-term pin may touch.
 */
#include "compat.h"
#include "greenboost.h"

static bool may_write(const struct vm_area_struct *vma)
{
	return vma->vm_flags & (VM_WRITE | VM_MAYWRITE);
}

static vm_fault_t gb_fault(struct vm_fault *vmf)
{
	struct gb_buffer *buf = vmf->vma->vm_private_data;

	if (vmf->pgoff >= buf->bytes >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	vmf->page = gb_buffer_page(buf, vmf->pgoff);
	get_page(vmf->page);
	return 0;
}

static void gb_vma_open(struct vm_area_struct *vma)
{
	struct gb_buffer *buf = vma->vm_private_data;

	atomic_inc(&buf->mappings);
	if (may_write(vma))
		atomic_inc(&buf->writable_mappings);
}

static void gb_vma_close(struct vm_area_struct *vma)
{
	struct gb_buffer *buf = vma->vm_private_data;

	if (may_write(vma))
		atomic_dec(&buf->writable_mappings);
	atomic_dec(&buf->mappings);
}

static const struct vm_operations_struct gb_vm_ops = {
	.open = gb_vma_open,
	.close = gb_vma_close,
	.fault = gb_fault,
};

int gb_mmap(struct gb_buffer *buf, struct vm_area_struct *vma)
{
	int err = 0;

	/* Not VM_SHARED: the kernel takes that from read-only files. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;

	mutex_lock(&buf->lock);
	if (buf->sealed) {
		if (vma->vm_flags & VM_WRITE)
			err = -EPERM;
		else
			vm_flags_clear(vma, VM_MAYWRITE);
	}
	if (!err) {
		vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
		vma->vm_private_data = buf;
		vma->vm_ops = &gb_vm_ops;
		gb_vma_open(vma);
	}
	mutex_unlock(&buf->lock);
	return err;
}
