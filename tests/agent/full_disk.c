/* Preloaded: while the file VTPROF_FULL_FLAG exists, the disk below the folder VTPROF_FULL_DISK is full. The first write
 * there is cut in half, as on a disk with a little room; the others fail with ENOSPC, as does the making of new files. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int cut; /* the half write was given */

static int below(const char *path) {
    const char *folder = getenv("VTPROF_FULL_DISK");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int full(void) {
    const char *flag = getenv("VTPROF_FULL_FLAG");
    if (flag && !access(flag, F_OK)) return 1;
    cut = 0;
    return 0;
}

static int on_full_disk(int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    if (!full()) { errno = kept; return 0; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* How much of a write goes through: -1 none. */
static ssize_t room(int fd, size_t wanted) {
    if (!on_full_disk(fd)) return (ssize_t)wanted;
    if (!cut && wanted > 1) { cut = 1; return (ssize_t)(wanted / 2); }
    errno = ENOSPC;
    return -1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *from, size_t count) {
    REAL(write);
    ssize_t some = room(fd, count);
    return some < 0 ? -1 : real(fd, from, (size_t)some);
}

ssize_t pwrite64(int fd, const void *from, size_t count, off64_t at) {
    REAL(pwrite64);
    ssize_t some = room(fd, count);
    return some < 0 ? -1 : real(fd, from, (size_t)some, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (count > 0 && room(fd, 1) < 0) return -1;
    return real(fd, parts, count);
}

static int refuses(const char *path, int flags) {
    if (!(flags & O_CREAT) || !below(path) || !full() || !access(path, F_OK)) return 0;
    errno = ENOSPC;
    return 1;
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return refuses(path, flags) ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return refuses(path, flags) ? -1 : real(path, flags, mode);
}
