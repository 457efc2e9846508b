/* Rows of MSC. */
#include "plain.h"
#include <net/if.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>

static void (*disposition)(int);
static int flags, ends[2];

static void send_to_nobody(void)
{
	signal(SIGPIPE, disposition);
	_exit(send(ends[0], "x", 1, flags) < 0 ? errno : 0);
}

static void broken(const char *what, void (*how)(int), int with, const char *end)
{
	disposition = how;
	flags = with;
	socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
	close(ends[1]);
	int status = child(send_to_nobody);
	printf("\"%s\": \"%s\"%s", what,
	       WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE ? "a child has ended with SIGPIPE"
	       : WEXITSTATUS(status) == EPIPE			  ? "BrokenPipeError"
								  : "something else",
	       end);
}

static long index_of(int fd, const char *name)
{
	struct ifreq request = {0};
	strcpy(request.ifr_name, name);
	return ioctl(fd, SIOCGIFINDEX, &request) < 0 ? -1 : request.ifr_ifindex;
}

static double now(void)
{
	struct timeval time;
	gettimeofday(&time, NULL);
	return time.tv_sec + time.tv_usec / 1e6;
}

int main(void)
{
	static char block[4096];
	int pair[2], first[2], second[2];
	struct timeval limit = {.tv_usec = 60000};

	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	while (send(pair[0], block, sizeof block, MSG_DONTWAIT) > 0)
		;
	double began = now();
	printf("MSC-02 {\"full\": \"%s\", ", outcome(send(pair[0], block, sizeof block, 0)));
	printf("\"waited\": %s, ", now() - began >= 0.05 ? "true" : "false");
	while (recv(pair[1], block, sizeof block, MSG_DONTWAIT) > 0)
		;
	printf("\"with room\": \"%s\"}\n", outcome(send(pair[0], block, sizeof block, 0)));
	while (recv(pair[1], block, sizeof block, MSG_DONTWAIT) > 0)
		;

	printf("MSC-04 {");
	broken("ignored", SIG_IGN, 0, ", ");
	broken("by default", SIG_DFL, 0, ", ");
	broken("by default, MSG_NOSIGNAL", SIG_DFL, MSG_NOSIGNAL, "}\n");

	int fd = fresh();
	printf("MSC-05 {\"lo\": %s, ", index_of(fd, "lo") == if_nametoindex("lo") ? "true" : "false");
	printf("\"no such interface\": \"%s\"}\n", outcome(index_of(fd, "udslab-none")));

	printf("MSC-06 {\"fsync\": \"%s\", ", outcome(fsync(fd)));
	printf("\"ftruncate\": \"%s\", ", outcome(ftruncate(fd, 0)));
	printf("\"mmap\": \"%s\", ", outcome((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
	printf("\"lseek\": \"%s\", ", outcome(lseek(fd, 0, SEEK_SET)));
	printf("\"pread\": \"%s\", ", outcome(pread(fd, block, 1, 0)));
	printf("\"flock\": [\"%s\", ", outcome(flock(fd, LOCK_EX | LOCK_NB)));
	printf("\"%s\"]}\n", outcome(flock(fd, LOCK_UN)));

	pipe(first);
	pipe(second);
	write(first[1], "ping", 4);
	const char *refused = outcome(tee(first[0], pair[0], 100, SPLICE_F_NONBLOCK));
	printf("MSC-07 {\"tee to a pipe\": %ld, ", (long)tee(first[0], second[1], 100, SPLICE_F_NONBLOCK));
	printf("\"splice of the copy\": %ld, ", (long)splice(second[0], NULL, pair[0], NULL, 100, 0));
	printf("\"received\": \"%.*s\", ", (int)recv(pair[1], block, 100, 0), block);
	printf("\"still in the pipe\": \"%.*s\", ", (int)read(first[0], block, 100), block);
	send(pair[1], "pong", 4, 0);
	long back = splice(pair[0], NULL, second[1], NULL, 100, 0);
	printf("\"tee to the socket\": \"%s\", ", refused);
	printf("\"splice from the socket\": [%ld, \"%.*s\"]}\n", back, (int)read(second[0], block, 100), block);
	return 0;
}
