#include "server/model/checkpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/file_handle.h"
#include "formats/weights_file.h"
#include "server/model/architectures/build_module.h"
#include "server/model/torch_status.h"
#include "server/model/torchscript_file.h"

namespace laplaced {
namespace {

absl::Status Unusable(const std::string& file_name, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(file_name, ": ", what));
}

// Memory, or the disk, may be there the next time; everything else is the file's fault.
absl::Status AsPrecondition(const absl::Status& status) {
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) return status;
  return absl::FailedPreconditionError(status.message());
}

std::string SomeNames(const Weights& weights) {
  constexpr size_t kShown = 10;
  std::vector<std::string> names;
  for (const auto& entry : weights) names.push_back(absl::CHexEscape(entry.first.substr(0, 100)));
  const size_t shown = std::min(kShown, names.size());
  const std::string text =
      absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", ");
  return shown == names.size() ? text : absl::StrCat(text, " and ", names.size() - shown, " more");
}

// The message for a file that is not TorchScript but weights; OK if it is neither.
absl::Status ExplainWeights(const std::string& path, const std::string& file_name) {
  const absl::StatusOr<Weights> weights = ReadWeights(path, file_name);
  if (!weights.ok()) return absl::OkStatus();
  return Unusable(
      file_name,
      absl::StrCat(
          "holds tensors without a network (a state_dict); add the key \"architecture\" to "
          "model.json, one of ",
          absl::StrJoin(ArchitectureNames(), ", "),
          ", or export the network as TorchScript. Its tensors are ", SomeNames(*weights)));
}

absl::StatusOr<torch::jit::Module> ReadArchitecture(const std::string& path,
                                                    const std::string& file_name,
                                                    const Manifest& manifest) {
  absl::StatusOr<std::string> bytes = ReadWholeFile(path, kDefaultMaxArrayBytes);
  if (!bytes.ok()) return AsPrecondition(bytes.status());
  if (IsTorchScript(*bytes)) {
    return Unusable(
        file_name,
        absl::StrCat("is TorchScript, which brings its network along: remove the key "
                     "\"architecture\" (\"",
                     manifest.architecture.name, "\") from model.json, or put a state_dict here"));
  }
  absl::StatusOr<Weights> weights = ParseWeights(*bytes, file_name);
  if (!weights.ok()) return AsPrecondition(weights.status());
  *bytes = std::string();  // no longer needed, and as large as the weights
  return CatchTorch(file_name, [&]() -> absl::StatusOr<torch::jit::Module> {
    absl::StatusOr<torch::jit::Module> module = BuildModule(
        manifest.architecture, *std::move(weights), manifest.input_shape, manifest.n_outputs);
    if (!module.ok()) return Unusable(file_name, module.status().message());
    return module;
  });
}

}  // namespace

absl::StatusOr<torch::jit::Module> ReadCheckpoint(const std::string& path,
                                                  const std::string& file_name,
                                                  const Manifest& manifest) {
  if (!manifest.architecture.name.empty()) return ReadArchitecture(path, file_name, manifest);
  return LoadTorchScript(path, file_name);
}

absl::StatusOr<Network> LoadCheckpoint(const std::string& path, const std::string& file_name,
                                       const Manifest& manifest) {
  if (manifest.architecture.name.empty()) {
    absl::StatusOr<Network> network =
        Network::Load(path, file_name, manifest.input_shape, manifest.n_outputs);
    if (network.ok()) return network;
    if (absl::Status status = ExplainWeights(path, file_name); !status.ok()) return status;
    return network;
  }
  LAPLACED_ASSIGN_OR_RETURN(torch::jit::Module module, ReadArchitecture(path, file_name, manifest));
  absl::StatusOr<Network> network =
      Network::FromModule(std::move(module), manifest.input_shape, manifest.n_outputs);
  if (network.ok()) return network;
  return absl::Status(network.status().code(),
                      absl::StrCat(file_name, ": ", network.status().message()));
}

}  // namespace laplaced
