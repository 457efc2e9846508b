/* Five rows of FLG, measured without udslab: one line "ID JSON" each. */
#include "results.h"
#include <linux/sockios.h>

static void peek(void)
{
    int ends[2];
    pair(SOCK_DGRAM, ends);
    send(ends[0], "abc", 3, 0);
    char *first = got(ends[1], 10, MSG_PEEK), *second = got(ends[1], 10, MSG_PEEK), *taken = got(ends[1], 10, 0);
    printf("FLG-01 [%s, %s, %s, %s]\n", first, second, taken, got(ends[1], 10, 0));
}

static int at_mark(int fd)
{
    int mark = -1;
    ioctl(fd, SIOCATMARK, &mark);
    return mark;
}

static void urgent(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    char *before = polled(ends[1], ALL);
    printf("FLG-09 {\"before\": [%s, %d], ", before, at_mark(ends[1]));
    printf("\"sent\": %s, ", number(send(ends[0], "abc", 3, MSG_OOB)));
    printf("\"poll\": %s, ", polled(ends[1], ALL));
    int first = at_mark(ends[1]);
    printf("\"ordinary\": %s, ", got(ends[1], 10, 0));
    printf("\"mark\": [%d, %d], ", first, at_mark(ends[1]));
    printf("\"urgent\": %s, ", got(ends[1], 10, MSG_OOB));
    char *after = polled(ends[1], ALL);
    printf("\"after it\": [%s, %s]}\n", after, got(ends[1], 10, 0));
}

static void urgent_nothing(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    char *nothing = number(send(ends[0], "", 0, MSG_OOB)), *one = number(send(ends[0], "x", 1, MSG_OOB));
    printf("FLG-14 [%s, %s, %s]\n", nothing, one, got(ends[1], 1, MSG_OOB));
}

static void error_queue(void)
{
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    send(ends[0], "x", 1, 0);
    char *first = got(ends[1], 10, MSG_ERRQUEUE);
    printf("FLG-15 [%s, %s]\n", first, got(ends[1], 10, MSG_ERRQUEUE));
}

static void peek_at_reset(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    send(ends[0], "x", 1, 0);
    close(ends[1]);
    char *peeked = got(ends[0], 10, MSG_PEEK), *first = got(ends[0], 10, 0);
    printf("FLG-19 [%s, %s, %s]\n", peeked, first, got(ends[0], 10, 0));
}

int main(void)
{
    peek();
    urgent();
    urgent_nothing();
    error_queue();
    peek_at_reset();
}
