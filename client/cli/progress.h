// Shows how far something is: a bar that redraws itself on a terminal, a line now and then anywhere
// else and where NO_COLOR is set.
//
// Writes to standard error, so that results on standard output stay clean. Not synchronised.
#pragma once

#include <signal.h>

#include <array>
#include <string>

#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace laplace::cli {

class ProgressLine {
 public:
  // `what` opens every line: "sending training data".
  explicit ProgressLine(std::string what);
  // Ends a bar that is still open.
  ~ProgressLine();

  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // `fraction` in [0, 1]; `detail` says what is going on.
  void Update(double fraction, const std::string& detail);
  // The same where nobody knows how much there is: a line without a bar.
  void Update(const std::string& detail);
  // Phase, counts and time left of an operation.
  void Update(const client::Operation& operation);

 private:
  const std::string what_;
  const bool terminal_;
  bool open_ = false;       // the terminal's cursor stands behind a bar
  int printed_tenth_ = -1;  // last tenth that got a plain line
  absl::Time next_line_;    // for the next plain line without a share
};

// Turns the signals that ask a program to end - SIGINT (Ctrl-C), SIGTERM, SIGHUP - into a flag as
// long as it lives; the second one of a kind ends the program as usual. A SIGHUP that is ignored,
// as under nohup, stays ignored. One at a time.
class InterruptFlag {
 public:
  InterruptFlag();
  ~InterruptFlag();

  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;

  bool raised() const;

 private:
  std::array<struct sigaction, 3> previous_;
};

}  // namespace laplace::cli
