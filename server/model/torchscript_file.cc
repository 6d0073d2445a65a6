#include "server/model/torchscript_file.h"

#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/file_error.h"
#include "formats/file_handle.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// A file for LibTorch, which remembers what the disk said.
class CheckedFile : public caffe2::serialize::ReadAdapterInterface {
 public:
  CheckedFile(OpenedFile file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}

  size_t size() const override { return static_cast<size_t>(file_.size); }

  // Fewer than `n` bytes are an error to the caller, and so is the end of the file.
  size_t read(uint64_t position, void* out, size_t n, const char* /*what*/) const override {
    constexpr size_t kMost = size_t{1} << 30;
    size_t done = 0;
    while (done < n) {
      const ssize_t got = pread(file_.fd.get(), static_cast<char*>(out) + done,
                                std::min(n - done, kMost), static_cast<off_t>(position + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) status_ = FileError(errno, absl::StrCat("cannot read ", path_));
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

  const absl::Status& status() const { return status_; }

 private:
  const OpenedFile file_;
  const std::string path_;
  mutable absl::Status status_;
};

}  // namespace

absl::StatusOr<torch::jit::Module> LoadTorchScript(const std::string& path,
                                                   const std::string& file_name) {
  LAPLACED_ASSIGN_OR_RETURN(OpenedFile opened, OpenRegularFile(path));
  const auto file = std::make_shared<CheckedFile>(std::move(opened), path);
  auto module = CatchTorch(file_name, [&]() -> absl::StatusOr<torch::jit::Module> {
    return torch::jit::load(file, at::kCPU);
  });
  if (module.ok()) return module;
  LAPLACED_RETURN_IF_ERROR(file->status());
  return absl::FailedPreconditionError(absl::StrCat(
      file_name,
      ": not a readable TorchScript file (damaged, truncated, or saved with torch.save instead of "
      "torch.jit.save): ",
      module.status().message()));
}

}  // namespace laplaced
