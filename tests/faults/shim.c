/*
 * Counts the operations of a process that change files below one folder, and lets the k-th fail, or kills the process in it.
 *
 * Loaded before libc (LD_PRELOAD), so that it sees the calls of Python, Rust and C++ alike. What to do is in the environment; see
 * shim.py, which also says what it does not see.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The next definition of a function: that of libc. */
#define LIBC(name) ((__typeof__(&name))libc_function(#name))

static char folder[PATH_MAX];
static atomic_long seen;
static long fails_at;
static int error_number, kills, of_space, lasting, operations_log = -1;

static void *libc_function(const char *name) { return dlsym(RTLD_NEXT, name); }

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

/* Take what is to be done from the environment, and count from 1 again. */
__attribute__((constructor)) void faults_arm(void) {
    const char *kind = setting("FAULTS_KIND"), *rank = setting("FAULTS_RANK"), *log = setting("FAULTS_LOG");
    if (operations_log >= 0) syscall(SYS_close, operations_log);
    operations_log = -1;
    atomic_store(&seen, 0);
    snprintf(folder, sizeof folder, "%s", setting("FAULTS_FOLDER"));
    if (*rank && strcmp(rank, setting("RANK"))) folder[0] = 0;
    fails_at = atol(setting("FAULTS_AT"));
    kills = !strcmp(kind, "KILL");
    of_space = !strcmp(kind, "ENOSPC");
    lasting = of_space || !strcmp(kind, "EROFS");
    error_number = of_space ? ENOSPC : !strcmp(kind, "EROFS") ? EROFS : !strcmp(kind, "EACCES") ? EACCES : EIO;
    if (*folder && *log)
        operations_log = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* Write to `full` the absolute path of a name that is relative to an open folder (or AT_FDCWD). */
static void absolute(int directory, const char *path, char *full) {
    char base[PATH_MAX], link[64];
    ssize_t length = 0;
    if (path[0] != '/') {
        if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        length = readlink(link, base, sizeof base - 1);
        if (length < 0) length = 0;
    }
    base[length] = 0;
    if (*path) snprintf(full, 2 * PATH_MAX, length ? "%s/%s" : "%s%s", base, path);
    else snprintf(full, 2 * PATH_MAX, "%s", base);
}

/* What becomes of an operation. */
enum { GOES_ON, FAILS, DIES };

static int verdict(const char *operation, int directory, const char *path) {
    char full[2 * PATH_MAX], line[2 * PATH_MAX + 64];
    int kept = errno;
    if (!*folder) return GOES_ON;
    absolute(directory, path, full);
    errno = kept;
    size_t length = strlen(folder);
    if (strncmp(full, folder, length) || (full[length] && full[length] != '/')) return GOES_ON;
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (operations_log >= 0) {
        int size = snprintf(line, sizeof line, "%s %s\n", operation, full[length] ? full + length + 1 : ".");
        syscall(SYS_write, operations_log, line, size);
        errno = kept;
    }
    if (!fails_at || number < fails_at || (number > fails_at && !lasting)) return GOES_ON;
    if (kills) return DIES;
    /* On a full disk files can still be deleted. */
    if (of_space && (!strcmp(operation, "unlink") || !strcmp(operation, "rmdir"))) return GOES_ON;
    errno = error_number;
    return FAILS;
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) syscall(SYS_pause);
}

#define MEET(operation, directory, path, failed)              \
    switch (verdict(operation, directory, path)) {            \
    case FAILS: return failed;                                \
    case DIES: die();                                         \
    }

/* Of a write, half of it is done before the process dies. */
#define MEET_WRITE(descriptor, half)                          \
    switch (verdict("write", descriptor, "")) {               \
    case FAILS: return -1;                                    \
    case DIES: half; die();                                   \
    }

