/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where kernels differ. Kbuild looks for the symbols, since a distribution's
 * version number says little about what it has backported.
 */
#ifndef _GREENBOOST_COMPAT_H
#define _GREENBOOST_COMPAT_H

#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/shrinker.h>

#ifndef GB_HAVE_VM_FLAGS_SET
static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#endif

#ifndef GB_HAVE_SHRINKER_ALLOC
static inline struct shrinker *shrinker_alloc(unsigned int flags, const char *name)
{
	return kzalloc(sizeof(struct shrinker), GFP_KERNEL);
}

static inline int gb_shrinker_register(struct shrinker *shrinker)
{
	shrinker->seeks = DEFAULT_SEEKS;
	return register_shrinker(shrinker, "greenboost");
}

static inline void shrinker_free(struct shrinker *shrinker)
{
	/* Does nothing where it was not registered. */
	unregister_shrinker(shrinker);
	kfree(shrinker);
}
#else
static inline int gb_shrinker_register(struct shrinker *shrinker)
{
	shrinker_register(shrinker);
	return 0;
}
#endif

#ifndef GB_HAVE_PATH_LOOKUP
/* Exported all the same. */
int vfs_path_lookup(struct dentry *dentry, struct vfsmount *mnt,
		    const char *name, unsigned int flags, struct path *path);
#endif

#ifdef GB_HAVE_IMPORT_NS_TOKEN
#define GB_IMPORT_NS(ns) MODULE_IMPORT_NS(ns)
#else
#define GB_IMPORT_NS(ns) MODULE_IMPORT_NS(#ns)
#endif

#endif /* _GREENBOOST_COMPAT_H */
