/* Rows of NSC. For root. */
#include "plain.h"
#include <sys/mount.h>

static char name[100];
static int before;
static pid_t server_pid;

static void two(void)
{
	printf("[\"%s\", ", connects(name));
	printf("\"%s\"]", connects("path"));
}

static void two_elsewhere(void)
{
	need(unshare(CLONE_NEWNET), "unshare");
	two();
}

static void before_and_after(void)
{
	need(unshare(CLONE_NEWNET), "unshare");
	printf("{\"made before\": \"%s\", ", reach(before, name));
	printf("\"made after\": \"%s\"}", connects(name));
}

static void hidden(void)
{
	char path[300];
	need(unshare(CLONE_NEWNS), "unshare");
	need(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	mkdir("m", 0700);
	strcat(getcwd(path, 250), "/m/s");
	serve("m/s");
	printf("{\"with the same mounts\": \"%s\", ", connects("m/s"));
	need(mount("none", "m", "tmpfs", 0, NULL), "tmpfs");
	printf("\"with another mount there\": \"%s\"}", connects("m/s"));
}

static void put(const char *file, const char *line)
{
	int fd = open(file, O_WRONLY);
	need(write(fd, line, strlen(line)), file);
	close(fd);
}

static const char *credentials(int fd, pid_t pid, uid_t uid)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] = "";
	struct iovec data = {.iov_base = "x", .iov_len = 1};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *message = CMSG_FIRSTHDR(&header);
	struct ucred who = {.pid = pid, .uid = uid, .gid = 0};
	message->cmsg_level = SOL_SOCKET;
	message->cmsg_type = SCM_CREDENTIALS;
	message->cmsg_len = CMSG_LEN(sizeof who);
	memcpy(CMSG_DATA(message), &who, sizeof who);
	return outcome(sendmsg(fd, &header, 0));
}

static void sender(void)
{
	int ends[2], yes = 1;
	char byte, control[100];
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
	setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes);
	need(unshare(CLONE_NEWUSER), "unshare");
	put("/proc/self/setgroups", "deny");
	put("/proc/self/gid_map", "0 0 1");
	put("/proc/self/uid_map", "0 0 1");
	printf("{\"its own\": \"%s\", ", credentials(ends[0], getpid(), 0));
	printf("\"a user that is not mapped\": \"%s\", ", credentials(ends[0], getpid(), 99));
	printf("\"another's pid\": \"%s\", ", credentials(ends[0], getppid(), 0));
	recvmsg(ends[1], &header, 0);
	struct ucred *who = (void *)CMSG_DATA(CMSG_FIRSTHDR(&header));
	printf("\"seen\": [%d, %d]}", who->uid, who->gid);
}

static void join(void)
{
	char path[100];
	int fd = fresh();
	sprintf(path, "/proc/%d/ns/net", server_pid);
	printf("{\"before\": \"%s\", ", reach(fd, "@udslab-check-there"));
	need(setns(open(path, O_RDONLY), CLONE_NEWNET), "setns");
	printf("\"made before\": \"%s\", ", reach(fd, "@udslab-check-there"));
	printf("\"made after\": \"%s\"}", connects("@udslab-check-there"));
}

int main(void)
{
	int ready[2];
	char byte;

	sprintf(name, "@udslab-check-%d", getpid());
	serve(name);
	serve("path");
	before = fresh();
	printf("NSC-01 {\"here\": ");
	two();
	printf(", \"in another network namespace\": ");
	child(two_elsewhere);
	printf("}\nNSC-02b ");
	child(before_and_after);
	printf("\nNSC-08 ");
	child(hidden);
	printf("\nNSC-13 ");
	child(sender);

	pipe(ready);
	fflush(stdout);
	server_pid = fork();
	if (!server_pid) {
		need(unshare(CLONE_NEWNET), "unshare");
		serve("@udslab-check-there");
		write(ready[1], "x", 1);
		pause();
	}
	read(ready[0], &byte, 1);
	printf("\nNSC-15 ");
	child(join);
	printf("\n");
	kill(server_pid, SIGKILL);
	return 0;
}
