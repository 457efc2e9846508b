/* Five rows of LIF, measured without udslab: one line "ID JSON" each. In an empty directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *said(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

static int with_name(int (*call)(int, const struct sockaddr *, socklen_t), int fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, name);
    return call(fd, (struct sockaddr *)&address, sizeof address);
}

static int fresh(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0); }

static const char *knock(const char *name) { return said(with_name(connect, fresh(), name)); }

static int serve(const char *name, int backlog)
{
    int fd = fresh();
    with_name(bind, fd, name);
    listen(fd, backlog);
    return fd;
}

static const char *name_of(int fd, int (*call)(int, struct sockaddr *, socklen_t *))
{
    static struct sockaddr_un addresses[2];
    static int which;
    struct sockaddr_un *address = &addresses[which++ % 2];
    socklen_t length = sizeof *address;
    memset(address, 0, sizeof *address);
    call(fd, (struct sockaddr *)address, &length);
    return address->sun_path;
}

static void renamed(void)
{
    int server = serve("old", 5), client = fresh();
    rename("old", "new");
    const char *old = knock("old");
    const char *new = said(with_name(connect, client, "new"));
    printf("LIF-02 {\"old\": \"%s\", \"new\": \"%s\", \"getsockname\": \"%s\", \"getpeername\": \"%s\"}\n", old, new,
           name_of(server, getsockname), name_of(client, getpeername));
}

static void killed(void)
{
    int ready[2];
    char byte;
    struct stat status;
    pipe(ready);
    pid_t child = fork();
    if (child == 0) {
        serve("killed", 5);
        write(ready[1], "x", 1);
        pause();
    }
    read(ready[0], &byte, 1);
    const char *before = knock("killed");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    int there = stat("killed", &status) == 0;
    const char *connects = knock("killed");
    printf("LIF-06 {\"before\": \"%s\", \"file\": %s, \"connect\": \"%s\", \"bind\": \"%s\"}\n", before,
           there ? "true" : "false", connects, said(with_name(bind, fresh(), "killed")));
}

static void parent_directory(void)
{
    mkdir("d", 0700);
    int server = serve("d/s", 5);
    const char *with = said(rmdir("d"));
    unlink("d/s");
    const char *after = said(rmdir("d"));
    printf("LIF-08 {\"with the file\": \"%s\", \"after unlink\": \"%s\", \"bound still\": %s}\n", with, after,
           strcmp(name_of(server, getsockname), "d/s") == 0 ? "true" : "false");
}

static void locked(void)
{
    int how = LOCK_EX | LOCK_NB, server = serve("locked", 5);
    const char *opened = said(open("locked", O_RDWR));
    const char *path = said(flock(open("locked", O_PATH), how));
    const char *beside = said(flock(open("beside", O_RDWR | O_CREAT, 0600), how));
    const char *directory = said(flock(open(".", O_RDONLY), how));
    printf("LIF-12 {\"open\": \"%s\", \"O_PATH\": \"%s\", \"a file beside\": \"%s\", \"the directory\": \"%s\", "
           "\"the socket\": \"%s\"}\n", opened, path, beside, directory, said(flock(server, how)));
}

static void probed(void)
{
    const char *nothing = knock("probed");
    int fd = fresh();
    with_name(bind, fd, "probed");
    close(fd);
    const char *stale = knock("probed");
    unlink("probed");
    fd = fresh();
    with_name(bind, fd, "probed");
    const char *bound = knock("probed");
    listen(fd, 0);
    const char *live = knock("probed");
    printf("LIF-13 {\"nothing\": \"%s\", \"stale\": \"%s\", \"bound\": \"%s\", \"live\": \"%s\", \"full\": \"%s\"}\n",
           nothing, stale, bound, live, knock("probed"));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    renamed();
    killed();
    parent_directory();
    locked();
    probed();
    return 0;
}
