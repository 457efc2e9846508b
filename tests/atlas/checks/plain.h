/* What these checks share: sockets by path, children, and results as JSON has them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOMETIMES __attribute__((unused)) static

/* The outcome of a call that has just returned this: "ok", or errno's name. */
SOMETIMES const char *outcome(long result)
{
	if (result >= 0)
		return "ok";
	return errno == EOPNOTSUPP ? "EOPNOTSUPP" : strerrorname_np(errno);
}

/* An address: abstract if the name begins with '@'. */
SOMETIMES socklen_t address(struct sockaddr_un *to, const char *name)
{
	memset(to, 0, sizeof *to);
	to->sun_family = AF_UNIX;
	strcpy(to->sun_path, name);
	if (*name != '@')
		return sizeof *to;
	to->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(name);
}

SOMETIMES const char *reach(int fd, const char *name)
{
	struct sockaddr_un to;
	socklen_t size = address(&to, name);
	return outcome(connect(fd, (struct sockaddr *)&to, size));
}

SOMETIMES const char *take(int fd, const char *name)
{
	struct sockaddr_un to;
	socklen_t size = address(&to, name);
	return outcome(bind(fd, (struct sockaddr *)&to, size));
}

SOMETIMES int fresh(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

SOMETIMES const char *connects(const char *name)
{
	int fd = fresh();
	const char *said = reach(fd, name);
	close(fd);
	return said;
}

SOMETIMES int serve(const char *name)
{
	int fd = fresh();
	if (strcmp(take(fd, name), "ok") || listen(fd, 9)) {
		perror(name);
		exit(1);
	}
	return fd;
}

/* Run it in a child, and wait for that; what is printed is printed once. */
SOMETIMES int child(void (*run)(void))
{
	int status;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		run();
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

SOMETIMES void need(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}
