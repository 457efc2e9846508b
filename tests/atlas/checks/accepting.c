/* Rows of ACC. */
#include "check.h"

static int waiting(const char *path)
{
	int fd = stream();

	if (connect_path(fd, path))
		abort();
	return fd;
}

int main(void)
{
	const char *one, *two, *three, *four;
	struct sockaddr_storage address;
	socklen_t size = sizeof address;
	char buffer[200], whole[200], byte;
	int fd = server("left", 5), client = stream(), accepted;

	bind_path(client, "c");
	connect_path(client, "left");
	send(client, "left", 4, 0);
	close(client);
	accepted = accept4(fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK);
	one = said(accepted);
	size = recv(accepted, buffer, sizeof buffer, 0);
	two = recv(accepted, &byte, 1, 0) == 0 ? "\"\"" : "\"?\"";
	three = said(send(accepted, "x", 1, MSG_NOSIGNAL));
	printf("ACC-05 {\"accept\": %s, \"peer\": \"%s\", \"recv\": [\"%.*s\", %s], \"send\": %s}\n", one,
	       ((struct sockaddr_un *)&address)->sun_path, (int)size, buffer, two, three);

	fd = server("negative", 5);
	client = waiting("negative");
	fcntl(fd, F_SETFL, O_NONBLOCK);
	size = (socklen_t)-1;
	one = said(accept(fd, (struct sockaddr *)&address, &size));
	two = recv(client, &byte, 1, MSG_DONTWAIT) == 0 ? "\"\"" : "\"?\"";
	printf("ACC-07 {\"accept\": %s, \"client\": %s, \"next\": %s}\n", one, two, said(accept(fd, NULL, NULL)));

	fd = server("order", 10);
	for (int at = 0; at < 6; at++) {
		byte = '0' + at;
		send(waiting("order"), &byte, 1, 0);
	}
	for (int at = 0; at < 6; at++) {
		recv(accept(fd, NULL, NULL), &byte, 1, 0);
		printf("%s%c", at ? ", " : "ACC-08 [", byte);
	}
	printf("]\n");

	fd = server("files", 5);
	send(waiting("files"), "x", 1, 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	struct rlimit before, few;
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = dup(fd);
	close(few.rlim_cur);
	setrlimit(RLIMIT_NOFILE, &few);
	one = said(accept(fd, NULL, NULL));
	two = said(accept(fd, NULL, NULL));
	setrlimit(RLIMIT_NOFILE, &before);
	accepted = accept(fd, NULL, NULL);
	three = said(accepted);
	recv(accepted, &byte, 1, MSG_DONTWAIT);
	printf("ACC-09 {\"accept\": [%s, %s], \"later\": %s, \"data\": \"%c\"}\n", one, two, three, byte);

	const int rooms[] = {110, 200, 2147483647};
	fd = server("room", 5);
	for (int at = 0; at < 3; at++) {
		char path[] = "room0";

		path[4] += at;
		client = stream();
		bind_path(client, path);
		connect_path(client, "room");
		memset(buffer, 0xff, sizeof buffer);
		memset(whole, 0xff, sizeof whole);
		memcpy(whole, &(sa_family_t){AF_UNIX}, 2);
		memcpy(whole + 2, path, sizeof path);
		size = rooms[at];
		accept(fd, (struct sockaddr *)buffer, &size);
		four = yes(!memcmp(buffer, whole, sizeof whole));
		printf("%s\"%d\": [%d, %s]", at ? ", " : "ACC-10 {", rooms[at], (int)size - 5, four);
	}
	printf("}\n");
	return 0;
}
