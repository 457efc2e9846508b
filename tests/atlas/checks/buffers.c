/* Five rows of BUF, measured without udslab: one line "ID JSON" each. In an empty directory. */
#include "results.h"
#include <netinet/in.h>
#include <linux/sockios.h>

static char *sizes(int which)
{
    int fd = fresh(SOCK_STREAM), values[3], asked[] = {0, 1, 2305};
    for (int each = 0; each < 3; each++) {
        buffer(fd, which, asked[each]);
        values[each] = option(fd, which);
    }
    return text("[%d, %d, %d]", values[0], values[1], values[2]);
}

static char *asks(int fd, unsigned long request)
{
    int value = -1;
    return ioctl(fd, request, &value) < 0 ? error() : text("%d", value);
}

static void charged(void)
{
    int ends[2];
    char data[10];
    pair(SOCK_STREAM, ends);
    char *before = asks(ends[0], SIOCOUTQ);
    send(ends[0], "abc", 3, 0);
    char *sent = asks(ends[0], SIOCOUTQ);
    recv(ends[1], data, 1, 0);
    char *partly = asks(ends[0], SIOCOUTQ);
    recv(ends[1], data, sizeof data, 0);
    printf("BUF-06 [%s, %s, %s, %s]\n", before, sent, partly, asks(ends[0], SIOCOUTQ));
}

static void listening(void)
{
    int listener = fresh(SOCK_STREAM), bound = fresh(SOCK_STREAM), client = fresh(SOCK_STREAM);
    name(bind, listener, "listening");
    listen(listener, 1);
    name(bind, bound, "bound");
    name(connect, client, "listening");
    send(client, "x", 1, 0);
    char *of_listener = asks(listener, SIOCINQ), *of_bound = asks(bound, SIOCINQ);
    int accepted = accept(listener, NULL, NULL);
    printf("BUF-07 {\"listening\": %s, \"bound\": %s, \"accepted\": %s}\n", of_listener, of_bound,
           asks(accepted, SIOCINQ));
}

static void unknown(void)
{
    static const int asked[3][2] = {{SOL_SOCKET, 9999}, {IPPROTO_TCP, 1}, {12345, 1}};
    char *get[3], *set[3];
    int fd = fresh(SOCK_DGRAM), value = 1;
    for (int each = 0; each < 3; each++) {
        socklen_t length = sizeof value;
        get[each] = said(getsockopt(fd, asked[each][0], asked[each][1], &value, &length));
        set[each] = said(setsockopt(fd, asked[each][0], asked[each][1], &value, sizeof value));
    }
    printf("BUF-13 {\"get\": [%s, %s, %s], \"set\": [%s, %s, %s]}\n", get[0], get[1], get[2], set[0], set[1], set[2]);
}

static void left_over(void)
{
    int ends[2];
    char data[10];
    pair(SOCK_STREAM, ends);
    char *empty = asks(ends[1], FIONREAD);
    send(ends[0], "abcdef", 6, 0);
    send(ends[0], "ghij", 4, 0);
    char *two = asks(ends[1], FIONREAD);
    recv(ends[1], data, 10, MSG_PEEK);
    char *peeked = asks(ends[1], FIONREAD);
    recv(ends[1], data, 3, 0);
    char *three = asks(ends[1], FIONREAD);
    recv(ends[1], data, 10, 0);
    printf("BUF-19 {\"empty\": %s, \"two sends\": %s, \"peeked\": %s, \"three read\": %s, \"all read\": %s}\n", empty,
           two, peeked, three, asks(ends[1], FIONREAD));
}

int main(void)
{
    char *send_sizes = sizes(SO_SNDBUF);
    printf("BUF-02 {\"SO_SNDBUF\": %s, \"SO_RCVBUF\": %s}\n", send_sizes, sizes(SO_RCVBUF));
    charged();
    listening();
    unknown();
    left_over();
}
