// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sealed buffers under the name of their content. Published, a buffer outlives
 * its process: the next one of the same user opens it instead of loading the
 * weights again. In nobody's use it is a cache: kept for a while, within a
 * budget, oldest out first, and the first to go under pressure.
 *
 * The entry's own reference to a buffer is the only one when nobody uses it.
 * New ones are given out here, under the lock, so "unused" cannot change
 * between the look and the act.
 */
#include <linux/jiffies.h>
#include <linux/slab.h>

#include "greenboost.h"

struct entry {
	struct list_head node;	/* oldest first */
	struct gb_key key;
	struct gb_buffer *buf;
	unsigned long ttl;
	unsigned long idle_since;
	bool idle;
};

u64 gb_cache_limit;
unsigned int gb_cache_ttl_ms;

static LIST_HEAD(entries);
static DEFINE_MUTEX(gb_share_lock);

static bool unused(const struct entry *entry)
{
	return kref_read(&entry->buf->refs) == 1;
}

static void drop(struct entry *entry)
{
	list_del(&entry->node);
	WRITE_ONCE(entry->buf->shared, false);
	gb_buffer_put(entry->buf);
	kfree(entry);
}

static struct entry *find(const struct gb_user *user, const struct gb_key *key)
{
	struct entry *entry;

	lockdep_assert_held(&gb_share_lock);
	list_for_each_entry(entry, &entries, node) {
		if (entry->buf->client->user == user &&
		    !memcmp(&entry->key, key, sizeof(*key)))
			return entry;
	}
	return NULL;
}

int gb_share_publish(struct gb_client *client, struct gb_buffer *buf,
		     const struct gb_key *key, unsigned int ttl_ms)
{
	struct entry *entry;
	int err = 0;

	if (buf->client->user != client->user || !READ_ONCE(buf->sealed))
		return -EPERM;
	entry = kzalloc(sizeof(*entry), GFP_KERNEL_ACCOUNT);
	if (!entry)
		return -ENOMEM;
	entry->key = *key;
	entry->buf = buf;
	entry->ttl = msecs_to_jiffies(ttl_ms ?: READ_ONCE(gb_cache_ttl_ms));

	mutex_lock(&gb_share_lock);
	if (buf->shared || find(client->user, key)) {
		err = -EEXIST;
		kfree(entry);
	} else {
		kref_get(&buf->refs);
		WRITE_ONCE(buf->shared, true);
		list_add_tail(&entry->node, &entries);
	}
	mutex_unlock(&gb_share_lock);
	return err;
}

struct gb_buffer *gb_share_open(struct gb_client *client,
				const struct gb_key *key)
{
	struct gb_buffer *buf = NULL;
	struct entry *entry;

	mutex_lock(&gb_share_lock);
	entry = find(client->user, key);
	if (entry) {
		buf = entry->buf;
		kref_get(&buf->refs);
		entry->idle = false;
		list_move_tail(&entry->node, &entries);
	}
	mutex_unlock(&gb_share_lock);
	return buf;
}

/* Those who have it open keep it. */
int gb_share_withdraw(struct gb_client *client, const struct gb_key *key)
{
	struct entry *entry;

	mutex_lock(&gb_share_lock);
	entry = find(client->user, key);
	if (entry)
		drop(entry);
	mutex_unlock(&gb_share_lock);
	return entry ? 0 : -ENOENT;
}

/* Dropping it frees its memory at once. */
static bool evictable(const struct entry *entry)
{
	return unused(entry) && !gb_buffer_pinned(entry->buf);
}

static u64 evict(u64 bytes)
{
	struct entry *entry, *next;
	u64 freed = 0;

	lockdep_assert_held(&gb_share_lock);
	list_for_each_entry_safe(entry, next, &entries, node) {
		if (freed >= bytes)
			break;
		if (!evictable(entry))
			continue;
		freed += entry->buf->bytes;
		drop(entry);
	}
	return freed;
}

