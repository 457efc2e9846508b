/* Five rows of CRD, measured without udslab: one line "ID JSON" each. In an empty directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char *said(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }
static const char *truth(int value) { return value ? "true" : "false"; }

static struct sockaddr_un named(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, name);
    return address;
}

static void show_peer(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    int nobody = peer.pid == 0 && peer.uid == (uid_t)-1 && peer.gid == (gid_t)-1;
    printf("\"%s\"", nobody ? "nobody" : "somebody");
}

static void ask(int fd, int value) { setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &value, sizeof value); }

/* One message of a byte: the byte, MSG_CTRUNC, and the credentials that came with it. */
static char take(int fd, int room, int *cut, struct ucred *from)
{
    char byte = '?', control[256];
    struct iovec vector = {&byte, 1};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    recvmsg(fd, &header, 0);
    *cut = !!(header.msg_flags & MSG_CTRUNC);
    struct cmsghdr *message = CMSG_FIRSTHDR(&header);
    memset(from, -2, sizeof *from);
    if (message && message->cmsg_type == SCM_CREDENTIALS)
        memcpy(from, CMSG_DATA(message), sizeof *from);
    return byte;
}

static void without_peer(void)
{
    struct sockaddr_un address = named("lonely");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    printf("CRD-02 {\"new\": ");
    show_peer(fd);
    bind(fd, (struct sockaddr *)&address, sizeof address);
    printf(", \"bound\": ");
    show_peer(fd);
    printf("}\n");
}

static void datagrams(void)
{
    struct sockaddr_un one = named("one"), two = named("two");
    int left = socket(AF_UNIX, SOCK_DGRAM, 0), right = socket(AF_UNIX, SOCK_DGRAM, 0);
    bind(left, (struct sockaddr *)&one, sizeof one);
    bind(right, (struct sockaddr *)&two, sizeof two);
    connect(left, (struct sockaddr *)&two, sizeof two);
    connect(right, (struct sockaddr *)&one, sizeof one);
    printf("CRD-04 [");
    show_peer(left);
    printf(", ");
    show_peer(right);
    printf("]\n");
}

static void asked_late(void)
{
    int pair[2], cut;
    struct ucred first, second;
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    send(pair[0], "a", 1, 0);
    ask(pair[1], 1);
    send(pair[0], "b", 1, 0);
    take(pair[1], 256, &cut, &first);
    take(pair[1], 256, &cut, &second);
    int own = second.pid == getpid() && second.uid == getuid() && second.gid == getgid();
    printf("CRD-10 {\"before\": [%d, %u, %u], \"after\": \"%s\"}\n", first.pid, first.uid, first.gid,
           own ? "this process" : "another");
}

static void not_to_be_set(void)
{
    int pair[2];
    struct ucred claim = {1, 1, 1}, peer;
    socklen_t length = sizeof peer;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    const char *set = said(setsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &claim, sizeof claim));
    getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &length);
    printf("CRD-21 {\"set\": \"%s\", \"after\": \"%s\"}\n", set, peer.pid == getpid() ? "this process" : "another");
}

static void no_room(void)
{
    int pair[2], cut[3];
    char byte[4];
    struct ucred from;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    ask(pair[1], 1);
    send(pair[0], "a", 1, 0);
    byte[0] = take(pair[1], 0, &cut[0], &from);
    send(pair[0], "b", 1, 0);
    byte[1] = take(pair[1], 100, &cut[1], &from);
    ask(pair[1], 0);
    send(pair[0], "c", 1, 0);
    byte[2] = take(pair[1], 0, &cut[2], &from);
    ask(pair[1], 1);
    send(pair[0], "d", 1, 0);
    recv(pair[1], &byte[3], 1, 0);
    printf("CRD-23 {\"no room\": [\"%c\", %s], \"room\": [\"%c\", %s], \"not asked for\": [\"%c\", %s], "
           "\"recv\": \"%c\"}\n", byte[0], truth(cut[0]), byte[1], truth(cut[1]), byte[2], truth(cut[2]), byte[3]);
}

int main(void)
{
    without_peer();
    datagrams();
    asked_late();
    not_to_be_set();
    no_room();
    return 0;
}
