/* What the checks share: sockets by relative paths, and results as JSON has them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAYBE __attribute__((unused)) static

/* What a call that has just returned this has said, as a JSON string. */
MAYBE const char *said(long result)
{
	static char names[16][32];
	static int next;
	char *name = names[next++ % 16];

	snprintf(name, 32, "\"%s\"", result >= 0 ? "ok" : strerrorname_np(errno));
	if (result < 0 && errno == EOPNOTSUPP)
		strcpy(name, "\"EOPNOTSUPP\"");
	return name;
}

MAYBE const char *yes(int condition)
{
	return condition ? "true" : "false";
}

/* A sockaddr_un with these bytes; its length. */
MAYBE socklen_t fill(struct sockaddr_storage *address, const void *bytes, size_t length)
{
	memset(address, 0, sizeof *address);
	address->ss_family = AF_UNIX;
	memcpy(((struct sockaddr_un *)address)->sun_path, bytes, length);
	return offsetof(struct sockaddr_un, sun_path) + length;
}

MAYBE int stream(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

MAYBE int bind_bytes(int fd, const void *bytes, size_t length)
{
	struct sockaddr_storage address;
	socklen_t size = fill(&address, bytes, length);

	return bind(fd, (struct sockaddr *)&address, size);
}

MAYBE int connect_bytes(int fd, const void *bytes, size_t length)
{
	struct sockaddr_storage address;
	socklen_t size = fill(&address, bytes, length);

	return connect(fd, (struct sockaddr *)&address, size);
}

MAYBE int bind_path(int fd, const char *path)
{
	return bind_bytes(fd, path, strlen(path));
}

MAYBE int connect_path(int fd, const char *path)
{
	return connect_bytes(fd, path, strlen(path));
}

MAYBE int server(const char *path, int backlog)
{
	int fd = stream();

	if (bind_path(fd, path) || listen(fd, backlog))
		abort();
	return fd;
}

/* How long getsockname says that the name is. */
MAYBE socklen_t name_length(int fd)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof address;

	return getsockname(fd, (struct sockaddr *)&address, &size) ? 0 : size;
}
