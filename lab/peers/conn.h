/* What the C programs share: an address, a write that writes everything, and one way to fail. */
#ifndef CONN_H
#define CONN_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Fills the address and returns the exact length for bind or connect: up to the path's last byte, without a
 * trailing NUL. Returns 0 with errno ENAMETOOLONG where the path does not fit. */
socklen_t unix_address(struct sockaddr_un *address, const char *path);

/* Writes all of the bytes. 0, or -1 with errno. */
int write_all(int fd, const void *bytes, size_t count);

/* Closes fd and returns stage, with errno as it was: close() may change it, and the caller reports it. */
int give_up(int fd, int stage);

/* One line on standard error: the program, the stage that failed, the path, and errno in words and as a number.
 * errno 0 stands for an end of file that came too early. */
void complain(const char *program, const char *stage, const char *path);

#endif
