// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files of the device and the users behind them. Who somebody is, is
 * settled when the device is opened: a file passed to another user still acts,
 * and is charged, for the one who opened it.
 */
#include <linux/poll.h>
#include <linux/slab.h>

#include "compat.h"
#include "greenboost.h"

LIST_HEAD(gb_clients);
/* Of the list, and of the users in it. */
DEFINE_MUTEX(gb_clients_lock);
static LIST_HEAD(gb_users);

/* The one there is, or else the new one, which is then taken. */
static struct gb_user *user_get(kuid_t uid, struct gb_user **new)
{
	struct gb_user *user;

	lockdep_assert_held(&gb_clients_lock);
	list_for_each_entry(user, &gb_users, node) {
		if (uid_eq(user->uid, uid)) {
			user->refs++;
			return user;
		}
	}
	user = *new;
	*new = NULL;
	user->uid = uid;
	user->refs = 1;
	list_add(&user->node, &gb_users);
	return user;
}

static void user_put(struct gb_user *user)
{
	lockdep_assert_held(&gb_clients_lock);
	if (--user->refs)
		return;
	WARN_ON(atomic64_read(&user->used));
	list_del(&user->node);
	kfree(user);
}

struct gb_client *gb_client_create(void)
{
	struct gb_client *client;
	struct gb_user *new;

	/*
	 * Nothing is allocated with the lock held: who runs out of memory there
	 * would be waited for by those who free some.
	 */
	client = kzalloc(sizeof(*client), GFP_KERNEL_ACCOUNT);
	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!client || !new)
		goto free;
	kref_init(&client->refs);
	spin_lock_init(&client->lock);
	init_waitqueue_head(&client->wait);
	client->pid = task_tgid_nr(current);
	get_task_comm(client->comm, current);

	mutex_lock(&gb_clients_lock);
	client->user = user_get(current_fsuid(), &new);
	list_add_tail(&client->node, &gb_clients);
	client->level = gb_level(&client->causes);
	client->seq = client->level != GB_LEVEL_OK;
	mutex_unlock(&gb_clients_lock);
	kfree(new);
	return client;

free:
	kfree(new);
	kfree(client);
	return NULL;
}

static void client_free(struct kref *refs)
{
	struct gb_client *client = container_of(refs, struct gb_client, refs);

	WARN_ON(atomic64_read(&client->used));
	mutex_lock(&gb_clients_lock);
	user_put(client->user);
	mutex_unlock(&gb_clients_lock);
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
	mutex_lock(&gb_clients_lock);
	list_del(&client->node);
	mutex_unlock(&gb_clients_lock);
	gb_spill_clear(client);
	gb_client_set_eventfd(client, -1);
	gb_client_put(client);
}

int gb_client_set_eventfd(struct gb_client *client, int fd)
{
	struct eventfd_ctx *ctx = NULL;

	if (fd >= 0) {
		ctx = eventfd_ctx_fdget(fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	}
	spin_lock(&client->lock);
	swap(client->eventfd, ctx);
	/* A level that is not ok already is news for a new listener. */
	if (fd >= 0 && client->level != GB_LEVEL_OK)
		gb_eventfd_signal(client->eventfd);
	spin_unlock(&client->lock);
	if (ctx)
		eventfd_ctx_put(ctx);
	return 0;
}

void gb_client_update(struct gb_client *client, u32 level, u32 causes)
{
	bool changed;

	spin_lock(&client->lock);
	changed = level != client->level;
	client->level = level;
	client->causes = causes;
	if (changed) {
		client->seq++;
		if (client->eventfd)
			gb_eventfd_signal(client->eventfd);
	}
	spin_unlock(&client->lock);
	if (changed)
		wake_up_interruptible_poll(&client->wait,
					   EPOLLIN | EPOLLRDNORM | EPOLLPRI);
}
