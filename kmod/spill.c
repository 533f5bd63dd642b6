// SPDX-License-Identifier: GPL-2.0-only
/*
 * The level of the spill path: the one folder that root names, on the disk that
 * programs spill to. Asking a filesystem may take for ever, so a thread of its
 * own asks, which alone may hang; one that does not answer counts as gone.
 *
 * While it asks, the module cannot be unloaded: that is refused, not waited for.
 */
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/statfs.h>
#include <linux/string.h>

#include "compat.h"
#include "greenboost.h"

#define PERIOD		HZ
#define PATIENCE	(5 * HZ)

struct gb_marks gb_spill_marks = { .low = 4ULL << 30, .critical = 1ULL << 30 };

static DEFINE_SPINLOCK(lock);	/* of these four */
static char spill_path[256];
static struct path root;	/* of who named it: a thread has none of its own */
static unsigned long asked_at;
static bool asking;

static struct task_struct *asker;
static DECLARE_WAIT_QUEUE_HEAD(wake);
static bool kicked;

/* Free bytes of a folder that takes writes; some filesystems only say zero. */
static int ask(const struct path *from, const char *name, u64 *free)
{
	struct kstatfs st = {};
	struct path path;
	int err;

	err = vfs_path_lookup(from->dentry, from->mnt, name,
			      LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &path);
	if (err)
		return err;
	err = vfs_statfs(&path, &st);
	if (!err && (sb_rdonly(path.dentry->d_sb) || !st.f_blocks))
		err = -EROFS;
	path_put(&path);
	*free = st.f_bavail * (st.f_frsize ?: st.f_bsize);
	return err;
}

/* Whether there was something to ask, and nothing has changed since. */
static bool ask_once(char *name, size_t size)
{
	struct path from;
	bool same, any;
	u64 free = 0;
	int err = 0;
	u32 level;

	spin_lock(&lock);
	strscpy(name, spill_path, size);
	any = *name;
	asking = any;
	asked_at = jiffies;
	from = root;
	if (any)
		path_get(&from);
	spin_unlock(&lock);
	if (any) {
		err = ask(&from, name, &free);
		path_put(&from);
	}
	spin_lock(&lock);
	asking = false;
	same = !strcmp(name, spill_path);
	spin_unlock(&lock);
	if (!same)
		return false;
	if (!any) {
		gb_spill_level_set(GB_LEVEL_OK, 0, 0);
	} else if (err) {
		gb_spill_level_set(GB_LEVEL_CRITICAL, GB_CAUSE_SPILL_GONE, 0);
	} else {
		level = gb_level_of(&gb_spill_marks, free, gb_state().spill_level);
		gb_spill_level_set(level, level ? GB_CAUSE_SPILL : 0, free);
	}
	return any;
}

static int watch(void *unused)
{
	static char name[sizeof(spill_path)];

	while (!kthread_should_stop()) {
		bool again;

		WRITE_ONCE(kicked, false);
		/* Fails while the module is being unloaded. */
		again = try_module_get(THIS_MODULE);
		if (again) {
			again = ask_once(name, sizeof(name)) && gb_any_client();
			module_put(THIS_MODULE);
		}
		wait_event_interruptible_timeout(wake, READ_ONCE(kicked) ||
						 kthread_should_stop(),
						 again ? PERIOD : MAX_SCHEDULE_TIMEOUT);
	}
	return 0;
}

static void kick(void)
{
	WRITE_ONCE(kicked, true);
	wake_up(&wake);
}

/* The watchdog's look: whether the question has been open for too long. */
void gb_spill_tick(void)
{
	bool gone, idle;

	spin_lock(&lock);
	gone = asking && time_after(jiffies, asked_at + PATIENCE);
	idle = !asking && *spill_path && time_after(jiffies, asked_at + 2 * PERIOD);
	spin_unlock(&lock);
	if (gone)
		gb_spill_level_set(GB_LEVEL_CRITICAL, GB_CAUSE_SPILL_GONE, 0);
	else if (idle && gb_any_client())
		kick();
}

/* An empty one: none. */
int gb_spill_path_set(const char *path)
{
	struct path new = {};
	int err;

	if (*path && *path != '/')
		return -EINVAL;
	if (strlen(path) >= sizeof(spill_path))
		return -ENAMETOOLONG;
	err = *path ? kern_path("/", LOOKUP_DIRECTORY, &new) : 0;
	if (err)
		return err;
	spin_lock(&lock);
	swap(root, new);
	strscpy(spill_path, path, sizeof(spill_path));
	spin_unlock(&lock);
	path_put(&new);
	kick();
	return 0;
}

ssize_t gb_spill_path_show(char *out)
{
	ssize_t size;

	spin_lock(&lock);
	size = sysfs_emit(out, "%s\n", spill_path);
	spin_unlock(&lock);
	return size;
}

int gb_spill_start(void)
{
	struct task_struct *task = kthread_run(watch, NULL, "greenboost_spill");

	if (IS_ERR(task))
		return PTR_ERR(task);
	asker = task;
	return 0;
}

void gb_spill_stop(void)
{
	kthread_stop(asker);
	path_put(&root);
}
