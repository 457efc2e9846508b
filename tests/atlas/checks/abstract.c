/* Rows of ABS. */
#include "check.h"

static char name[109] = "\0udslab-check";

/* A fresh name of so many bytes, the zero included. */
static const char *fresh(int length)
{
	static int number;

	snprintf(name + 13, sizeof name - 13, "-%d-%d-", getpid(), number++);
	for (int at = 1; at < length; at++)
		if (!name[at])
			memset(name + at, 'x', length - at);
	return name;
}

static socklen_t get(int fd, struct sockaddr_storage *address)
{
	socklen_t size = sizeof *address;

	memset(address, 0, sizeof *address);
	return getsockname(fd, (struct sockaddr *)address, &size) ? 0 : size;
}

static int same(int fd, int other)
{
	struct sockaddr_storage one, two;

	return get(fd, &one) == get(other, &two) && !memcmp(&one, &two, sizeof one);
}

int main(void)
{
	const char *one, *two, *three, *four;
	struct sockaddr_storage before, after;
	int first = stream(), second = stream(), client = stream(), accepted, fd;
	char byte = '?';

	fresh(40);
	bind_bytes(first, name, 40);
	listen(first, 5);
	connect_bytes(client, name, 40);
	accepted = accept(first, NULL, NULL);
	one = said(bind_bytes(stream(), name, 40));
	close(first);
	two = said(bind_bytes(second, name, 40));
	listen(second, 5);
	send(client, "x", 1, 0);
	recv(accepted, &byte, 1, MSG_DONTWAIT);
	connect_bytes(stream(), name, 40);
	fcntl(second, F_SETFL, O_NONBLOCK);
	printf("ABS-05 {\"while it listens\": %s, \"bind\": %s, \"name\": %s, \"data\": \"%c\", \"new\": %s}\n", one, two,
	       yes(same(accepted, second)), byte, yes(accept(second, NULL, NULL) >= 0));

	fd = stream();
	fresh(108);
	one = said(bind_bytes(fd, name, 108));
	listen(fd, 5);
	two = said(connect_bytes(stream(), name, 108));
	fd = stream();
	three = said(bind_bytes(fd, name, 109));
	four = said(connect_bytes(stream(), name, 109));
	printf("ABS-06 {\"107\": [%s, %s], \"108\": [%s, %s]}\n", one, two, three, four);

	fd = stream();
	printf("ABS-07 {\"before\": %d, ", name_length(fd));
	printf("\"bind\": %s, ", said(bind_bytes(fd, "", 0)));
	printf("\"length\": %d, ", get(fd, &after));
	const char *path = ((struct sockaddr_un *)&after)->sun_path;
	printf("\"digits\": %s, ", yes(!path[0] && strspn(path + 1, "0123456789abcdef") == 5));
	listen(fd, 5);
	printf("\"connect\": %s}\n", said(connect_bytes(stream(), path, 6)));

	fd = stream();
	bind_bytes(fd, "", 0);
	get(fd, &before);
	one = said(bind_bytes(fd, "", 0));
	get(fd, &after);
	two = said(bind_bytes(fd, fresh(30), 30));
	printf("ABS-08 {\"again\": %s, \"same\": %s, \"other name\": %s}\n", one,
	       yes(!memcmp(&before, &after, sizeof before)), two);

	for (int abstract = 0; abstract < 2; abstract++) {
		fd = stream();
		if (abstract)
			bind_bytes(fd, fresh(30), 30);
		else
			bind_path(fd, "path");
		get(fd, &before);
		one = said(bind_bytes(fd, "", 0));
		get(fd, &after);
		printf("%s: [%s, %s]", abstract ? ", \"abstract\"" : "ABS-09 {\"pathname\"", one,
		       yes(!memcmp(&before, &after, sizeof before)));
	}
	printf("}\n");
	return 0;
}
