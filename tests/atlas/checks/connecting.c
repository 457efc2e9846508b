/* Rows of CON. */
#include "check.h"

int main(void)
{
	const char *paths[][2] = {{"file", "file"}, {"directory", "."}, {"fifo", "fifo"}, {"device", "/dev/null"}};
	const char *one, *two, *three, *four;
	const char name[] = "\0udslab-check-con03";
	int fd, other, first, second;

	close(open("file", O_CREAT | O_WRONLY, 0666));
	mkfifo("fifo", 0666);
	for (int at = 0; at < 4; at++)
		printf("%s\"%s\": %s", at ? ", " : "CON-02 {", paths[at][0], said(connect_path(stream(), paths[at][1])));
	printf("}\n");

	fd = stream();
	other = stream();
	bind_path(fd, "bound");
	bind_bytes(other, name, sizeof name);
	one = said(connect_path(stream(), "bound"));
	two = said(connect_bytes(stream(), name, sizeof name));
	listen(fd, 5);
	listen(other, 5);
	three = said(connect_path(stream(), "bound"));
	four = said(connect_bytes(stream(), name, sizeof name));
	printf("CON-03 {\"pathname\": [%s, %s], \"abstract\": [%s, %s]}\n", one, three, two, four);

	fd = server("itself", 5);
	server("another", 5);
	one = said(connect_path(fd, "itself"));
	two = said(connect_path(fd, "another"));
	three = said(connect_path(stream(), "itself"));
	printf("CON-07 {\"itself\": %s, \"another\": %s, \"still\": %s}\n", one, two, three);

	fd = server("full", 0);
	first = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	second = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	one = said(connect_path(first, "full"));
	two = said(connect_path(second, "full"));
	three = said(connect_path(second, "full"));
	struct pollfd waiting = {second, POLLIN | POLLPRI | POLLOUT | POLLRDHUP, 0};
	poll(&waiting, 1, 0);
	accept(fd, NULL, NULL);
	four = said(connect_path(second, "full"));
	printf("CON-14 {\"room\": %s, \"full\": [%s, %s], \"poll\": \"%s\", \"room again\": %s}\n", one, two, three,
	       waiting.revents == (POLLOUT | POLLHUP) ? "OUT|HUP" : "?", four);

	one = said(connect_bytes(stream(), "", 0));
	two = said(bind_bytes(stream(), "", 0));
	printf("CON-18 {\"connect\": %s, \"bind\": %s}\n", one, two);
	return 0;
}
