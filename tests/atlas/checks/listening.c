/* Rows of LSN. */
#include "check.h"

/* Non-blocking connects until one fails, printed: how many, and what that said. */
static void print_room(const char *path)
{
	int count = 0;

	for (;;) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		int done = connect_path(fd, path);
		const char *how = said(done);

		close(fd);
		if (done) {
			printf("%d, %s]", count, how);
			return;
		}
		count++;
	}
}

static void print_accepting(const char *what, int fd, const char *end)
{
	int value = -1;
	socklen_t size = sizeof value;

	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size);
	printf("\"%s\": %d%s", what, value, end);
}

int main(void)
{
	const int backlogs[] = {0, 1, 3};
	const char *one, *two, *three;
	char path[16], byte;
	int fds[2], fd, client;

	socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
	fd = stream();
	bind_path(fd, "bound");
	one = said(listen(stream(), 1));
	two = said(listen(fds[0], 1));
	printf("LSN-01 {\"unbound\": %s, \"pair\": %s, \"bound\": %s}\n", one, two, said(listen(fd, 1)));

	for (int at = 0; at < 3; at++) {
		snprintf(path, sizeof path, "room%d", backlogs[at]);
		fd = server(path, backlogs[at]);
		printf("%s\"%d\": [", at ? ", " : "LSN-03 {", backlogs[at]);
		print_room(path);
	}
	for (int at = 0; at < 4; at++)
		close(accept(fd, NULL, NULL));
	printf(", \"accepted\": [");
	print_room(path);
	printf("}\n");

	const char *steps[] = {"0", "2", "0 again"};
	fd = stream();
	bind_path(fd, "again");
	for (int at = 0; at < 3; at++) {
		one = said(listen(fd, atoi(steps[at])));
		printf("%s\"%s\": [%s, ", at ? ", " : "LSN-05 {", steps[at], one);
		print_room("again");
	}
	fcntl(fd, F_SETFL, O_NONBLOCK);
	int accepted = 0;
	while ((client = accept(fd, NULL, NULL)) >= 0) {
		close(client);
		accepted++;
	}
	printf(", \"accepted\": %d, \"then\": [", accepted);
	print_room("again");
	printf("}\n");

	fd = stream();
	printf("LSN-09 {");
	print_accepting("unbound", fd, ", ");
	bind_path(fd, "option");
	print_accepting("bound", fd, ", ");
	listen(fd, 1);
	print_accepting("listening", fd, ", ");
	client = stream();
	connect_path(client, "option");
	print_accepting("client", client, ", ");
	print_accepting("accepted", accept(fd, NULL, NULL), "}\n");

	fd = server("closing", 5);
	client = stream();
	connect_path(client, "closing");
	struct pollfd before = {client, POLLIN | POLLPRI | POLLOUT | POLLRDHUP, 0}, after = before;
	poll(&before, 1, 0);
	close(fd);
	poll(&after, 1, 0);
	one = recv(client, &byte, 1, MSG_DONTWAIT) < 0 ? said(-1) : "\"\"";
	two = recv(client, &byte, 1, MSG_DONTWAIT) < 0 ? said(-1) : "\"\"";
	three = recv(client, &byte, 1, MSG_DONTWAIT) < 0 ? said(-1) : "\"\"";
	printf("LSN-13 {\"before\": \"%s\", \"poll\": \"%s\", \"recv\": [%s, %s, %s]}\n",
	       before.revents == POLLOUT ? "OUT" : "?",
	       after.revents == (POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP) ? "IN|OUT|ERR|HUP|RDHUP" : "?", one,
	       two, three);
	return 0;
}
