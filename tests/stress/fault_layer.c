// A library for LD_PRELOAD that makes chosen file calls of a program fail, write less, or end it.
//
//   LAPLACED_FAULT_FOLDER   absolute path, without symbolic links; only files at and below it are
//                           looked at
//   LAPLACED_FAULT_CONTROL  file that holds a `struct control`; it is mapped, so that whoever writes
//                           to it arms and disarms a program that runs (faults.py does)
//
// Calls of a kind in `kinds` are numbered from 1 as they come, whatever the thread; those numbered
// `from` to `to` fail with `errors[kind]`, or as kDie, kShort and kHang say. A call that fails does not
// reach the kernel, except close, which closes and then says that it failed. What a C library does
// inside itself (the flush of a FILE) is not seen; what the C++ library does is. Without the two
// variables every call goes through untouched. Linux with glibc.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// The order is known to faults.py.
enum kind {
  kCreate,  // open to write or to create
  kWrite,
  kSync,
  kRename,
  kMakeFolder,
  kRemove,
  kOpen,  // to read, files and folders
  kRead,
  kMap,
  kClose,
  kLook,  // stat and the like, by name
  kKinds
};
// Instead of an errno. kShort only concerns writes; kHang lasts until the control file changes.
enum { kDie = -1, kShort = -2, kHang = -3 };
enum { kExitCode = 86 };

struct control {
  _Atomic uint32_t kinds;  // bit by kind; 0: nothing is counted
  _Atomic uint32_t from, to;
  _Atomic int32_t errors[kKinds];
  _Atomic uint32_t calls;  // counted so far
  _Atomic uint32_t hits;   // of those that failed
  _Atomic uint32_t hits_by_kind[kKinds];
  char last[256];  // "kind path" of the last one that failed; a hint, not synchronised
};

static const char* const kNames[kKinds] = {"create",       "write", "fsync", "rename",
                                           "make folder",  "remove", "open", "read",
                                           "map",          "close", "look"};

static struct control* control;
static char folder[PATH_MAX];
static size_t folder_length;

// Which descriptors belong to the folder.
#define MOST_FILES 65536
static _Atomic unsigned char watched[MOST_FILES];

#define REAL(type, name, ...)                                    \
  static type (*real)(__VA_ARGS__);                              \
  if (real == NULL) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int (*RealOpen(void))(const char*, int, ...) {
  static int (*real)(const char*, int, ...);
  if (real == NULL) real = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open64");
  return real;
}

__attribute__((constructor)) static void Begin(void) {
  const char* below = getenv("LAPLACED_FAULT_FOLDER");
  const char* file = getenv("LAPLACED_FAULT_CONTROL");
  if (below == NULL || file == NULL) return;
  folder_length = strlen(below);
  if (folder_length == 0 || folder_length >= sizeof folder) abort();
  memcpy(folder, below, folder_length);
  const int fd = RealOpen()(file, O_RDWR | O_CLOEXEC);
  void* map = fd < 0 ? MAP_FAILED
                     : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) {
    perror("fault_layer: LAPLACED_FAULT_CONTROL");
    abort();
  }
  close(fd);
  control = map;
}

static int Below(const char* path) {
  return strncmp(path, folder, folder_length) == 0 &&
         (path[folder_length] == '/' || path[folder_length] == '\0');
}

static int IsWatched(int fd) { return fd >= 0 && fd < MOST_FILES && watched[fd]; }

static void Watch(int fd, int yes) {
  if (fd >= 0 && fd < MOST_FILES) watched[fd] = (unsigned char)yes;
}

static int WatchedAt(int at, const char* path) {
  if (control == NULL || path == NULL) return 0;
  return path[0] == '/' ? Below(path) : IsWatched(at);
}

// 0, or what is to happen to a call.
static int Fault(enum kind kind, const char* path) {
  const uint32_t kinds = control->kinds;
  if ((kinds >> kind & 1) == 0) return 0;
  const uint32_t number = atomic_fetch_add(&control->calls, 1) + 1;
  if (number < control->from || number > control->to) return 0;
  const int error = control->errors[kind];
  if (error == 0) return 0;
  atomic_fetch_add(&control->hits, 1);
  atomic_fetch_add(&control->hits_by_kind[kind], 1);
  snprintf(control->last, sizeof control->last, "%s %s", kNames[kind], path);
  if (error == kDie) _exit(kExitCode);
  if (error != kHang) return error;
  while (control->kinds == kinds) usleep(1000);
  return 0;
}

