/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where kernels differ. Kbuild looks for the symbols, since a distribution's
 * version number says little about what it has backported.
 */
#ifndef _GREENBOOST_COMPAT_H
#define _GREENBOOST_COMPAT_H

#include <linux/eventfd.h>
#include <linux/mm.h>

#ifndef GB_HAVE_VM_FLAGS_SET
static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma,
				  unsigned long flags)
{
	vma->vm_flags &= ~flags;
}
#endif

static inline void gb_eventfd_signal(struct eventfd_ctx *ctx)
{
#ifdef GB_HAVE_EVENTFD_SIGNAL_1
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

#ifdef GB_HAVE_IMPORT_NS_TOKEN
#define GB_IMPORT_NS(ns) MODULE_IMPORT_NS(ns)
#else
#define GB_IMPORT_NS(ns) MODULE_IMPORT_NS(#ns)
#endif

#endif /* _GREENBOOST_COMPAT_H */
