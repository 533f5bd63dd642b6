// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files of the device and the users behind them. Who somebody is, is
 * settled when the device is opened: a file passed to another user still acts,
 * and is charged, for the one who opened it.
 */
#include <linux/slab.h>

#include "greenboost.h"

/* Files cost memory of the kernel, and each may wait for news. */
#define MAX_FILES_PER_USER 256

static LIST_HEAD(users);
static atomic_t nr_clients;
/* Of the list, and of what the users count. */
static DEFINE_SPINLOCK(lock);

/* The one there is, or else the new one, which is then taken. */
static struct gb_user *user_get(kuid_t uid, struct gb_user **new)
{
	struct gb_user *user;

	lockdep_assert_held(&lock);
	list_for_each_entry(user, &users, node) {
		if (uid_eq(user->uid, uid))
			return user;
	}
	user = *new;
	*new = NULL;
	user->uid = uid;
	list_add(&user->node, &users);
	return user;
}

struct gb_client *gb_client_create(void)
{
	struct gb_state state = gb_state();
	struct gb_client *client;
	struct gb_user *new;
	int err = -ENOMEM;

	client = kzalloc(sizeof(*client), GFP_KERNEL_ACCOUNT);
	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!client || !new)
		goto free;
	kref_init(&client->refs);
	/* A level that is not ok is news to who comes now. */
	client->seen = state.seq;
	if (state.ram_level != GB_LEVEL_OK || state.spill_level != GB_LEVEL_OK)
		client->seen--;

	spin_lock(&lock);
	client->user = user_get(current_fsuid(), &new);
	if (client->user->files >= MAX_FILES_PER_USER) {
		spin_unlock(&lock);
		err = -EMFILE;
		goto free;
	}
	client->user->files++;
	client->user->refs++;
	spin_unlock(&lock);
	kfree(new);
	if (atomic_inc_return(&nr_clients) == 1)
		gb_watchdog_kick();
	return client;

free:
	kfree(new);
	kfree(client);
	return ERR_PTR(err);
}

static void client_free(struct kref *refs)
{
	struct gb_client *client = container_of(refs, struct gb_client, refs);
	struct gb_user *user = client->user;
	bool last;

	WARN_ON(atomic64_read(&client->used));
	spin_lock(&lock);
	last = !--user->refs;
	if (last)
		list_del(&user->node);
	spin_unlock(&lock);
	if (last) {
		WARN_ON(atomic64_read(&user->used));
		kfree(user);
	}
	kfree(client);
}

void gb_client_get(struct gb_client *client)
{
	kref_get(&client->refs);
}

void gb_client_put(struct gb_client *client)
{
	kref_put(&client->refs, client_free);
}

/* The file is gone: nobody listens any more. */
void gb_client_close(struct gb_client *client)
{
	spin_lock(&lock);
	client->user->files--;
	spin_unlock(&lock);
	gb_client_put(client);
	if (atomic_dec_and_test(&nr_clients))
		gb_watchdog_kick();
}

bool gb_any_client(void)
{
	return atomic_read(&nr_clients);
}