static int for_writing(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

#define MODE                                                  \
    mode_t mode = 0;                                          \
    if (flags & (O_CREAT | __O_TMPFILE)) {                    \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode = va_arg(rest, mode_t);                          \
        va_end(rest);                                         \
    }

#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        MODE                                                                \
        if (for_writing(flags)) MEET("open", AT_FDCWD, path, -1)            \
        return LIBC(name)(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                        \
    int name(int directory, const char *path, int flags, ...) {             \
        MODE                                                                \
        if (for_writing(flags)) MEET("open", directory, path, -1)           \
        return LIBC(name)(directory, path, flags, mode);                    \
    }
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name)                                                         \
    int name(const char *path, mode_t mode) {                               \
        MEET("open", AT_FDCWD, path, -1)                                    \
        return LIBC(name)(path, mode);                                      \
    }
CREAT(creat)
CREAT(creat64)

#define FOPEN(name)                                                         \
    FILE *name(const char *path, const char *how) {                         \
        if (strpbrk(how, "wa+")) MEET("open", AT_FDCWD, path, NULL)         \
        return LIBC(name)(path, how);                                       \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int descriptor, const void *bytes, size_t size) {
    MEET_WRITE(descriptor, LIBC(write)(descriptor, bytes, size / 2))
    return LIBC(write)(descriptor, bytes, size);
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    MEET_WRITE(descriptor, LIBC(writev)(descriptor, parts, (number + 1) / 2))
    return LIBC(writev)(descriptor, parts, number);
}

#define PWRITE(name, offset_type)                                                          \
    ssize_t name(int descriptor, const void *bytes, size_t size, offset_type offset) {     \
        MEET_WRITE(descriptor, LIBC(name)(descriptor, bytes, size / 2, offset))            \
        return LIBC(name)(descriptor, bytes, size, offset);                                \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SENDFILE(name, offset_type)                                                        \
    ssize_t name(int target, int source, offset_type *offset, size_t size) {               \
        MEET_WRITE(target, (void)0)                                                        \
        return LIBC(name)(target, source, offset, size);                                   \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t size, unsigned flags) {
    MEET_WRITE(target, (void)0)
    return LIBC(copy_file_range)(source, from, target, to, size, flags);
}

#define OF_DESCRIPTOR(operation, name, parameters, arguments)               \
    int name parameters {                                                   \
        MEET(operation, descriptor, "", -1)                                 \
        return LIBC(name) arguments;                                        \
    }
OF_DESCRIPTOR("write", ftruncate, (int descriptor, off_t length), (descriptor, length))
OF_DESCRIPTOR("write", ftruncate64, (int descriptor, off64_t length), (descriptor, length))
OF_DESCRIPTOR("fsync", fsync, (int descriptor), (descriptor))
OF_DESCRIPTOR("fsync", fdatasync, (int descriptor), (descriptor))

int posix_fallocate(int descriptor, off_t offset, off_t length) {
    MEET("write", descriptor, "", errno)
    return LIBC(posix_fallocate)(descriptor, offset, length);
}

#define OF_PATH(operation, name, directory, path, parameters, arguments)    \
    int name parameters {                                                   \
        MEET(operation, directory, path, -1)                                \
        return LIBC(name) arguments;                                        \
    }
#define HERE AT_FDCWD
OF_PATH("rename", rename, HERE, new, (const char *old, const char *new), (old, new))
OF_PATH("rename", renameat, at, new, (int from, const char *old, int at, const char *new), (from, old, at, new))
OF_PATH("rename", renameat2, at, new, (int from, const char *old, int at, const char *new, unsigned flags),
        (from, old, at, new, flags))
OF_PATH("link", link, HERE, new, (const char *old, const char *new), (old, new))
OF_PATH("link", symlink, HERE, new, (const char *old, const char *new), (old, new))
OF_PATH("mkdir", mkdir, HERE, path, (const char *path, mode_t mode), (path, mode))
OF_PATH("mkdir", mkdirat, at, path, (int at, const char *path, mode_t mode), (at, path, mode))
OF_PATH("unlink", unlink, HERE, path, (const char *path), (path))
OF_PATH("unlink", remove, HERE, path, (const char *path), (path))
OF_PATH("unlink", unlinkat, at, path, (int at, const char *path, int flags), (at, path, flags))
OF_PATH("rmdir", rmdir, HERE, path, (const char *path), (path))
OF_PATH("write", truncate, HERE, path, (const char *path, off_t length), (path, length))
