/* Rows of BND. */
#include "check.h"

static int number;

/* The mode that a socket's file has, bound with that umask; fchmod before, if that mode is not -1. */
static unsigned bound_mode(mode_t mask, int mode)
{
	char path[16];
	struct stat status;
	int fd = stream();

	snprintf(path, sizeof path, "mode%d", number++);
	umask(mask);
	if (mode >= 0)
		fchmod(fd, mode);
	if (bind_path(fd, path) || lstat(path, &status))
		abort();
	umask(022);
	return status.st_mode & 07777;
}

int main(void)
{
	const mode_t masks[] = {0, 022, 077, 0117, 0777};
	const char *one, *two, *three, *four;
	struct stat status;
	int fd = stream(), other = stream();

	bind_path(fd, "s");
	bind_bytes(other, "\0udslab-check-bnd04", 19);
	one = said(bind_path(fd, "s"));
	two = said(bind_bytes(other, "\0udslab-check-bnd04", 19));
	printf("BND-04 {\"pathname\": %s, \"abstract\": %s}\n", one, two);

	for (int at = 0; at < 5; at++)
		printf("%s\"%04o\": \"%04o\"", at ? ", " : "BND-07 {", masks[at], bound_mode(masks[at], -1));
	printf("}\n");

	printf("BND-08 {\"0600, umask 0\": \"%04o\", ", bound_mode(0, 0600));
	printf("\"0770, umask 022\": \"%04o\", ", bound_mode(022, 0770));
	printf("\"0, umask 0\": \"%04o\"}\n", bound_mode(0, 0));

	one = said(mknod("node", S_IFSOCK | 0777, 0));
	lstat("node", &status);
	two = said(connect_path(stream(), "node"));
	three = said(bind_path(stream(), "node"));
	printf("BND-18 {\"mknod\": %s, \"socket\": %s, \"connect\": %s, \"bind\": %s}\n", one,
	       yes(S_ISSOCK(status.st_mode)), two, three);

	fd = stream();
	server("taken", 5);
	one = said(bind_path(fd, "missing/s"));
	two = said(bind_path(fd, "taken"));
	three = said(bind_path(fd, "taken/s"));
	four = said(bind_path(fd, "free"));
	listen(fd, 5);
	printf("BND-20 [%s, %s, %s, %s, %s]\n", one, two, three, four, said(connect_path(stream(), "free")));
	return 0;
}
