/* Rows of ACT. */
#include "plain.h"

static int listener;

static int accepts(int fd)
{
	int value = -1;
	socklen_t size = sizeof value;
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size);
	return value;
}

static const char *inherited(int fd)
{
	return fcntl(fd, F_GETFD) & FD_CLOEXEC ? "false" : "true";
}

/* Pass three descriptors over a pair, and receive them. */
static void pass(int *pair, const int *fds, int *received, int flags)
{
	char byte = 'x', control[CMSG_SPACE(3 * sizeof(int))] = "";
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *message = CMSG_FIRSTHDR(&header);
	message->cmsg_level = SOL_SOCKET;
	message->cmsg_type = SCM_RIGHTS;
	message->cmsg_len = CMSG_LEN(3 * sizeof(int));
	memcpy(CMSG_DATA(message), fds, 3 * sizeof(int));
	need(sendmsg(pair[0], &header, 0), "sendmsg");
	need(recvmsg(pair[1], &header, flags), "recvmsg");
	memcpy(received, CMSG_DATA(CMSG_FIRSTHDR(&header)), 3 * sizeof(int));
}

/* The credentials of the next message, in words; its sender's address, if any. */
static const char *who(int fd, char *text, int *named)
{
	char control[100];
	struct sockaddr_un from;
	struct iovec data = {.iov_base = text, .iov_len = 20};
	struct msghdr header = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &data, .msg_iovlen = 1,
				.msg_control = control, .msg_controllen = sizeof control};
	text[recvmsg(fd, &header, 0)] = 0;
	*named = header.msg_namelen > 0;
	struct ucred *told = (void *)CMSG_DATA(CMSG_FIRSTHDR(&header));
	if (told->pid == getpid() && told->uid == getuid() && told->gid == getgid())
		return "the sender";
	return told->pid == 0 && told->uid == 65534 && told->gid == 65534 ? "nobody" : "somebody";
}

static void close_it(void)
{
	printf("\"done\": \"%s\", ", outcome(close(listener)));
}

static void remove_it(void)
{
	printf("\"done\": \"%s\", ", outcome(unlink("file removed")));
}

static void shut_it_down(void)
{
	printf("\"done\": \"%s\", ", outcome(shutdown(listener, SHUT_RDWR)));
}

static void ended(const char *how, void (*end)(void))
{
	listener = serve(how);
	printf("\"%s\": {", how);
	child(end);
	printf("\"connect\": \"%s\", ", connects(how));
	struct pollfd one = {.fd = listener, .events = POLLIN | POLLRDHUP};
	poll(&one, 1, 0);
	const char *seen = one.revents == (POLLIN | POLLHUP | POLLRDHUP) ? "IN|HUP|RDHUP"
			   : one.revents == POLLIN			 ? "IN"
			   : one.revents				 ? "more"
									 : "";
	printf("\"poll\": \"%s\", ", seen);
	printf("\"accept\": \"%s\"}", one.revents ? outcome(accept(listener, NULL, NULL)) : "would wait");
}

int main(void)
{
	int pair[2], other[2], received[3], again[3], bound = fresh(), yes = 1, named;
	char text[30];

	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	socketpair(AF_UNIX, SOCK_STREAM, 0, other);
	take(bound, "bound");
	listener = serve("listener");
	pass(pair, (int[]){listener, bound, other[0]}, received, 0);
	pass(pair, (int[]){listener, bound, other[0]}, again, MSG_CMSG_CLOEXEC);
	connects("listener");
	printf("ACT-01 {\"SO_ACCEPTCONN\": {\"listener\": %d, \"bound\": %d, \"connection\": %d}, ", accepts(received[0]),
	       accepts(received[1]), accepts(received[2]));
	/* As Python makes them. */
	printf("\"inheritable\": {\"made by Python\": %s, \"received\": %s, ", inherited(fresh()), inherited(received[0]));
	printf("\"with MSG_CMSG_CLOEXEC\": %s}, \"accepts\": \"%s\"}\n", inherited(again[0]),
	       outcome(accept(received[0], NULL, NULL)));

	int manager = socket(AF_UNIX, SOCK_DGRAM, 0), service = socket(AF_UNIX, SOCK_DGRAM, 0);
	struct sockaddr_un to;
	socklen_t size = address(&to, "notify");
	take(manager, "notify");
	setsockopt(manager, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
	sendto(service, "READY=1", 7, 0, (struct sockaddr *)&to, size);
	const char *sender = who(manager, text, &named);
	printf("ACT-03 {\"message\": \"%s\", \"from\": %s, \"credentials\": \"%s\"}\n", text, named ? "\"one\"" : "null",
	       sender);

	printf("ACT-07 {");
	ended("closed", close_it);
	printf(", ");
	ended("file removed", remove_it);
	printf(", ");
	ended("shut down", shut_it_down);

	int client = fresh();
	listener = serve("late");
	reach(client, "late");
	int connection = accept(listener, NULL, NULL);
	send(client, "a", 1, 0);
	setsockopt(connection, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
	printf("}\nACT-09 {\"sent before\": \"%s\", ", who(connection, text, &named));
	send(client, "b", 1, 0);
	printf("\"sent after\": \"%s\"}\n", who(connection, text, &named));
	fflush(stdout);

	char here[200], more[210];
	strcat(getcwd(here, 190), "/n");
	sprintf(more, "%s2", here);
	pid_t pid = fork();
	if (!pid) {
		dup2(open("/dev/null", O_WRONLY), 2);
		execlp("systemd-socket-activate", "systemd-socket-activate", "-l", here, "-l", more, "--fdname=control:data", "sh", "-c",
		       "[ \"$LISTEN_PID\" = $$ ] && own=true || own=false;"
		       "echo ACT-10 {\\\"named\\\": \\\"$LISTEN_FDNAMES\\\", \\\"LISTEN_PID is its own\\\": $own}",
		       NULL);
		_exit(0);
	}
	for (int attempt = 0; attempt < 200 && strcmp(connects("n"), "ok"); attempt++)
		usleep(waitpid(pid, NULL, WNOHANG) ? 0 : 10000);
	waitpid(pid, NULL, 0);
	return 0;
}
