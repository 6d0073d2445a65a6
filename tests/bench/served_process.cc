#include "tests/bench/served_process.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace laplaced::bench {
namespace {

[[noreturn]] void Give(const char* what) {
  std::perror(what);
  std::exit(1);
}

std::string ReadLine(int fd) {
  std::string line;
  for (char c = 0; read(fd, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

}  // namespace

ServedProcess::ServedProcess(const std::string& kind) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) Give("socketpair");
  pid_ = fork();
  if (pid_ < 0) Give("fork");
  if (pid_ == 0) {
    dup2(ends[1], STDIN_FILENO);
    execl("/proc/self/exe", "bench_serving", "--serve", kind.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  socket_ = ends[0];
  address_ = ReadLine(socket_);
  if (!address_.empty()) return;
  std::fprintf(stderr, "the %s server did not start\n", kind.c_str());
  std::exit(1);
}

ServedProcess::~ServedProcess() {
  close(socket_);
  waitpid(pid_, nullptr, 0);
}

double ServedProcess::CpuSeconds() const {
  std::ifstream stat(absl::StrCat("/proc/", pid_, "/stat"));
  std::string field;
  // Fields 14 and 15; the name of the program, the second, has no blanks.
  double ticks = 0;
  for (int i = 1; i <= 15 && stat >> field; ++i) {
    if (i >= 14) ticks += std::atof(field.c_str());
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void ServeUntilParentEnds(const std::string& address) {
  const std::string line = address + "\n";
  if (write(STDIN_FILENO, line.data(), line.size()) < 0) Give("write");
  ReadLine(STDIN_FILENO);
}

}  // namespace laplaced::bench