static int FaultOf(enum kind kind, int fd) {
  if (control == NULL || !IsWatched(fd)) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  path[length < 0 ? 0 : length] = '\0';
  // The number may belong to something else by now, closed where nobody saw it.
  if (!Below(path)) {
    Watch(fd, 0);
    return 0;
  }
  return Fault(kind, path);
}

// Fails a call unless it is only to be shortened.
#define RETURN_IF(fault, result) \
  do {                           \
    const int error_ = (fault);  \
    if (error_ > 0) {            \
      errno = error_;            \
      return result;             \
    }                            \
  } while (0)

static int OpenAt(int at, const char* path, int flags, mode_t mode) {
  REAL(int, "openat64", int, const char*, int, ...);
  const int mine = WatchedAt(at, path);
  if (mine) {
    const int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
    RETURN_IF(Fault(writes ? kCreate : kOpen, path), -1);
  }
  const int fd = real(at, path, flags, mode);
  if (fd >= 0) Watch(fd, mine);
  return fd;
}

#define MODE_OF(flags)                              \
  mode_t mode = 0;                                  \
  if ((flags & O_CREAT) || (flags & __O_TMPFILE)) { \
    va_list list;                                   \
    va_start(list, flags);                          \
    mode = (mode_t)va_arg(list, int);               \
    va_end(list);                                   \
  }

int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  return OpenAt(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  return OpenAt(AT_FDCWD, path, flags, mode);
}
int openat(int at, const char* path, int flags, ...) {
  MODE_OF(flags)
  return OpenAt(at, path, flags, mode);
}
int openat64(int at, const char* path, int flags, ...) {
  MODE_OF(flags)
  return OpenAt(at, path, flags, mode);
}
int __open_2(const char* path, int flags) { return OpenAt(AT_FDCWD, path, flags, 0); }
int __open64_2(const char* path, int flags) { return OpenAt(AT_FDCWD, path, flags, 0); }

static FILE* OpenStream(const char* path, const char* how) {
  REAL(FILE*, "fopen64", const char*, const char*);
  const int mine = WatchedAt(AT_FDCWD, path);
  if (mine) {
    const int writes = strpbrk(how, "wa+") != NULL;
    RETURN_IF(Fault(writes ? kCreate : kOpen, path), NULL);
  }
  FILE* file = real(path, how);
  if (file != NULL) Watch(fileno(file), mine);
  return file;
}
FILE* fopen(const char* path, const char* how) { return OpenStream(path, how); }
FILE* fopen64(const char* path, const char* how) { return OpenStream(path, how); }

int fclose(FILE* file) {
  REAL(int, "fclose", FILE*);
  const int fd = fileno(file);
  const int error = FaultOf(kClose, fd);
  Watch(fd, 0);
  const int result = real(file);
  RETURN_IF(error, EOF);
  return result;
}

int close(int fd) {
  REAL(int, "close", int);
  const int error = FaultOf(kClose, fd);
  Watch(fd, 0);
  const int result = real(fd);
  RETURN_IF(error, -1);
  return result;
}

DIR* opendir(const char* path) {
  REAL(DIR*, "opendir", const char*);
  const int mine = WatchedAt(AT_FDCWD, path);
  if (mine) RETURN_IF(Fault(kOpen, path), NULL);
  DIR* dir = real(path);
  if (dir != NULL) Watch(dirfd(dir), mine);
  return dir;
}

int closedir(DIR* dir) {
  REAL(int, "closedir", DIR*);
  Watch(dirfd(dir), 0);
  return real(dir);
}

struct dirent* readdir(DIR* dir) {
  REAL(struct dirent*, "readdir", DIR*);
  RETURN_IF(FaultOf(kRead, dirfd(dir)), NULL);
  return real(dir);
}

struct dirent64* readdir64(DIR* dir) {
  REAL(struct dirent64*, "readdir64", DIR*);
  RETURN_IF(FaultOf(kRead, dirfd(dir)), NULL);
  return real(dir);
}

// How much of a write is done.
static size_t Part(int fault, size_t size) { return fault == kShort ? (size + 1) / 2 : size; }

ssize_t write(int fd, const void* bytes, size_t size) {
  REAL(ssize_t, "write", int, const void*, size_t);
  const int fault = FaultOf(kWrite, fd);
  RETURN_IF(fault, -1);
  return real(fd, bytes, Part(fault, size));
}

ssize_t writev(int fd, const struct iovec* parts, int count) {
  REAL(ssize_t, "writev", int, const struct iovec*, int);
  const int fault = FaultOf(kWrite, fd);
  RETURN_IF(fault, -1);
  if (fault == kShort && count > 0) return write(fd, parts[0].iov_base, parts[0].iov_len);
  return real(fd, parts, count);
}

