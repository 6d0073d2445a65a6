// A server in a process of its own, so that it and the load generator share nothing but the
// machine.
//
// The process is this program again with `--serve KIND`. It ends with its parent. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace laplaced::bench {

class ServedProcess {
 public:
  // Returns when the server can be called. Ends the program if it does not start.
  explicit ServedProcess(const std::string& kind);
  ~ServedProcess();
  ServedProcess(const ServedProcess&) = delete;
  ServedProcess& operator=(const ServedProcess&) = delete;

  const std::string& address() const { return address_; }
  // Processor time that it has used.
  double CpuSeconds() const;

 private:
  pid_t pid_ = -1;
  int socket_ = -1;
  std::string address_;
};

// For the child: tells the parent the address, and returns when the parent wants no more.
void ServeUntilParentEnds(const std::string& address);

}  // namespace laplaced::bench
