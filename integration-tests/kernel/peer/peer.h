/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the other side know of each other.
 *
 *	peer.c		pins and imports, as a GPU driver does
 *	inject.c		faults, to see whether anybody notices
 *	slow.c		a filesystem that answers when it is told to
 */
#ifndef _GB_PEER_H
#define _GB_PEER_H

#include <linux/types.h>

void peer_inject(unsigned long what);

int peer_slow_start(void);
void peer_slow_stop(void);
void peer_slow_hang(bool hang);

#endif /* _GB_PEER_H */
