/* Five rows of SHU, measured without udslab: one line "ID JSON" each. */
#include "results.h"

static void end_of_file(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    char *before = got(ends[0], 1, 0);
    close(ends[1]);
    char *first = got(ends[0], 1, 0), *second = got(ends[0], 1, 0);
    printf("SHU-01 {\"before\": %s, \"after\": [%s, %s, %s]}\n", before, first, second, got(ends[0], 1, 0));
}

static char *after_close(int read_first)
{
    int ends[2];
    char byte;
    pair(SOCK_STREAM, ends);
    send(ends[0], "x", 1, 0);
    if (read_first)
        recv(ends[1], &byte, 1, 0);
    close(ends[1]);
    char *first = got(ends[0], 1, 0), *second = got(ends[0], 1, 0);
    return text("[%s, %s, %s]", first, second, got(ends[0], 1, 0));
}

static void half(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    send(ends[0], "last", 4, 0);
    shutdown(ends[0], SHUT_WR);
    char *first = got(ends[1], 10, 0), *second = got(ends[1], 10, 0), *third = got(ends[1], 10, 0);
    send(ends[1], "back", 4, 0);
    char *back = got(ends[0], 10, 0);
    printf("SHU-06 {\"peer\": [%s, %s, %s], \"other direction\": %s, \"own send\": %s}\n", first, second, third, back,
           said(send(ends[0], "x", 1, MSG_NOSIGNAL)));
}

static void no_such_direction(void)
{
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    char *three = said(shutdown(ends[0], 3)), *negative = said(shutdown(ends[0], -1));
    send(ends[0], "x", 1, 0);
    printf("SHU-09 {\"3\": %s, \"-1\": %s, \"afterwards\": %s}\n", three, negative, got(ends[1], 10, 0));
}

static void not_waiting(void)
{
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    char *open = got(ends[0], 1, MSG_DONTWAIT);
    close(ends[1]);
    char *first = got(ends[0], 1, MSG_DONTWAIT), *second = got(ends[0], 1, MSG_DONTWAIT);
    printf("SHU-19 {\"open\": [%s], \"closed\": [%s, %s], \"reset\": %s}\n", open, first, second, after_close(0));
}

int main(void)
{
    end_of_file();
    char *unread = after_close(0);
    printf("SHU-02 {\"unread\": %s, \"all read\": %s}\n", unread, after_close(1));
    half();
    no_such_direction();
    not_waiting();
}
