/* ping_pong PATH CLIENTS SIZE ROUNDS: measures round trips to an upper-casing stream server.
 *
 * CLIENTS connections in this one process, driven by epoll. Each has one request of SIZE bytes under way, and sends
 * the next when the answer is complete; ROUNDS is the number of round trips of all together. Every answer is compared
 * with the request in upper case.
 *
 * Prints one line of JSON: clients, size (bytes), round_trips, seconds (the whole run), and p50_us, p90_us and p99_us:
 * microseconds from before a request's first byte is sent to after its answer's last byte is read.
 * Exit status: 0, 1 with a line on standard error, 64 usage.
 */
#include "conn.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, SILENCE_MS = 10000, CHUNK = 65536 };

struct connection {
    int fd;
    size_t sent, received; /* Of this round trip. */
    uint64_t started;      /* Nanoseconds. */
    int waits_for_room;    /* EPOLLOUT is watched. */
};

struct run {
    const char *path;
    int epoll;
    size_t size, rounds, begun, done;
    unsigned char *request, *answer;
    uint64_t *nanoseconds; /* One for each round trip that is done. */
};

static void die(const char *stage, const char *path)
{
    complain("ping_pong", stage, path);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void *room_for(size_t count, size_t size, const char *path)
{
    void *room = calloc(count, size);
    if (!room)
        die("memory", path);
    return room;
}

static void watch(const struct run *run, int operation, struct connection *connection)
{
    uint32_t events = connection->waits_for_room ? EPOLLIN | EPOLLOUT : EPOLLIN;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(run->epoll, operation, connection->fd, &event) < 0)
        die("epoll_ctl", run->path);
}

static void open_connection(const struct run *run, struct connection *connection)
{
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, run->path);
    if (length == 0)
        die("connect", run->path);
    connection->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket", run->path);
    if (connect(connection->fd, (struct sockaddr *)&address, length) < 0)
        die("connect", run->path);
    watch(run, EPOLL_CTL_ADD, connection);
}

static void send_rest(const struct run *run, struct connection *connection)
{
    size_t left = run->size - connection->sent;
    ssize_t count = send(connection->fd, run->request + connection->sent, left, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR)
        die("send", run->path);
    if (count > 0)
        connection->sent += count;
    int waits = connection->sent < run->size;
    if (waits != connection->waits_for_room) {
        connection->waits_for_room = waits;
        watch(run, EPOLL_CTL_MOD, connection);
    }
}

static void begin_round_trip(struct run *run, struct connection *connection)
{
    run->begun++;
    connection->sent = connection->received = 0;
    connection->started = now();
    send_rest(run, connection);
}

static void receive(struct run *run, struct connection *connection)
{
    unsigned char bytes[CHUNK];
    ssize_t count = recv(connection->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count == 0)
        errno = 0; /* End of file: complain() says so. */
    if (count <= 0)
        die("receive", run->path);
    size_t expected = run->size - connection->received;
    if ((size_t)count > expected || memcmp(bytes, run->answer + connection->received, count) != 0) {
        errno = EBADMSG;
        die("the answer is not the request in upper case", run->path);
    }
    connection->received += count;
    if (connection->received == run->size) {
        run->nanoseconds[run->done++] = now() - connection->started;
        if (run->begun < run->rounds)
            begin_round_trip(run, connection);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Microseconds under which percent of the sorted round trips lie (nearest rank). */
static double percentile(const struct run *run, size_t percent)
{
    size_t rank = (run->rounds * percent + 99) / 100;
    return run->nanoseconds[rank - 1] / 1000.0;
}

int main(int argc, char **argv)
{
    size_t clients = argc == 5 ? strtoul(argv[2], NULL, 10) : 0;
    struct run run = {.path = argv[1]};
    if (clients > 0) {
        run.size = strtoul(argv[3], NULL, 10);
        run.rounds = strtoul(argv[4], NULL, 10);
    }
    if (run.size == 0 || run.rounds == 0) {
        fprintf(stderr, "usage: ping_pong PATH CLIENTS SIZE ROUNDS\n");
        return 64;
    }

    /* Every byte value in turn, so that a server that changes anything but lower case is found out. */
    run.request = room_for(run.size, 1, run.path);
    run.answer = room_for(run.size, 1, run.path);
    for (size_t i = 0; i < run.size; i++) {
        run.request[i] = i * 7;
        run.answer[i] = toupper(run.request[i]);
    }
    run.nanoseconds = room_for(run.rounds, sizeof *run.nanoseconds, run.path);
    struct connection *connections = room_for(clients, sizeof *connections, run.path);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.epoll < 0)
        die("epoll_create1", run.path);
    for (size_t i = 0; i < clients; i++)
        open_connection(&run, &connections[i]);

    uint64_t start = now();
    for (size_t i = 0; i < clients && run.begun < run.rounds; i++)
        begin_round_trip(&run, &connections[i]);
    while (run.done < run.rounds) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(run.epoll, events, EVENTS, SILENCE_MS);
        if (count < 0 && errno != EINTR)
            die("epoll_wait", run.path);
        if (count == 0) {
            errno = ETIMEDOUT;
            die("no answer", run.path);
        }
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_rest(&run, connection);
            if (events[i].events & ~EPOLLOUT)
                receive(&run, connection);
        }
    }
    double seconds = (now() - start) / 1e9;

    qsort(run.nanoseconds, run.rounds, sizeof *run.nanoseconds, by_value);
    printf("{\"clients\": %zu, \"size\": %zu, \"round_trips\": %zu, \"seconds\": %.6f, "
           "\"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f}\n",
           clients, run.size, run.done, seconds, percentile(&run, 50), percentile(&run, 90), percentile(&run, 99));
    return 0;
}
