/* epoll_server PATH: a stream server that answers in upper case: one thread, level-triggered epoll.
 *
 * The fair peer of a Python server with a selectors loop: the same system calls in the same order, without Python.
 * It reads at most 64 KiB at a time. What the kernel does not take at once it keeps, and reads no more from that
 * client until it is gone; so memory is bounded, and a client that does not read holds up nobody else.
 * It runs until it is killed, and leaves PATH behind: whoever starts it gives it a directory of its own.
 */
#include "conn.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { CHUNK = 65536, EVENTS = 256 };

struct connection {
    int fd;
    unsigned char *kept; /* CHUNK bytes, made when first needed: an idle client costs only this structure. */
    size_t begin, end;   /* What is still to be sent of them. */
};

static void die(const char *stage, const char *path)
{
    complain("epoll_server", stage, path);
    exit(1);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, path);
    if (length == 0)
        die("bind", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket", path);
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        die("bind", path);
    if (listen(fd, SOMAXCONN) < 0)
        die("listen", path);
    return fd;
}

static void watch(int epoll, int operation, int fd, uint32_t events, struct connection *connection, const char *path)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        die("epoll_ctl", path);
}

static void welcome(int epoll, int listener, const char *path)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return;
        die("accept", path);
    }
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        die("memory", path);
    connection->fd = fd;
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, connection, path);
}

/* Sends what it can. Returns the number of bytes that the kernel took, or -1 where the client has gone. */
static ssize_t send_some(int fd, const unsigned char *bytes, size_t count)
{
    ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

/* One event of a connection. Returns 0, or -1 where the connection has ended. */
static int turn(int epoll, struct connection *connection, const char *path)
{
    if (connection->begin < connection->end) {
        size_t left = connection->end - connection->begin;
        ssize_t sent = send_some(connection->fd, connection->kept + connection->begin, left);
        if (sent < 0)
            return -1;
        connection->begin += sent;
        if (connection->begin == connection->end)
            watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLIN, connection, path);
        return 0;
    }

    static unsigned char buffer[CHUNK];
    ssize_t count = recv(connection->fd, buffer, sizeof buffer, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (count <= 0)
        return -1;
    /* Not toupper(): this form becomes vector instructions at -O3. */
    for (ssize_t i = 0; i < count; i++)
        buffer[i] -= (buffer[i] >= 'a' && buffer[i] <= 'z') ? 'a' - 'A' : 0;

    ssize_t sent = send_some(connection->fd, buffer, count);
    if (sent < 0)
        return -1;
    if (sent < count) {
        if (!connection->kept && !(connection->kept = malloc(CHUNK)))
            die("memory", path);
        connection->begin = 0;
        connection->end = count - sent;
        memcpy(connection->kept, buffer + sent, connection->end);
        watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection, path);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: epoll_server PATH\n");
        return 64;
    }
    const char *path = argv[1];
    int listener = listen_at(path);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("epoll_create1", path);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL, path); /* No connection: the listener. */

    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait", path);
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (!connection) {
                welcome(epoll, listener, path);
            } else if (turn(epoll, connection, path) < 0) {
                close(connection->fd); /* This also ends the watch. */
                free(connection->kept);
                free(connection);
            }
        }
    }
}
