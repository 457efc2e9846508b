/* server PATH: the classic textbook server for a Unix stream socket. It serves one client, in upper case, and exits.
 *
 * What is dangerous in the classic is kept, because showing it is what this program is for: it removes whatever is
 * at PATH, takes the owner of the client's file for the client, and leaves its own file behind when it exits.
 *
 * SIGPIPE keeps its default action, as in the classic: a client that goes away before its answer is written ends the
 * server without a word (a shell shows status 141). Started with SIGPIPE ignored, it says EPIPE and ends with 5.
 *
 * Exit status: 0 served until the client closed; the stage's number where it failed: 1 socket, 2 bind, 3 listen;
 * 11 accept, 12 a bad filename, 13 not a socket (10 and the stage of the accept); 5 read or write; 64 usage.
 */
#include "conn.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 10, CHUNK = 1024, TALK_FAILED = 5, ACCEPT_STAGES = 10, USAGE = 64 };

/* Named by the negated stage. */
static const char *const listen_stages[] = {"", "socket", "bind", "listen"};
static const char *const accept_stages[] = {"", "accept", "a bad filename", "not a socket"};

struct caller {
    char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
    uid_t uid;
};

/* Returns a listening socket; or a stage with errno: -1 socket, -2 bind, -3 listen. */
static int serv_listen(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;

    /* Before unlink(): a name that is refused must not cost the user a file. */
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, path);
    if (length == 0)
        return give_up(fd, -2);

    /* bind() fails where the name exists. This also takes the name from a live server, and deletes a user's file. */
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        return give_up(fd, -2);
    if (listen(fd, BACKLOG) < 0)
        return give_up(fd, -3);
    return fd;
}

/* Returns a connected socket and tells who called; or a stage with errno: -1 accept, -2 the client's name is no file,
 * -3 it is no socket. */
static int serv_accept(int listener, struct caller *caller)
{
    struct sockaddr_un address;
    socklen_t length = sizeof address;
    memset(caller, 0, sizeof *caller);

    int fd = accept(listener, (struct sockaddr *)&address, &length);
    if (fd < 0)
        return -1;

    /* The name ends where the returned length says, not at a NUL. For a name of 108 bytes the kernel returns a length
     * beyond the structure, so it must not be trusted as an index either. An unnamed client leaves the path empty. */
    if (length > sizeof address)
        length = sizeof address;
    if (length > offsetof(struct sockaddr_un, sun_path))
        memcpy(caller->path, address.sun_path, length - offsetof(struct sockaddr_un, sun_path));

    struct stat status;
    if (stat(caller->path, &status) < 0)
        return give_up(fd, -2);
    if (!S_ISSOCK(status.st_mode)) {
        errno = ENOTSOCK;
        return give_up(fd, -3);
    }
    caller->uid = status.st_uid;
    unlink(caller->path); /* It has told us the owner, which is all it was for. */
    return fd;
}

/* Answers in upper case until the client closes. Returns NULL, or the stage that failed with errno. */
static const char *serve(int fd)
{
    unsigned char buffer[CHUNK];
    for (;;) {
        ssize_t count = read(fd, buffer, sizeof buffer);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return "read";
        if (count == 0) {
            fprintf(stderr, "server: the other side has been closed\n");
            return NULL;
        }
        for (ssize_t i = 0; i < count; i++)
            buffer[i] = toupper(buffer[i]);
        if (write_all(fd, buffer, count) < 0)
            return "write";
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: server PATH\n");
        return USAGE;
    }
    const char *path = argv[1];

    int listener = serv_listen(path);
    if (listener < 0) {
        complain("server", listen_stages[-listener], path);
        return -listener;
    }

    struct caller caller;
    int fd = serv_accept(listener, &caller);
    if (fd < 0) {
        const char *whose = fd == -1 ? path : caller.path[0] ? caller.path : "(no name)";
        complain("server", accept_stages[-fd], whose);
        return ACCEPT_STAGES - fd;
    }
    fprintf(stderr, "server: a client of uid %lu\n", (unsigned long)caller.uid);

    const char *failed = serve(fd);
    if (failed) {
        complain("server", failed, path);
        return TALK_FAILED;
    }
    return 0;
}
