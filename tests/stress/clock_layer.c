// A library for LD_PRELOAD that sets the wall clock of one program: time of day and date, as
// settimeofday or NTP would, while monotonic clocks go on.
//
//   LAPLACED_CLOCK_CONTROL  file that holds the offset from the real clock as 8 bytes, nanoseconds;
//                           it is mapped, so that whoever writes to it sets the clock of a program
//                           that runs (clock_test.py does)
//
// Waits until a wall-clock time end when the shifted clock says so, also if it is set while they
// wait: they are cut into slices of kSliceNanos. What a kernel does by itself with the wall clock
// (timestamps of files, timerfd) is not shifted. Without the variable nothing is. Linux with glibc.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { kSliceNanos = 20 * 1000 * 1000 };
static const int64_t kSecond = 1000000000;

static _Atomic int64_t no_offset;
static _Atomic int64_t* offset = &no_offset;

#define REAL(type, name, ...)       \
  static type (*real)(__VA_ARGS__); \
  if (real == NULL) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void Begin(void) {
  const char* file = getenv("LAPLACED_CLOCK_CONTROL");
  if (file == NULL) return;
  const int fd = open(file, O_RDWR | O_CLOEXEC);
  void* map = fd < 0 ? MAP_FAILED
                     : mmap(NULL, sizeof *offset, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) {
    perror("clock_layer: LAPLACED_CLOCK_CONTROL");
    abort();
  }
  close(fd);
  offset = map;
}

static int64_t Nanos(const struct timespec* time) { return time->tv_sec * kSecond + time->tv_nsec; }

static struct timespec Timespec(int64_t nanos) {
  struct timespec time = {nanos / kSecond, nanos % kSecond};
  if (time.tv_nsec < 0) {
    time.tv_nsec += kSecond;
    --time.tv_sec;
  }
  return time;
}

static int RealClock(clockid_t clock, struct timespec* time) {
  REAL(int, "clock_gettime", clockid_t, struct timespec*);
  return real(clock, time);
}

static int64_t RealNow(void) {
  struct timespec time;
  RealClock(CLOCK_REALTIME, &time);
  return Nanos(&time);
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  const int result = RealClock(clock, time);
  const int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ||
                      clock == CLOCK_TAI;
  if (result == 0 && is_wall) *time = Timespec(Nanos(time) + *offset);
  return result;
}

int gettimeofday(struct timeval* restrict time, void* restrict zone) {
  (void)zone;
  const int64_t now = RealNow() + *offset;
  const struct timespec whole = Timespec(now);
  time->tv_sec = whole.tv_sec;
  time->tv_usec = whole.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* out) {
  const time_t now = Timespec(RealNow() + *offset).tv_sec;
  if (out != NULL) *out = now;
  return now;
}

// The real time until which a slice of a wait until `end` lasts, and whether it is the last one.
static struct timespec Slice(const struct timespec* end, int* last) {
  const int64_t now = RealNow();
  const int64_t left = Nanos(end) - (now + *offset);
  *last = left <= kSliceNanos;
  return Timespec(now + (*last ? left : kSliceNanos));
}

// A slice that is not the last ends as a spurious wakeup, for which every caller must be ready: a
// signal between two slices would be lost otherwise.
int pthread_cond_timedwait(pthread_cond_t* restrict condition, pthread_mutex_t* restrict mutex,
                           const struct timespec* restrict end) {
  REAL(int, "pthread_cond_timedwait", pthread_cond_t*, pthread_mutex_t*, const struct timespec*);
  int last;
  const struct timespec until = Slice(end, &last);
  const int result = real(condition, mutex, &until);
  return result == ETIMEDOUT && !last ? 0 : result;
}

int pthread_cond_clockwait(pthread_cond_t* restrict condition, pthread_mutex_t* restrict mutex,
                           clockid_t clock, const struct timespec* restrict end) {
  REAL(int, "pthread_cond_clockwait", pthread_cond_t*, pthread_mutex_t*, clockid_t,
       const struct timespec*);
  if (clock != CLOCK_REALTIME) return real(condition, mutex, clock, end);
  return pthread_cond_timedwait(condition, mutex, end);
}

int sem_timedwait(sem_t* restrict semaphore, const struct timespec* restrict end) {
  REAL(int, "sem_timedwait", sem_t*, const struct timespec*);
  for (;;) {
    int last;
    const struct timespec until = Slice(end, &last);
    const int result = real(semaphore, &until);
    if (result == 0 || errno != ETIMEDOUT || last) return result;
  }
}

// Of Abseil and of libstdc++, which make their waits of this. The value is compared again in every
// slice, so that no wakeup is lost between two.
static long WaitOnFutex(long (*real)(long, ...), void* word, long operation, long value,
                        const struct timespec* end, void* word2, long value3) {
  for (;;) {
    int last;
    const struct timespec until = Slice(end, &last);
    const long result = real(SYS_futex, word, operation, value, &until, word2, value3);
    if (result == 0 || errno != ETIMEDOUT || last) return result;
  }
}

long syscall(long number, ...) {
  REAL(long, "syscall", long, ...);
  long a[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; ++i) a[i] = va_arg(list, long);
  va_end(list);
  const int waits = number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET &&
                    (a[1] & FUTEX_CLOCK_REALTIME) && a[3] != 0;
  if (waits) {
    return WaitOnFutex(real, (void*)a[0], a[1], a[2], (const struct timespec*)a[3], (void*)a[4],
                       a[5]);
  }
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
