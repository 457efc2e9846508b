/* Five rows of POL, measured without udslab: one line "ID JSON" each. In an empty directory. */
#include "results.h"

static void without_peer(void)
{
    int bound = fresh(SOCK_STREAM);
    name(bind, bound, "bound");
    char *unbound = polled(fresh(SOCK_STREAM), ALL);
    printf("POL-01 {\"fresh\": %s, \"bound\": %s}\n", unbound, polled(bound, ALL));
}

static void closed(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    close(ends[1]);
    char *all = polled(ends[0], ALL);
    printf("POL-05 [%s, %s]\n", all, polled(ends[0], 0));
}

static void closed_unread(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    send(ends[0], "x", 1, 0);
    close(ends[1]);
    char *before = polled(ends[0], ALL), *taken = got(ends[0], 1, 0);
    printf("POL-06 [%s, %s, %s]\n", before, taken, polled(ends[0], ALL));
}

static void sends_no_more(void)
{
    int ends[2];
    pair(SOCK_SEQPACKET, ends);
    shutdown(ends[1], SHUT_WR);
    char *peer = polled(ends[0], ALL);
    printf("POL-07 {\"peer\": %s, \"self\": %s}\n", peer, polled(ends[1], ALL));
}

static void reads_no_more(void)
{
    int ends[2];
    pair(SOCK_STREAM, ends);
    shutdown(ends[1], SHUT_RD);
    char *peer = polled(ends[0], ALL), *sent = said(send(ends[0], "x", 1, MSG_NOSIGNAL));
    printf("POL-08 {\"peer\": %s, \"its send\": %s, \"self\": %s}\n", peer, sent, polled(ends[1], ALL));
}

int main(void)
{
    without_peer();
    closed();
    closed_unread();
    sends_no_more();
    reads_no_more();
}
