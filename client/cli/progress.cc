#include "client/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

constexpr int kBarWidth = 30;
constexpr absl::Duration kPlainLinePause = absl::Seconds(10);

constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGHUP};

volatile sig_atomic_t interrupted = 0;

void OnInterrupt(int) { interrupted = 1; }

// Whether standard error may be drawn on. https://no-color.org asks for no escape sequences.
bool DrawsOnTerminal() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool plain = (no_color != nullptr && *no_color != '\0') ||
                     (term != nullptr && std::strcmp(term, "dumb") == 0);
  return !plain && isatty(STDERR_FILENO) == 1;
}

}  // namespace

ProgressLine::ProgressLine(std::string what)
    : what_(std::move(what)), terminal_(DrawsOnTerminal()) {}

ProgressLine::~ProgressLine() {
  if (open_) std::fputs("\n", stderr);
}

void ProgressLine::Update(double fraction, const std::string& detail) {
  fraction = std::clamp(fraction, 0.0, 1.0);
  const int percent = static_cast<int>(100 * fraction);
  if (terminal_) {
    const int filled = static_cast<int>(kBarWidth * fraction);
    const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
    // "Erase to the end of the line" takes away what a longer detail left behind.
    const std::string line =
        absl::StrFormat("\r%s [%s] %3d %%  %s\x1b[K", what_, bar, percent, detail);
    std::fputs(line.c_str(), stderr);
    open_ = true;
    return;
  }
  if (percent / 10 == printed_tenth_) return;
  printed_tenth_ = percent / 10;
  std::fputs(absl::StrFormat("%s %d %%  %s\n", what_, percent, detail).c_str(), stderr);
}

void ProgressLine::Update(const std::string& detail) {
  if (terminal_) {
    std::fputs(absl::StrFormat("\r%s  %s\x1b[K", what_, detail).c_str(), stderr);
    open_ = true;
    return;
  }
  if (absl::Now() < next_line_) return;
  next_line_ = absl::Now() + kPlainLinePause;
  std::fputs(absl::StrFormat("%s  %s\n", what_, detail).c_str(), stderr);
}

void ProgressLine::Update(const client::Operation& operation) {
  std::string detail = operation.phase;
  if (operation.total > 0) {
    absl::StrAppend(&detail, " ", Count(operation.done), "/", Count(operation.total));
  }
  if (!operation.finished() && operation.seconds_left >= 0) {
    absl::StrAppend(&detail, ", ", Seconds(operation.seconds_left), " left");
  }
  Update(operation.fraction, detail);
}

InterruptFlag::InterruptFlag() {
  interrupted = 0;
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &previous_[i]);
    if (kSignals[i] == SIGHUP && previous_[i].sa_handler == SIG_IGN) continue;
    sigaction(kSignals[i], &action, nullptr);
  }
}

InterruptFlag::~InterruptFlag() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous_[i], nullptr);
}

bool InterruptFlag::raised() const { return interrupted != 0; }

}  // namespace laplace::cli
