/* Rows of UNN. */
#include "check.h"

/* Length, whether just the family was written, and the name (of which there is none). */
static void print_name(const char *what, int fd, int (*get)(int, struct sockaddr *, socklen_t *))
{
	char buffer[128], wanted[128];
	socklen_t size = sizeof buffer;

	memset(buffer, 0xff, sizeof buffer);
	memset(wanted, 0xff, sizeof wanted);
	memcpy(wanted, &(sa_family_t){AF_UNIX}, 2);
	get(fd, (struct sockaddr *)buffer, &size);
	printf("\"%s\": [%d, %s, \"%.*s\"], ", what, size, yes(!memcmp(buffer, wanted, sizeof wanted)), (int)size - 2,
	       buffer + 2);
}

static const char *peer(int fd)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof address;

	return said(getpeername(fd, (struct sockaddr *)&address, &size));
}

static void print_flags(const char *what, int fd, const char *end)
{
	char byte;

	printf("\"%s\": [%s, %s]%s", what,
	       fcntl(fd, F_GETFL) & O_NONBLOCK ? said(read(fd, &byte, 1)) : "\"blocking\"",
	       fcntl(fd, F_GETFD) & FD_CLOEXEC ? "\"closed\"" : "\"inherited\"", end);
}

static int end(int flags)
{
	int fds[2];

	return socketpair(AF_UNIX, SOCK_STREAM | flags, 0, fds) ? -1 : fds[0];
}

static const char *pair(int domain, int type, int protocol)
{
	int fds[2];
	int made = socketpair(domain, type, protocol, fds);
	const char *how = said(made);

	if (!made) {
		close(fds[0]);
		close(fds[1]);
	}
	return how;
}

int main(void)
{
	const char *one, *two, *three;
	int *volatile nowhere = (int *)1;
	int fd = stream(), refused = stream(), client = stream(), listener;

	printf("UNN-01 {");
	print_name("fresh", fd, getsockname);
	print_name("end", end(0), getsockname);
	print_name("end's peer", end(0), getpeername);
	bind_path(fd, "bound");
	printf("\"bound\": %s}\n", yes(name_length(fd) == 2));

	connect_path(refused, "missing");
	listener = server("listener", 5);
	connect_path(client, "listener");
	one = peer(stream());
	two = peer(fd);
	three = peer(refused);
	printf("UNN-02 {\"fresh\": %s, \"bound\": %s, \"refused\": %s, \"connected\": %s}\n", one, two, three,
	       peer(client));

	printf("UNN-04 {");
	print_flags("plain", end(0), ", ");
	print_flags("SOCK_NONBLOCK", end(SOCK_NONBLOCK), ", ");
	print_flags("SOCK_CLOEXEC", end(SOCK_CLOEXEC), ", ");
	print_flags("both", end(SOCK_NONBLOCK | SOCK_CLOEXEC), ", ");
	/* As Python asks for them. */
	print_flags("Python", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ", ");
	print_flags("Python non-blocking", end(SOCK_NONBLOCK | SOCK_CLOEXEC), "}\n");

	fd = server("alone", 5);
	one = peer(fd);
	connect_path(stream(), "alone");
	two = peer(fd);
	accept(fd, NULL, NULL);
	printf("UNN-05 {\"alone\": %s, \"somebody waits\": %s, \"somebody accepted\": %s}\n", one, two, peer(fd));

	int before = dup(listener);
	close(before);
	printf("UNN-06 {\"family 99\": %s, ", pair(99, SOCK_STREAM, 0));
	printf("\"AF_INET\": %s, ", pair(AF_INET, SOCK_STREAM, 0));
	printf("\"type 999\": %s, ", pair(AF_UNIX, 999, 0));
	printf("\"SOCK_RDM\": %s, ", pair(AF_UNIX, SOCK_RDM, 0));
	printf("\"protocol 1\": %s, ", pair(AF_UNIX, SOCK_STREAM, 1));
	printf("\"protocol 2\": %s, ", pair(AF_UNIX, SOCK_STREAM, 2));
	printf("\"pointer\": %s, ", said(socketpair(AF_UNIX, SOCK_STREAM, 0, nowhere)));
	printf("\"descriptors left\": %d}\n", dup(listener) - before);
	return 0;
}
