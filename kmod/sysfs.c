// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/class/misc/greenboost: one value per file, which its name gives the unit
 * of. Root writes settings there ("8G" is understood). The files are described
 * in Documentation/ABI/testing/sysfs-class-misc-greenboost.
 */
#include <linux/device.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "greenboost.h"

struct gb_counters gb_counters;

static const char * const level_names[] = { "ok", "low", "critical" };

/* As memparse() does, but what is no number or too large is refused. */
static int parse_bytes(const char *text, u64 *bytes)
{
	static const char units[] = "KMGT";
	char number[32];
	const char *unit;
	size_t length;
	int shift = 0;

	if (strscpy(number, text, sizeof(number)) < 0)
		return -EINVAL;
	length = strlen(strim(number));
	unit = length ? strchr(units, number[length - 1]) : NULL;
	if (unit) {
		shift = 10 * (unit - units + 1);
		number[length - 1] = '\0';
	}
	if (kstrtou64(number, 10, bytes) || *bytes > LONG_MAX >> shift)
		return -EINVAL;
	*bytes <<= shift;
	return 0;
}

#define GB_VALUE(_name, _value)						\
static ssize_t _name##_show(struct device *dev,				\
			    struct device_attribute *attr, char *out)	\
{									\
	return sysfs_emit(out, "%llu\n", (u64)(_value));		\
}

#define GB_READ_ONLY(_name, _value)					\
	GB_VALUE(_name, _value)						\
	static DEVICE_ATTR_RO(_name)

/* Stored by a function that may refuse. */
#define GB_BYTES(_name, _value, _set)					\
	GB_VALUE(_name, _value)						\
	static ssize_t _name##_store(struct device *dev,		\
				     struct device_attribute *attr,	\
				     const char *in, size_t size)	\
	{								\
		u64 bytes;						\
		int err = parse_bytes(in, &bytes);			\
									\
		if (!err)						\
			err = _set(bytes);				\
		return err ?: size;					\
	}								\
	static DEVICE_ATTR_RW(_name)

#define GB_LIMIT(_name, _which)						\
	static int _name##_set(u64 bytes)				\
	{								\
		WRITE_ONCE(gb_limits[_which], bytes);			\
		gb_watchdog_kick();					\
		return 0;						\
	}								\
	GB_BYTES(_name, READ_ONCE(gb_limits[_which]), _name##_set)

GB_LIMIT(pool_limit_bytes, GB_LIMIT_POOL);
GB_LIMIT(user_limit_bytes, GB_LIMIT_USER);
GB_LIMIT(file_limit_bytes, GB_LIMIT_FILE);
/* Of a pair of marks, of which one is kept. */
#define GB_MARK(_name, _marks, _mark, _low, _critical)			\
	static int _name##_set(u64 bytes)				\
	{								\
		int err;						\
									\
		mutex_lock(&marks_lock);				\
		err = gb_marks_set(&(_marks), _low, _critical);		\
		mutex_unlock(&marks_lock);				\
		gb_watchdog_kick();					\
		return err;						\
	}								\
	GB_BYTES(_name, READ_ONCE((_marks)._mark), _name##_set)

static DEFINE_MUTEX(marks_lock);

GB_MARK(low_mark_bytes, gb_ram_marks, low, bytes, gb_ram_marks.critical);
GB_MARK(critical_mark_bytes, gb_ram_marks, critical, gb_ram_marks.low, bytes);
GB_MARK(spill_low_mark_bytes, gb_spill_marks, low, bytes, gb_spill_marks.critical);
GB_MARK(spill_critical_mark_bytes, gb_spill_marks, critical, gb_spill_marks.low,
	bytes);

static int reserve_set(u64 bytes)
{
	gb_reserve_resize(bytes);
	return 0;
}

GB_BYTES(reserve_bytes, gb_reserve_wanted(), reserve_set);

GB_READ_ONLY(reserve_ready_bytes, gb_reserve_ready());
GB_READ_ONLY(reserve_held_bytes, gb_reserve_held());
GB_READ_ONLY(pool_used_bytes, atomic64_read(&gb_pool_used));
GB_READ_ONLY(available_bytes, gb_available());
GB_READ_ONLY(decline_bytes_per_s, gb_decline());
GB_READ_ONLY(spill_free_bytes, gb_state().spill_free);
GB_READ_ONLY(allocations, atomic64_read(&gb_counters.allocations));
GB_READ_ONLY(frees, atomic64_read(&gb_counters.frees));
GB_READ_ONLY(refused, atomic64_read(&gb_counters.refused));
GB_READ_ONLY(reserve_hits, atomic64_read(&gb_counters.reserve_hits));
GB_READ_ONLY(became_ok, atomic64_read(&gb_level_counts[GB_LEVEL_OK]));
GB_READ_ONLY(became_low, atomic64_read(&gb_level_counts[GB_LEVEL_LOW]));
GB_READ_ONLY(became_critical, atomic64_read(&gb_level_counts[GB_LEVEL_CRITICAL]));

static ssize_t ram_level_show(struct device *dev, struct device_attribute *attr,
			      char *out)
{
	return sysfs_emit(out, "%s\n", level_names[gb_ram_level()]);
}
static DEVICE_ATTR_RO(ram_level);

static ssize_t spill_level_show(struct device *dev,
				struct device_attribute *attr, char *out)
{
	return sysfs_emit(out, "%s\n", level_names[gb_state().spill_level]);
}
static DEVICE_ATTR_RO(spill_level);

static ssize_t spill_path_show(struct device *dev,
			       struct device_attribute *attr, char *out)
{
	return gb_spill_path_show(out);
}

static ssize_t spill_path_store(struct device *dev,
				struct device_attribute *attr, const char *in,
				size_t size)
{
	char *path = kstrndup(in, size, GFP_KERNEL);
	int err;

	if (!path)
		return -ENOMEM;
	err = gb_spill_path_set(strim(path));
	kfree(path);
	return err ?: size;
}
static DEVICE_ATTR_RW(spill_path);

static struct attribute *gb_attrs[] = {
	&dev_attr_pool_limit_bytes.attr,
	&dev_attr_user_limit_bytes.attr,
	&dev_attr_file_limit_bytes.attr,
	&dev_attr_low_mark_bytes.attr,
	&dev_attr_critical_mark_bytes.attr,
	&dev_attr_reserve_bytes.attr,
	&dev_attr_reserve_ready_bytes.attr,
	&dev_attr_reserve_held_bytes.attr,
	&dev_attr_pool_used_bytes.attr,
	&dev_attr_available_bytes.attr,
	&dev_attr_decline_bytes_per_s.attr,
	&dev_attr_ram_level.attr,
	&dev_attr_spill_path.attr,
	&dev_attr_spill_low_mark_bytes.attr,
	&dev_attr_spill_critical_mark_bytes.attr,
	&dev_attr_spill_free_bytes.attr,
	&dev_attr_spill_level.attr,
	&dev_attr_allocations.attr,
	&dev_attr_frees.attr,
	&dev_attr_refused.attr,
	&dev_attr_reserve_hits.attr,
	&dev_attr_became_ok.attr,
	&dev_attr_became_low.attr,
	&dev_attr_became_critical.attr,
	NULL
};

static const struct attribute_group gb_group = { .attrs = gb_attrs };
const struct attribute_group *gb_sysfs_groups[] = { &gb_group, NULL };