static ssize_t WriteAt(int fd, const void* bytes, size_t size, off64_t offset) {
  REAL(ssize_t, "pwrite64", int, const void*, size_t, off64_t);
  const int fault = FaultOf(kWrite, fd);
  RETURN_IF(fault, -1);
  return real(fd, bytes, Part(fault, size), offset);
}
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  return WriteAt(fd, bytes, size, offset);
}
ssize_t pwrite64(int fd, const void* bytes, size_t size, off64_t offset) {
  return WriteAt(fd, bytes, size, offset);
}

ssize_t read(int fd, void* bytes, size_t size) {
  REAL(ssize_t, "read", int, void*, size_t);
  RETURN_IF(FaultOf(kRead, fd), -1);
  return real(fd, bytes, size);
}

// What fortified programs call.
ssize_t __read_chk(int fd, void* bytes, size_t size, size_t room) {
  if (size > room) abort();
  return read(fd, bytes, size);
}

static ssize_t ReadAt(int fd, void* bytes, size_t size, off64_t offset) {
  REAL(ssize_t, "pread64", int, void*, size_t, off64_t);
  RETURN_IF(FaultOf(kRead, fd), -1);
  return real(fd, bytes, size, offset);
}
ssize_t pread(int fd, void* bytes, size_t size, off_t offset) {
  return ReadAt(fd, bytes, size, offset);
}
ssize_t pread64(int fd, void* bytes, size_t size, off64_t offset) {
  return ReadAt(fd, bytes, size, offset);
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  RETURN_IF(FaultOf(kSync, fd), -1);
  return real(fd);
}

int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  RETURN_IF(FaultOf(kSync, fd), -1);
  return real(fd);
}

int rename(const char* from, const char* to) {
  REAL(int, "rename", const char*, const char*);
  if (WatchedAt(AT_FDCWD, to)) RETURN_IF(Fault(kRename, to), -1);
  return real(from, to);
}

int renameat2(int from_at, const char* from, int to_at, const char* to, unsigned flags) {
  REAL(int, "renameat2", int, const char*, int, const char*, unsigned);
  if (WatchedAt(to_at, to)) RETURN_IF(Fault(kRename, to), -1);
  return real(from_at, from, to_at, to, flags);
}

int mkdir(const char* path, mode_t mode) {
  REAL(int, "mkdir", const char*, mode_t);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kMakeFolder, path), -1);
  return real(path, mode);
}

int unlink(const char* path) {
  REAL(int, "unlink", const char*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kRemove, path), -1);
  return real(path);
}

int rmdir(const char* path) {
  REAL(int, "rmdir", const char*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kRemove, path), -1);
  return real(path);
}

int unlinkat(int at, const char* path, int flags) {
  REAL(int, "unlinkat", int, const char*, int);
  if (WatchedAt(at, path)) RETURN_IF(Fault(kRemove, path), -1);
  return real(at, path, flags);
}

int remove(const char* path) {
  REAL(int, "remove", const char*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kRemove, path), -1);
  return real(path);
}

int stat(const char* path, struct stat* info) {
  REAL(int, "stat", const char*, struct stat*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kLook, path), -1);
  return real(path, info);
}

int stat64(const char* path, struct stat64* info) {
  REAL(int, "stat64", const char*, struct stat64*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kLook, path), -1);
  return real(path, info);
}

int lstat(const char* path, struct stat* info) {
  REAL(int, "lstat", const char*, struct stat*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kLook, path), -1);
  return real(path, info);
}

int lstat64(const char* path, struct stat64* info) {
  REAL(int, "lstat64", const char*, struct stat64*);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kLook, path), -1);
  return real(path, info);
}

int access(const char* path, int how) {
  REAL(int, "access", const char*, int);
  if (WatchedAt(AT_FDCWD, path)) RETURN_IF(Fault(kLook, path), -1);
  return real(path, how);
}

static void* Map(void* where, size_t size, int access, int flags, int fd, off64_t offset) {
  REAL(void*, "mmap64", void*, size_t, int, int, int, off64_t);
  RETURN_IF(FaultOf(kMap, fd), MAP_FAILED);
  return real(where, size, access, flags, fd, offset);
}
void* mmap(void* where, size_t size, int access, int flags, int fd, off_t offset) {
  return Map(where, size, access, flags, fd, offset);
}
void* mmap64(void* where, size_t size, int access, int flags, int fd, off64_t offset) {
  return Map(where, size, access, flags, fd, offset);
}