/* Frees unused objects, oldest first, whosever they are. */
u64 gb_share_evict(u64 bytes)
{
	u64 freed;

	mutex_lock(&gb_share_lock);
	freed = evict(bytes);
	mutex_unlock(&gb_share_lock);
	return freed;
}

/* All of them; but who is out of memory may hold the lock. */
u64 gb_share_evict_at_oom(void)
{
	u64 freed;

	if (!mutex_trylock(&gb_share_lock))
		return 0;
	freed = evict(U64_MAX);
	mutex_unlock(&gb_share_lock);
	return freed;
}

/* Which of the limits the client meets an entry counts against, as bits. */
static unsigned int counts_against(const struct entry *entry,
				   const struct gb_client *client)
{
	unsigned int limits = BIT(GB_LIMIT_POOL);

	if (entry->buf->client->user == client->user)
		limits |= BIT(GB_LIMIT_USER);
	if (entry->buf->client == client)
		limits |= BIT(GB_LIMIT_FILE);
	return limits;
}

/*
 * Frees what the client lacks within each limit, oldest first. All that it
 * lacks or nothing: what would be refused all the same costs nobody anything.
 */
bool gb_share_make_room(const struct gb_client *client,
			const u64 lack[GB_NR_LIMITS])
{
	u64 could[GB_NR_LIMITS] = {}, left[GB_NR_LIMITS];
	struct entry *entry, *next;
	unsigned long limits;
	bool helps, enough = true;
	int i;

	mutex_lock(&gb_share_lock);
	list_for_each_entry(entry, &entries, node) {
		limits = evictable(entry) ? counts_against(entry, client) : 0;
		for_each_set_bit(i, &limits, GB_NR_LIMITS)
			could[i] += entry->buf->bytes;
	}
	for (i = 0; i < GB_NR_LIMITS; i++) {
		enough = enough && could[i] >= lack[i];
		left[i] = lack[i];
	}
	if (!enough)
		goto unlock;
	list_for_each_entry_safe(entry, next, &entries, node) {
		limits = evictable(entry) ? counts_against(entry, client) : 0;
		helps = false;
		for_each_set_bit(i, &limits, GB_NR_LIMITS) {
			helps = helps || left[i];
			left[i] -= min(left[i], entry->buf->bytes);
		}
		if (helps)
			drop(entry);
	}
unlock:
	mutex_unlock(&gb_share_lock);
	return enough;
}

static u64 idle_bytes(void)
{
	struct entry *entry;
	u64 bytes = 0;

	list_for_each_entry(entry, &entries, node) {
		if (unused(entry))
			bytes += entry->buf->bytes;
	}
	return bytes;
}

u64 gb_share_idle(void)
{
	u64 bytes;

	mutex_lock(&gb_share_lock);
	bytes = idle_bytes();
	mutex_unlock(&gb_share_lock);
	return bytes;
}

/* Age and budget; at a level that is not ok, everything unused. */
void gb_share_tick(u32 level)
{
	struct entry *entry, *next;
	u64 bytes;

	mutex_lock(&gb_share_lock);
	bytes = idle_bytes();
	list_for_each_entry_safe(entry, next, &entries, node) {
		if (!unused(entry)) {
			entry->idle = false;
			continue;
		}
		if (!entry->idle) {
			entry->idle = true;
			entry->idle_since = jiffies;
		}
		if (level == GB_LEVEL_OK &&
		    bytes <= READ_ONCE(gb_cache_limit) &&
		    time_before(jiffies, entry->idle_since + entry->ttl))
			continue;
		bytes -= entry->buf->bytes;
		drop(entry);
	}
	mutex_unlock(&gb_share_lock);
}

void gb_share_stop(void)
{
	struct entry *entry, *next;

	mutex_lock(&gb_share_lock);
	list_for_each_entry_safe(entry, next, &entries, node)
		drop(entry);
	mutex_unlock(&gb_share_lock);
}
