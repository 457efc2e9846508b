/* Five rows of RTS, measured without udslab: one line "ID JSON" each. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *said(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }
static const char *truth(int value) { return value ? "true" : "false"; }

struct got {
    int length, count, cut, numbers[300];
    char data[10];
};

static union {
    char bytes[4096];
    struct cmsghdr align;
} control;

/* A byte with these descriptors, in one or two control messages. */
static int give(int fd, const char *data, const int *numbers, int count, int messages)
{
    struct iovec vector = {(void *)data, 1};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes};
    memset(&control, 0, sizeof control);
    header.msg_controllen = messages * CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *message = CMSG_FIRSTHDR(&header);
    for (int i = 0; i < messages; i++) {
        message->cmsg_level = SOL_SOCKET;
        message->cmsg_type = SCM_RIGHTS;
        message->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(message), numbers, count * sizeof(int));
        message = CMSG_NXTHDR(&header, message);
    }
    return sendmsg(fd, &header, 0);
}

static struct got take(int fd, int room, int flags)
{
    struct got got = {0};
    struct iovec vector = {got.data, sizeof got.data - 1};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1, .msg_controllen = room};
    header.msg_control = room ? control.bytes : NULL;
    got.length = recvmsg(fd, &header, flags);
    got.cut = !!(header.msg_flags & MSG_CTRUNC);
    struct cmsghdr *message = CMSG_FIRSTHDR(&header);
    if (got.length >= 0 && message) {
        got.count = (message->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(got.numbers, CMSG_DATA(message), got.count * sizeof(int));
    }
    return got;
}

static const char *fate(int reader, int wait)
{
    struct pollfd waiting = {reader, 0, 0};
    return poll(&waiting, 1, wait) ? "closed" : "open";
}

static const char *nothing(int fd)
{
    char byte;
    return said(recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK));
}

static void most(void)
{
    int pair[2], numbers[254];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    for (int i = 0; i < 254; i++)
        numbers[i] = pair[0];
    const char *full = said(give(pair[0], "x", numbers, 253, 1));
    int arrived = take(pair[1], sizeof control, 0).count;
    const char *more = said(give(pair[0], "x", numbers, 254, 1));
    const char *twice = said(give(pair[0], "x", numbers, 127, 2));
    printf("RTS-03 {\"253\": \"%s\", \"arrived\": %d, \"254\": \"%s\", \"127 twice\": \"%s\", \"sent\": \"%s\"}\n",
           full, arrived, more, twice, nothing(pair[1]));
}

static void invalid(void)
{
    int pair[2], minus = -1, closed = dup(0), mixed[2];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    close(closed);
    mixed[0] = pair[0];
    mixed[1] = closed;
    const char *first = said(give(pair[0], "x", &minus, 1, 1));
    const char *second = said(give(pair[0], "x", &closed, 1, 1));
    const char *third = said(give(pair[0], "x", mixed, 2, 1));
    const char *sent = nothing(pair[1]);
    printf("RTS-04 {\"-1\": \"%s\", \"closed\": \"%s\", \"good and closed\": \"%s\", \"sent\": \"%s\", "
           "\"good\": \"%s\"}\n", first, second, third, sent, said(give(pair[0], "x", mixed, 1, 1)));
}

static void peeked(void)
{
    int pair[2], hole[2], flags[3] = {MSG_PEEK, MSG_PEEK, 0};
    struct got got[3];
    struct stat own, status;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    pipe(hole);
    fstat(hole[0], &own);
    give(pair[0], "x", hole, 1, 1);
    int same = 1;
    for (int i = 0; i < 3; i++) {
        got[i] = take(pair[1], sizeof control, flags[i]);
        fstat(got[i].numbers[0], &status);
        same = same && status.st_ino == own.st_ino;
    }
    int a = got[0].numbers[0], b = got[1].numbers[0], c = got[2].numbers[0];
    printf("RTS-07 {\"each\": [%d, %d, %d], \"numbers\": %d, \"same file\": %s}\n", got[0].count, got[1].count,
           got[2].count, 1 + (b != a) + (c != a && c != b), truth(same));
}

static void joined(int with)
{
    int pair[2], bytes = 0;
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    send(pair[0], "a", 1, 0);
    if (with)
        give(pair[0], "b", pair, 1, 1);
    else
        send(pair[0], "b", 1, 0);
    send(pair[0], "c", 1, 0);
    send(pair[0], "d", 1, 0);
    printf("[");
    while (bytes < 4) {
        struct got got = take(pair[1], sizeof control, 0);
        printf("%s[\"%s\", %d]", bytes ? ", " : "", got.data, got.count);
        bytes += got.length;
    }
    printf("]");
}

static void no_place(void)
{
    int pair[2], hole[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(hole);
    give(pair[0], "x", &hole[1], 1, 1);
    close(hole[1]);
    const char *before = fate(hole[0], 0);
    struct got got = take(pair[1], 0, 0);
    const char *after = fate(hole[0], 1000);
    send(pair[0], "x", 1, 0);
    printf("RTS-24 {\"data\": \"%s\", \"cut\": %s, \"before\": \"%s\", \"after\": \"%s\", \"none sent\": %s}\n",
           got.data, truth(got.cut), before, after, truth(take(pair[1], 0, 0).cut));
}

int main(void)
{
    most();
    invalid();
    peeked();
    printf("RTS-08 {\"with\": ");
    joined(1);
    printf(", \"without\": ");
    joined(0);
    printf("}\n");
    no_place();
    return 0;
}
