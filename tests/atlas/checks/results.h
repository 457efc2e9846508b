/* What some of the checks share: the results of calls, as JSON. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static inline char *text(const char *format, ...)
{
    static char texts[64][300];
    static int which;
    char *out = texts[which++ % 64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out, sizeof texts[0], format, arguments);
    va_end(arguments);
    return out;
}

/* The errno's name, in quotes. */
static inline char *error(void)
{
    return text("\"%s\"", errno == EOPNOTSUPP ? "EOPNOTSUPP" : strerrorname_np(errno));
}

static inline char *said(long result) { return result < 0 ? error() : "\"ok\""; }

static inline char *number(long result) { return result < 0 ? error() : text("%ld", result); }

static inline char *got(int fd, size_t room, int flags)
{
    static char data[1 << 16];
    ssize_t length = recv(fd, data, room, flags);
    return length < 0 ? error() : text("\"%.*s\"", (int)length, data);
}

static inline char *polled(int fd, short asked)
{
    static const struct { short bit; const char *name; } words[] = {
        {POLLIN, "IN"}, {POLLPRI, "PRI"}, {POLLOUT, "OUT"}, {POLLERR, "ERR"}, {POLLHUP, "HUP"}, {POLLRDHUP, "RDHUP"}};
    struct pollfd one = {.fd = fd, .events = asked};
    char *out = text("\"");
    poll(&one, 1, 0);
    for (size_t each = 0; each < sizeof words / sizeof *words; each++)
        if (one.revents & words[each].bit)
            strcat(strcat(out, out[1] ? "|" : ""), words[each].name);
    return strcat(out, "\"");
}

#define ALL (POLLIN | POLLPRI | POLLOUT | POLLRDHUP)

/* Two non-blocking ends. */
static inline void pair(int type, int ends[2]) { socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, ends); }

static inline int fresh(int type) { return socket(AF_UNIX, type | SOCK_NONBLOCK, 0); }

static inline int name(int (*call)(int, const struct sockaddr *, socklen_t), int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    return call(fd, (struct sockaddr *)&address, sizeof address);
}

static inline ssize_t send_to(int fd, const char *data, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    return sendto(fd, data, strlen(data), 0, (struct sockaddr *)&address, sizeof address);
}

static inline void buffer(int fd, int option, int size) { setsockopt(fd, SOL_SOCKET, option, &size, sizeof size); }

static inline int option(int fd, int which)
{
    int value = -1;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, which, &value, &length) < 0 ? -1 : value;
}

/* What recvmsg gives: the data, and its flags. */
static inline char *message(int fd, size_t room, int *flags)
{
    static char data[300];
    struct iovec vector = {.iov_base = data, .iov_len = room};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    ssize_t length = recvmsg(fd, &header, 0);
    *flags = header.msg_flags;
    return length < 0 ? error() : text("\"%.*s\"", (int)length, data);
}
