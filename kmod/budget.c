// SPDX-License-Identifier: GPL-2.0-only
/*
 * Three budgets: the pool, a user, an open file. Bytes are reserved in all of
 * them before the first page is allocated, so that racing processes cannot
 * pass a limit together, and are held until the last page is free again.
 */
#include "greenboost.h"

u64 gb_limits[GB_NR_LIMITS];
atomic64_t gb_pool_used;

void gb_budget_init(u64 pool, u64 user, u64 file)
{
	gb_limits[GB_LIMIT_POOL] = pool;
	gb_limits[GB_LIMIT_USER] = user;
	gb_limits[GB_LIMIT_FILE] = file;
}

static bool take(atomic64_t *used, enum gb_limit which, u64 bytes)
{
	u64 limit = READ_ONCE(gb_limits[which]);
	s64 now = atomic64_read(used);

	do {
		if (bytes > limit || (u64)now > limit - bytes)
			return false;
	} while (!atomic64_try_cmpxchg(used, &now, now + bytes));
	return true;
}

/* ENOSPC: the pool is full. EDQUOT: this user's or this file's part is. */
static int charge(struct gb_client *client, u64 bytes)
{
	if (!take(&gb_pool_used, GB_LIMIT_POOL, bytes))
		return -ENOSPC;
	if (!take(&client->user->used, GB_LIMIT_USER, bytes))
		goto undo_pool;
	if (!take(&client->used, GB_LIMIT_FILE, bytes))
		goto undo_user;
	return 0;

undo_user:
	atomic64_sub(bytes, &client->user->used);
undo_pool:
	atomic64_sub(bytes, &gb_pool_used);
	return -EDQUOT;
}

static u64 lacking(const atomic64_t *used, enum gb_limit which, u64 bytes)
{
	u64 limit = READ_ONCE(gb_limits[which]);
	u64 wanted = atomic64_read(used) + bytes;

	return wanted > limit ? wanted - limit : 0;
}

/*
 * Shared objects that nobody uses make room for what somebody wants. One error
 * may stand for two limits, and several may refuse: all of them are asked.
 */
int gb_charge(struct gb_client *client, u64 bytes)
{
	u64 lack[GB_NR_LIMITS];
	int err;

	do {
		err = charge(client, bytes);
		lack[GB_LIMIT_POOL] = lacking(&gb_pool_used, GB_LIMIT_POOL, bytes);
		lack[GB_LIMIT_USER] = lacking(&client->user->used, GB_LIMIT_USER,
					      bytes);
		lack[GB_LIMIT_FILE] = lacking(&client->used, GB_LIMIT_FILE, bytes);
	} while (err && gb_share_make_room(client, lack));
	return err;
}

void gb_uncharge(struct gb_client *client, u64 bytes)
{
	atomic64_sub(bytes, &client->used);
	atomic64_sub(bytes, &client->user->used);
	atomic64_sub(bytes, &gb_pool_used);
}
