// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/class/misc/greenboost: one value per file, in bytes where it is memory.
 * The limits and the reserve are written there by root ("8G" is understood).
 */
#include <linux/device.h>
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

#define GB_STORED(_name, _variable)					\
	static int _name##_set(u64 bytes)				\
	{								\
		WRITE_ONCE(_variable, bytes);				\
		return 0;						\
	}								\
	GB_BYTES(_name, READ_ONCE(_variable), _name##_set)

GB_STORED(pool_limit, gb_limits[GB_LIMIT_POOL]);
GB_STORED(user_limit, gb_limits[GB_LIMIT_USER]);
GB_STORED(file_limit, gb_limits[GB_LIMIT_FILE]);
GB_STORED(cache_limit, gb_cache_limit);
GB_BYTES(low_mark, READ_ONCE(gb_low_mark), gb_low_mark_set);
GB_BYTES(critical_mark, READ_ONCE(gb_critical_mark), gb_critical_mark_set);

static int ttl_set(u64 ms)
{
	if (ms > UINT_MAX)
		return -EINVAL;
	WRITE_ONCE(gb_cache_ttl_ms, ms);
	return 0;
}

GB_BYTES(cache_ttl_ms, READ_ONCE(gb_cache_ttl_ms), ttl_set);

static int reserve_set(u64 bytes)
{
	gb_reserve_resize(bytes);
	return 0;
}

GB_BYTES(reserve, gb_reserve_target(), reserve_set);

GB_READ_ONLY(reserve_ready, gb_reserve_ready());
GB_READ_ONLY(pool_used, atomic64_read(&gb_pool_used));
GB_READ_ONLY(cache_used, gb_share_idle());
GB_READ_ONLY(available, gb_available());
GB_READ_ONLY(decline, gb_decline());
GB_READ_ONLY(allocations, atomic64_read(&gb_counters.allocations));
GB_READ_ONLY(frees, atomic64_read(&gb_counters.frees));
GB_READ_ONLY(refused, atomic64_read(&gb_counters.refused));
GB_READ_ONLY(reserve_hits, atomic64_read(&gb_counters.reserve_hits));
GB_READ_ONLY(became_ok, atomic64_read(&gb_level_counts[GB_LEVEL_OK]));
GB_READ_ONLY(became_low, atomic64_read(&gb_level_counts[GB_LEVEL_LOW]));
GB_READ_ONLY(became_critical, atomic64_read(&gb_level_counts[GB_LEVEL_CRITICAL]));

static ssize_t level_show(struct device *dev, struct device_attribute *attr,
			  char *out)
{
	return sysfs_emit(out, "%s\n", level_names[gb_level(NULL)]);
}
static DEVICE_ATTR_RO(level);

static struct attribute *gb_attrs[] = {
	&dev_attr_pool_limit.attr,
	&dev_attr_user_limit.attr,
	&dev_attr_file_limit.attr,
	&dev_attr_cache_limit.attr,
	&dev_attr_cache_ttl_ms.attr,
	&dev_attr_low_mark.attr,
	&dev_attr_critical_mark.attr,
	&dev_attr_reserve.attr,
	&dev_attr_reserve_ready.attr,
	&dev_attr_pool_used.attr,
	&dev_attr_cache_used.attr,
	&dev_attr_available.attr,
	&dev_attr_decline.attr,
	&dev_attr_level.attr,
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
