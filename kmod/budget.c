// SPDX-License-Identifier: GPL-2.0-only
/*
 * Three budgets: the pool, a user, an open file. Bytes are reserved in all of
 * them before the first page is allocated, so that racing processes cannot
 * pass a limit together, and are held until the last page is free again.
 */
#include "greenboost.h"

u64 gb_limits[GB_NR_LIMITS];
atomic64_t gb_pool_used;

static bool has_room(u64 used, enum gb_limit which, u64 bytes)
{
	u64 limit = READ_ONCE(gb_limits[which]);

	return bytes <= limit && used <= limit - bytes;
}

static bool take(atomic64_t *used, enum gb_limit which, u64 bytes)
{
	s64 now = atomic64_read(used);

	do {
		if (!has_room(now, which, bytes))
			return false;
	} while (!atomic64_try_cmpxchg(used, &now, now + bytes));
	return true;
}

/*
 * ENOSPC: the pool is full. EDQUOT: this user's or this file's part is. The
 * pool, which is everybody's, is touched last: what a smaller limit refuses
 * never shows there.
 */
int gb_charge(struct gb_client *client, u64 bytes)
{
	if (!has_room(atomic64_read(&gb_pool_used), GB_LIMIT_POOL, bytes))
		return -ENOSPC;
	if (!take(&client->used, GB_LIMIT_FILE, bytes))
		return -EDQUOT;
	if (!take(&client->user->used, GB_LIMIT_USER, bytes)) {
		atomic64_sub(bytes, &client->used);
		return -EDQUOT;
	}
	if (!take(&gb_pool_used, GB_LIMIT_POOL, bytes)) {
		atomic64_sub(bytes, &client->user->used);
		atomic64_sub(bytes, &client->used);
		return -ENOSPC;
	}
	return 0;
}

void gb_uncharge(struct gb_client *client, u64 bytes)
{
	atomic64_sub(bytes, &gb_pool_used);
	atomic64_sub(bytes, &client->user->used);
	atomic64_sub(bytes, &client->used);
}
