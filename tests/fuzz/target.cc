#include "tests/fuzz/target.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace laplaced::fuzz {
namespace {

std::vector<Target>& MutableTargets() {
  static auto* targets = new std::vector<Target>;
  return *targets;
}

struct RemovedFolder {
  std::string path;
  ~RemovedFolder() {
    std::error_code error;
    std::filesystem::remove_all(path, error);
  }
};

// In memory, where there is such a place: a target writes thousands of files a second.
std::string NewFolder() {
  const char* const temporary = std::getenv("TMPDIR");
  for (const char* parent : {static_cast<const char*>("/dev/shm"), temporary, "/tmp"}) {
    if (parent == nullptr) continue;
    std::string path = absl::StrCat(parent, "/laplaced-fuzz-XXXXXX");
    if (mkdtemp(path.data()) != nullptr) return path;
  }
  Require(false, "no folder for temporary files, set TMPDIR");
  return "";
}

}  // namespace

const std::vector<Target>& Targets() { return MutableTargets(); }

bool AddTarget(const Target& target) {
  MutableTargets().push_back(target);
  return true;
}

void Require(bool holds, absl::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz target: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void RequireStatus(const absl::Status& status, std::initializer_list<absl::StatusCode> codes) {
  if (status.ok()) return;
  const bool known = std::find(codes.begin(), codes.end(), status.code()) != codes.end();
  Require(known,
          absl::StrCat("a code that is not among those that are promised: ", status.ToString()));
  Require(!status.message().empty(), "an error without a message");
}

const std::string& ScratchFolder() {
  static const RemovedFolder folder{NewFolder()};
  return folder.path;
}

std::string WriteScratch(const std::string& name, absl::string_view bytes) {
  std::string path = absl::StrCat(ScratchFolder(), "/", name);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  Require(fd >= 0, absl::StrCat("cannot write ", path));
  Require(write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
          absl::StrCat("cannot write ", path));
  close(fd);
  return path;
}

}  // namespace laplaced::fuzz
