// Fuzz targets: code that reads bytes from anyone, run on any bytes at all.
//
// A target is one file `<name>_fuzz.cc` of this folder that ends in LAPLACED_FUZZ_TARGET(<name>,
// ...), and one line in CMakeLists.txt. Every target is linked into two programs: `fuzz_<name>`
// with libFuzzer (preset `fuzz`, `make fuzz`), and, with all others, `fuzz_replay_test` of every
// build, which needs no fuzzer: it runs the seeds, mutations of them, and whatever once failed
// (`failures/<name>/`). A target fails by Require, by a signal, or by a sanitizer.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace laplaced::fuzz {

struct Target {
  const char* name = nullptr;
  size_t max_bytes = 0;  // of one input; longer ones are not tried
  void (*run)(absl::string_view input) = nullptr;
  // Good inputs to begin with. Equal in every call.
  std::vector<std::string> (*seeds)() = nullptr;
};

// Of this program, in the order of linking.
const std::vector<Target>& Targets();

// For LAPLACED_FUZZ_TARGET; the value means nothing.
bool AddTarget(const Target& target);

// Ends the process with `what` on standard error unless `holds`.
void Require(bool holds, absl::string_view what);

// Requires OK, or one of `codes` with a message. What an input can cause is never INTERNAL.
void RequireStatus(const absl::Status& status, std::initializer_list<absl::StatusCode> codes);

// A folder of this process for readers that want a path. It is removed when the process ends as it
// should.
const std::string& ScratchFolder();

// Writes `<ScratchFolder()>/<name>`, whose folder must be there; its path.
std::string WriteScratch(const std::string& name, absl::string_view bytes);

}  // namespace laplaced::fuzz

// `run` and `seeds` as in Target.
#define LAPLACED_FUZZ_TARGET(name, max_bytes, run, seeds)          \
  [[maybe_unused]] static const bool laplaced_fuzz_target_##name = \
      ::laplaced::fuzz::AddTarget({#name, max_bytes, run, seeds})
