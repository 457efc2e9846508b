/* client PATH: the classic textbook client for a Unix stream socket. It writes each line of its standard input to the
 * server at PATH and prints the answer.
 *
 * It binds a file of its own, /var/tmp/ and its pid, by which the classic server tells who calls. The server removes
 * that file; where there is no such server, it stays behind. The name can be guessed by anyone: a danger that is kept
 * to be shown.
 *
 * SIGPIPE keeps its default action, as in the classic: writing to a server that has gone ends the client without a
 * word (a shell shows status 141). Started with SIGPIPE ignored, it says EPIPE and ends with 5.
 *
 * Exit status: 0 every line was answered; the stage's number where it failed: 1 socket, 2 bind, 4 connect (the
 * classic's 3, a chmod, is gone); 5 reading or writing after that; 64 usage.
 */
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHUNK = 65536, TALK_FAILED = 5, USAGE = 64 };

/* Named by the negated stage. */
static const char *const stages[] = {"", "socket", "bind", "", "connect"};

/* Returns a socket bound to own and connected to path; or a stage with errno: -1 socket, -2 bind, -4 connect. */
static int cli_conn(const char *path, const char *own)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;

    struct sockaddr_un address;
    socklen_t length = unix_address(&address, own);
    unlink(own); /* An earlier process of this pid may have left one, and bind() fails where the name exists. */
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        return give_up(fd, -2);

    length = unix_address(&address, path);
    if (length == 0 || connect(fd, (struct sockaddr *)&address, length) < 0)
        return give_up(fd, -4);
    return fd;
}

/* Writes the line and prints the answer. Returns NULL, or the stage that failed with errno.
 *
 * The classic reads once. On a stream that loses the rest, or leaves it for the next line: an upper-casing server
 * answers byte for byte, so we read until as many bytes have come back as went out.
 * A line may be longer than the buffers of both directions. If we wrote all of it first, the server would stop
 * reading once its answer found no room, and both would wait for ever: so we write and read as either is possible. */
static const char *exchange(int fd, const char *line, size_t length)
{
    char answer[CHUNK];
    size_t written = 0, answered = 0;
    while (answered < length) {
        struct pollfd ready = {.fd = fd, .events = written < length ? POLLIN | POLLOUT : POLLIN};
        if (poll(&ready, 1, -1) < 0) {
            if (errno == EINTR)
                continue;
            return "poll";
        }
        if (ready.revents & POLLOUT) {
            /* POLLOUT promises room for something, not for all of it. */
            ssize_t count = send(fd, line + written, length - written, MSG_DONTWAIT);
            if (count >= 0)
                written += count;
            else if (errno != EAGAIN && errno != EINTR)
                return "write";
        }
        if (ready.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t count = read(fd, answer, sizeof answer);
            if (count < 0 && errno == EINTR)
                continue;
            if (count == 0)
                errno = 0; /* End of file before the whole answer: complain() says so. */
            if (count <= 0)
                return "read";
            if (write_all(STDOUT_FILENO, answer, count) < 0)
                return "standard output";
            answered += count;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: client PATH\n");
        return USAGE;
    }
    const char *path = argv[1];
    char own[32];
    snprintf(own, sizeof own, "/var/tmp/%05ld", (long)getpid());

    int fd = cli_conn(path, own);
    if (fd < 0) {
        complain("client", stages[-fd], fd == -2 ? own : path);
        return -fd;
    }

    /* getline(), because a line may be of any length and hold any byte, NUL included. */
    char *line = NULL;
    size_t room = 0;
    const char *failed = NULL;
    ssize_t length;
    while (!failed && (length = getline(&line, &room, stdin)) >= 0)
        failed = exchange(fd, line, length);
    if (!failed && ferror(stdin))
        failed = "standard input";
    if (failed)
        complain("client", failed, path);
    free(line);
    return failed ? TALK_FAILED : 0;
}
