/* Five rows of STR, measured without udslab: one line "ID JSON" each. In an empty directory. */
#include "results.h"

static int pipes;

static void count(int signal_number) { pipes += signal_number == SIGPIPE; }

static void joined(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    send(ends[0], "ab", 2, 0);
    send(ends[0], "cd", 2, 0);
    char *first = got(ends[1], 3, 0);
    printf("STR-01 [%s, %s]\n", first, got(ends[1], 10, 0));
}

static void addressed(void)
{
    int listener = fresh(SOCK_STREAM), client = fresh(SOCK_STREAM);
    signal(SIGPIPE, count);
    name(bind, listener, "four");
    listen(listener, 1);
    char *plain = said(send(client, "x", 1, 0));
    char *without = said(send_to(client, "x", "four"));
    name(connect, client, "four");
    char *with = said(send_to(client, "x", "four"));
    printf("STR-04 {\"send\": %s, \"sendto\": %s, \"sendto with a peer\": %s, \"SIGPIPE\": %d}\n", plain, without, with,
           pipes);
}

static void never_connected(void)
{
    int bound = fresh(SOCK_STREAM), listener = fresh(SOCK_STREAM);
    name(bind, bound, "bound");
    name(bind, listener, "listening");
    listen(listener, 1);
    char *unbound = got(fresh(SOCK_STREAM), 1, 0), *named = got(bound, 1, 0);
    printf("STR-05 {\"fresh\": %s, \"bound\": %s, \"listening\": %s}\n", unbound, named, got(listener, 1, 0));
}

static void no_position(void)
{
    int ends[2];
    char byte = 'x';
    pair(SOCK_STREAM, ends);
    send(ends[1], "x", 1, 0);
    char *seek = said(lseek(ends[0], 0, SEEK_SET)), *read = said(pread(ends[0], &byte, 1, 0));
    printf("STR-14 [%s, %s, %s]\n", seek, read, said(pwrite(ends[0], &byte, 1, 0)));
}

static void many(void)
{
    static struct mmsghdr messages[1025];
    static struct iovec vectors[3];
    static char letters[] = "123xyz", room[3];
    int stream[2], ends[2];
    pair(SOCK_STREAM, stream);
    pair(SOCK_DGRAM, ends);
    printf("STR-17 {\"sendmmsg of 1,025\": %d, ", sendmmsg(stream[0], messages, 1025, 0));
    for (int each = 0; each < 6; each++)
        send(ends[0], letters + each, 1, 0);
    for (int each = 0; each < 3; each++) {
        vectors[each] = (struct iovec){.iov_base = room + each, .iov_len = 1};
        messages[each].msg_hdr = (struct msghdr){.msg_iov = vectors + each, .msg_iovlen = 1};
    }
    printf("\"recvmmsg of 3\": %d, ", recvmmsg(ends[1], messages, 3, 0, NULL));
    printf("\"within a nanosecond\": %d, ", recvmmsg(ends[1], messages, 3, 0, &(struct timespec){.tv_nsec = 1}));
    int refused = recvmmsg(ends[1], messages, 3, 0, &(struct timespec){.tv_nsec = 1000000000});
    printf("\"false timeout\": %s, ", said(refused));
    char left[] = "??";
    recv(ends[1], left, 1, 0);
    recv(ends[1], left + 1, 1, 0);
    printf("\"left\": \"%s\"}\n", left);
}

int main(void)
{
    joined();
    addressed();
    never_connected();
    no_position();
    many();
}
