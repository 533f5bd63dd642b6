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

static vm_fault_t gb_fault(struct vm_fault *vmf)
{
	struct gb_buffer *buf = vmf->vma->vm_private_data;

	if (vmf->pgoff >= buf->bytes >> PAGE_SHIFT)
		return VM_FAULT_SIGBUS;
	vmf->page = gb_buffer_page(buf, vmf->pgoff);
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct gb_vm_ops = {
	.fault = gb_fault,
};

int gb_mmap(struct gb_buffer *buf, struct vm_area_struct *vma)
{
	/* Not VM_SHARED: the kernel takes that from read-only files. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	WRITE_ONCE(buf->touched, true);
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = buf;
	vma->vm_ops = &gb_vm_ops;
	return 0;
}
