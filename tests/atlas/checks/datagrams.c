/* Five rows of DGR, measured without udslab: one line "ID JSON" each. In an empty directory. */
#include "results.h"

static void too_long(void)
{
    static char data[50000];
    int ends[2];
    pair(SOCK_DGRAM, ends);
    buffer(ends[0], SO_SNDBUF, 20000);
    printf("DGR-03 {\"SO_SNDBUF\": %d, ", option(ends[0], SO_SNDBUF));
    printf("\"39,968\": %s, ", number(send(ends[0], data, 39968, 0)));
    printf("\"39,969\": %s, ", number(send(ends[0], data, 39969, 0)));
    ssize_t length = recv(ends[1], data, sizeof data, 0);
    printf("\"arrives\": [%zd, %s]}\n", length, got(ends[1], 1, 0));
}

static char *sends(int fd)
{
    char *first = said(send(fd, "x", 1, 0)), *second = said(send(fd, "x", 1, 0));
    return text("[%s, %s, %s]", first, second, said(send(fd, "x", 1, 0)));
}

static int bound(const char *path)
{
    int fd = fresh(SOCK_DGRAM);
    name(bind, fd, path);
    return fd;
}

static void receiver_gone(void)
{
    int receiver = bound("gone"), sender = fresh(SOCK_DGRAM);
    name(connect, sender, "gone");
    close(receiver);
    int left = bound("left"), right = bound("right");
    name(connect, left, "right");
    name(connect, right, "left");
    close(right);
    char *one_way = sends(sender);
    printf("DGR-07 {\"one way\": %s, \"both\": %s}\n", one_way, sends(left));
}

static void claimed(void)
{
    int receiver = bound("receiver"), friend = bound("friend"), third = bound("third");
    char *before = said(send_to(third, "x", "receiver"));
    name(connect, receiver, "friend");
    char *connected = said(name(connect, third, "receiver")), *sent = said(send_to(third, "x", "receiver"));
    printf("DGR-09 {\"sendto before\": %s, \"connect\": %s, \"sendto\": %s, \"its peer\": %s}\n", before, connected,
           sent, said(send_to(friend, "x", "receiver")));
}

static void itself(void)
{
    int self = bound("self");
    char *connected = said(name(connect, self, "self")), *sent = number(send(self, "me", 2, 0));
    printf("DGR-11 [%s, %s, %s]\n", connected, sent, got(self, 10, 0));
}

static void cut(void)
{
    int ends[2], first, second;
    pair(SOCK_DGRAM, ends);
    send(ends[0], "abcdef", 6, 0);
    send(ends[0], "ghijkl", 6, 0);
    send(ends[0], "mn", 2, 0);
    char *plain = got(ends[1], 2, 0), *shortened = message(ends[1], 2, &first), *whole = message(ends[1], 2, &second);
    printf("DGR-17 {\"recv\": %s, \"recvmsg\": [%s, %s], \"long enough\": [%s, %s], \"then\": %s}\n", plain, shortened,
           first & MSG_TRUNC ? "true" : "false", whole, second & MSG_TRUNC ? "true" : "false", got(ends[1], 10, 0));
}

int main(void)
{
    too_long();
    receiver_gone();
    claimed();
    itself();
    cut();
}
