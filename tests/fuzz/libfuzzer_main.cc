// libFuzzer's entry to the one target of a program. `fuzz_<name> --write-seeds=FOLDER` writes the
// target's seeds there instead, and `--limits` prints the most bytes of an input.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

const Target& OnlyTarget() {
  Require(Targets().size() == 1, "a program for libFuzzer has one target");
  return Targets().front();
}

void WriteSeeds(const std::string& folder) {
  int number = 0;
  for (const std::string& seed : OnlyTarget().seeds()) {
    const std::string path = absl::StrCat(folder, "/seed-", number++);
    std::ofstream out(path, std::ios::binary);
    out.write(seed.data(), static_cast<std::streamsize>(seed.size()));
    out.close();
    Require(out.good(), absl::StrCat("cannot write ", path));
  }
}

}  // namespace
}  // namespace laplaced::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    absl::string_view argument = (*argv)[i];
    if (absl::ConsumePrefix(&argument, "--write-seeds=")) {
      laplaced::fuzz::WriteSeeds(std::string(argument));
      std::exit(0);
    }
    if (argument == "--limits") {
      std::printf("%zu\n", laplaced::fuzz::OnlyTarget().max_bytes);
      std::exit(0);
    }
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const laplaced::fuzz::Target& target = laplaced::fuzz::OnlyTarget();
  if (size <= target.max_bytes) target.run({reinterpret_cast<const char*>(data), size});
  return 0;
}
