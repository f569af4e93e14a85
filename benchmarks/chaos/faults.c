/* A file layer that fails on purpose, put before libc's with LD_PRELOAD: the Nth call that writes below one folder fails, or the process dies in it.
   Python, SQLite and Rust (safetensors) all come through here. Nothing happens until chaos_arm; Linux only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DIE = -1, COUNT = 0 }; /* else an errno */
enum { DATA = 1, NAME = 2, GONE = 4 }; /* what a call does: fills a file, makes or changes a name, removes one */

static int armed, what, kinds, log_file = -1;
static long at, seen;
static char root[PATH_MAX];

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* `fault`: DIE, COUNT or an errno that call number `number` (from 1) below `folder` gets; of the calls of `of` only. Each counted call is a line of the log. */
void chaos_arm(const char *folder, int fault, int of, long number, const char *log) {
  snprintf(root, sizeof root, "%s/", folder);
  what = fault, kinds = of, at = number, seen = 0;
  log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  armed = 1;
}

static void say(const char *call, const char *path, const char *to) {
  char line[2 * PATH_MAX + 96];
  struct stat found;
  unsigned long number = lstat(path, &found) ? 0UL : (unsigned long)found.st_ino;
  int n = snprintf(line, sizeof line, "%s\t%s\t%s\t#%lu\n", call, path, to, number);
  syscall(SYS_write, log_file, line, n < (int)sizeof line ? n : (int)sizeof line);
}

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

/* Is it this call's turn? A full disk or a lost permission stays so from then on; an I/O error passes. */
static int struck(const char *call, int kind, const char *path, const char *to) {
  if (!armed || strncmp(path, root, strlen(root)) || (what != COUNT && !(kind & kinds))) return 0;
  long n = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
  say(call, path, to);
  return what != COUNT && (n == at || (n > at && (what == ENOSPC || what == EACCES)));
}

static const char *full(int folder, const char *path, char *out) {
  char link[64], base[PATH_MAX] = "";
  if (path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return out; }
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  ssize_t n = readlink(link, base, sizeof base - 1);
  base[n > 0 ? n : 0] = 0;
  snprintf(out, PATH_MAX, "%.*s/%s", PATH_MAX / 2, base, path);
  return out;
}

static int struck_file(const char *call, int file) {
  char link[64], path[PATH_MAX];
  if (!armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  struct stat found;
  char inode[32];
  snprintf(inode, sizeof inode, "#%lu", fstat(file, &found) ? 0UL : (unsigned long)found.st_ino);
  return struck(call, DATA, path, inode);
}

static int struck_name(const char *call, int kind, int folder, const char *path, int to_folder, const char *to) {
  char one[PATH_MAX], two[PATH_MAX] = "";
  if (!armed || !path) return 0;
  return struck(call, kind, full(folder, path, one), to ? full(to_folder, to, two) : "");
}

#define FAIL do { if (what == DIE) die(); errno = what; return -1; } while (0)

/* A write that dies has written half; a full disk too takes what still fits. */
#define WRITE(name, arguments, call, half) \
  ssize_t name arguments { \
    REAL(name); \
    if (struck_file(#name, file)) { if (what == DIE) { half; die(); } FAIL; } \
    return call; \
  }
WRITE(write, (int file, const void *from, size_t n), real(file, from, n), real(file, from, n / 2))
WRITE(pwrite, (int file, const void *from, size_t n, off_t place), real(file, from, n, place), real(file, from, n / 2, place))
WRITE(pwrite64, (int file, const void *from, size_t n, off64_t place), real(file, from, n, place), real(file, from, n / 2, place))
WRITE(writev, (int file, const struct iovec *from, int n), real(file, from, n), real(file, from, n / 2))

#define SYNC(name, arguments, call) \
  int name arguments { REAL(name); if (struck_file(#name, file)) FAIL; return call; }
SYNC(fsync, (int file), real(file))
SYNC(fdatasync, (int file), real(file))
SYNC(ftruncate, (int file, off_t n), real(file, n))
SYNC(ftruncate64, (int file, off64_t n), real(file, n))

ssize_t sendfile(int file, int from, off_t *place, size_t n) { REAL(sendfile); if (struck_file("sendfile", file)) FAIL; return real(file, from, place, n); }
ssize_t sendfile64(int file, int from, off64_t *place, size_t n) { REAL(sendfile64); if (struck_file("sendfile", file)) FAIL; return real(file, from, place, n); }
ssize_t copy_file_range(int from, off64_t *a, int file, off64_t *b, size_t n, unsigned flags) { REAL(copy_file_range); if (struck_file("copy_file_range", file)) FAIL; return real(from, a, file, b, n, flags); }

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define MAKES(flags) ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE)
#define OPEN(name, arguments, folder, call) \
  int name arguments { REAL(name); MODE if (MAKES(flags) && struck_name("open", NAME, folder, path, 0, 0)) FAIL; return call; }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))

#define NAMES(name, kind, arguments, folder, path, to_folder, to, call) \
  int name arguments { REAL(name); if (struck_name(#name, kind, folder, path, to_folder, to)) FAIL; return call; }
NAMES(rename, NAME, (const char *path, const char *to), AT_FDCWD, path, AT_FDCWD, to, real(path, to))
NAMES(renameat, NAME, (int folder, const char *path, int other, const char *to), folder, path, other, to, real(folder, path, other, to))
NAMES(mkdir, NAME, (const char *path, mode_t mode), AT_FDCWD, path, 0, 0, real(path, mode))
NAMES(mkdirat, NAME, (int folder, const char *path, mode_t mode), folder, path, 0, 0, real(folder, path, mode))
NAMES(unlink, GONE, (const char *path), AT_FDCWD, path, 0, 0, real(path))
NAMES(unlinkat, GONE, (int folder, const char *path, int flags), folder, path, 0, 0, real(folder, path, flags))
NAMES(rmdir, GONE, (const char *path), AT_FDCWD, path, 0, 0, real(path))
