#include "conn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

socklen_t unix_address(struct sockaddr_un *address, const char *path)
{
    /* Here we leave the textbook: its strcpy() would run past sun_path, which is undefined behaviour and which a
     * test cannot rely on. strcpy() needs room for the NUL as well, so the longest name is one byte shorter than
     * what the kernel takes. */
    size_t length = strlen(path);
    if (length >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return 0;
    }
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    return offsetof(struct sockaddr_un, sun_path) + length;
}

int write_all(int fd, const void *bytes, size_t count)
{
    const char *next = bytes;
    while (count > 0) {
        ssize_t written = write(fd, next, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        next += written;
        count -= written;
    }
    return 0;
}

int give_up(int fd, int stage)
{
    int saved = errno;
    close(fd);
    errno = saved;
    return stage;
}

void complain(const char *program, const char *stage, const char *path)
{
    const char *reason = errno ? strerror(errno) : "the other side has been closed";
    fprintf(stderr, "%s: %s: %s: %s (errno %d)\n", program, stage, path, reason, errno);
}
