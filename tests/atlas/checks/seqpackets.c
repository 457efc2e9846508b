/* Five rows of SEQ, measured without udslab: one line "ID JSON" each. */
#include "results.h"

static void boundaries(void)
{
    int ends[2], flags;
    pair(SOCK_SEQPACKET, ends);
    send(ends[0], "ab", 2, 0);
    send(ends[0], "cd", 2, MSG_EOR);
    send(ends[0], "ef", 2, 0);
    printf("SEQ-01 [");
    for (int each = 0; each < 3; each++) {
        char *data = message(ends[1], 100, &flags);
        printf("[%s, %d], ", data, flags);
    }
    printf("%s]\n", got(ends[1], 100, 0));
}

static void nothing(void)
{
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    char *idle = polled(ends[1], ALL);
    send(ends[0], "", 0, 0);
    char *arrived = polled(ends[1], ALL);
    send(ends[0], "x", 1, 0);
    char *first = got(ends[1], 10, 0), *second = got(ends[1], 10, 0), *third = got(ends[1], 10, 0);
    close(ends[0]);
    char *end = got(ends[1], 10, 0);
    printf("SEQ-02 {\"poll\": [%s, %s], \"received\": [%s, %s, %s], \"end of file\": [%s, %s]}\n", idle, arrived, first,
           second, third, end, got(ends[1], 10, 0));
}

static void too_long(void)
{
    static char data[50000];
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    buffer(ends[0], SO_SNDBUF, 20000);
    char *longest = number(send(ends[0], data, 39968, 0)), *longer = number(send(ends[0], data, 39969, 0));
    ssize_t length = recv(ends[1], data, sizeof data, 0);
    printf("SEQ-04 {\"longest\": %s, \"longer\": %s, \"arrives\": [%zd, %s]}\n", longest, longer, length,
           got(ends[1], 1, 0));
}

static void cut(void)
{
    int ends[2], first, second;
    pair(SOCK_SEQPACKET, ends);
    send(ends[0], "abcdef", 6, 0);
    send(ends[0], "ghijkl", 6, 0);
    send(ends[0], "mn", 2, 0);
    char *plain = got(ends[1], 2, 0), *shortened = message(ends[1], 2, &first), *whole = message(ends[1], 2, &second);
    printf("SEQ-05 {\"recv\": %s, \"recvmsg\": [%s, %s], \"long enough\": [%s, %s], \"then\": %s}\n", plain, shortened,
           first & MSG_TRUNC ? "true" : "false", whole, second & MSG_TRUNC ? "true" : "false", got(ends[1], 10, 0));
}

static void offset(void)
{
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    buffer(ends[1], SO_PEEK_OFF, 0);
    send(ends[0], "abcdef", 6, 0);
    send(ends[0], "ghi", 3, 0);
    char *first = got(ends[1], 2, MSG_PEEK), *second = got(ends[1], 10, MSG_PEEK), *third = got(ends[1], 2, MSG_PEEK);
    char *taken = got(ends[1], 10, 0), *after = got(ends[1], 10, MSG_PEEK), *then = got(ends[1], 10, MSG_PEEK);
    printf("SEQ-09 {\"peeks\": [%s, %s, %s], \"recv\": %s, \"peek after it\": %s, \"then\": %s, \"rest\": %s}\n", first,
           second, third, taken, after, then, got(ends[1], 10, 0));
}

int main(void)
{
    boundaries();
    nothing();
    too_long();
    cut();
    offset();
}
