// A child process: started, signalled, waited for. What it writes goes to two files.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "tests/support/temp_folder.h"

namespace laplaced::test_support {

class Process {
 public:
  // Runs `arguments`, of which the first is the program's path, with `environment` added to this
  // process's. Standard error goes to `log`, standard output to `log`.out.
  Process(std::string log, std::vector<std::string> arguments,
          const std::map<std::string, std::string>& environment = {})
      : log_(std::move(log)) {
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
      if (freopen((log_ + ".out").c_str(), "w", stdout) == nullptr) _exit(126);
      if (freopen(log_.c_str(), "w", stderr) == nullptr) _exit(126);
      execv(pointers[0], pointers.data());
      _exit(127);
    }
  }
  ~Process() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Signal(int signal) { kill(pid_, signal); }

  // Exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  // Whether it has ended; it need not be waited for then.
  bool Ended() {
    if (pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
    return pid_ <= 0;
  }

  std::string Log() const { return ReadFileBytes(log_); }
  // Without white space around it.
  std::string Output() const {
    return std::string(absl::StripAsciiWhitespace(ReadFileBytes(log_ + ".out")));
  }

 private:
  std::string log_;
  pid_t pid_ = -1;
};

}  // namespace laplaced::test_support
