#include "server/serving/loaded_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/file_handle.h"
#include "formats/sha256.h"
#include "server/model/checkpoint.h"
#include "server/model/parameter_selection.h"
#include "server/model/torch_status.h"
#include "server/registry/checkpoint_file.h"

namespace laplaced {
namespace {

constexpr char kManifestFile[] = "model.json";

absl::StatusOr<std::string> ReadManifestText(const std::string& path) {
  constexpr int64_t kLimit = 1 << 20;
  absl::StatusOr<std::string> text = ReadWholeFile(path, kLimit);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(kManifestFile, " is missing in the model's folder"));
  }
  if (absl::IsInvalidArgument(text.status())) {
    return absl::FailedPreconditionError(text.status().message());
  }
  return text;
}

// A softmax inside the network would be applied twice, and every probability would be too even.
absl::Status CheckLogits(const Network& network, const std::string& file_name) {
  const at::Tensor f = network.Forward(network.TrialInputs(8)).to(at::kDouble);
  const bool sums_to_one = (f.sum(1) - 1).abs().max().item<double>() < 1e-4;
  if (f.min().item<double>() < 0 || !sums_to_one) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(file_name,
                   ": the outputs look like probabilities (not negative, sum 1); a categorical "
                   "likelihood needs logits: export the "
                   "network without its final softmax"));
}

LikelihoodKind ToKind(Likelihood::Kind kind) {
  switch (kind) {
    case Likelihood::Kind::kCategorical:
      return LikelihoodKind::kCategorical;
    case Likelihood::Kind::kBernoulli:
      return LikelihoodKind::kBernoulli;
    case Likelihood::Kind::kGaussian:
      return LikelihoodKind::kGaussian;
  }
  return LikelihoodKind::kCategorical;
}

// What a user should know of a model that is ready all the same; empty if nothing.
std::string Remarks(const Network& network) {
  const std::vector<std::string>& unused = network.unused_parameters();
  if (unused.empty()) return "";
  constexpr size_t kShown = 5;
  const std::vector<std::string> shown(unused.begin(),
                                       unused.begin() + std::min(kShown, unused.size()));
  return absl::StrCat("the outputs do not depend on ", unused.size(),
                      " of the registered parameters, which are left out: ",
                      absl::StrJoin(shown, ", "), unused.size() > kShown ? ", ..." : "");
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const Repository& repository,
                                                             const ModelVersion& version) {
  LAPLACED_ASSIGN_OR_RETURN(const std::string folder, repository.ModelFolder(version));
  LAPLACED_ASSIGN_OR_RETURN(const std::string text,
                            ReadManifestText(absl::StrCat(folder, "/", kManifestFile)));
  LAPLACED_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(kManifestFile, text));
  LAPLACED_ASSIGN_OR_RETURN(const std::string checkpoint, FindCheckpointFile(folder));
  const std::string path = absl::StrCat(folder, "/", checkpoint);
  LAPLACED_ASSIGN_OR_RETURN(const std::string sha256, Sha256File(path));
  LAPLACED_ASSIGN_OR_RETURN(Network network, LoadCheckpoint(path, checkpoint, manifest));
  const DType dtype = network.dtype() == at::kDouble ? DType::kFloat64 : DType::kFloat32;
  if (!manifest.input_dtype.empty() && manifest.input_dtype != DTypeName(dtype)) {
    return absl::FailedPreconditionError(
        absl::StrCat(kManifestFile, ": input.dtype: expected ", DTypeName(dtype),
                     " (the checkpoint's parameters), got ", manifest.input_dtype));
  }
  return CatchTorch(checkpoint, [&]() -> absl::StatusOr<std::shared_ptr<const LoadedModel>> {
    if (manifest.likelihood.kind == Likelihood::Kind::kCategorical) {
      LAPLACED_RETURN_IF_ERROR(CheckLogits(network, checkpoint));
    }
    CapturePlan capture = FindCapturedParameters(network);
    ModelInfo info;
    info.name = version.name;
    info.version = version.version;
    info.state = ModelState::kReady;
    info.state_message = Remarks(network);
    info.likelihood = ToKind(manifest.likelihood.kind);
    info.input_shape = manifest.input_shape;
    info.input_dtype = dtype;
    info.accepts_uint8 = manifest.accepts_uint8;
    info.n_outputs = manifest.n_outputs;
    info.n_parameters = network.n_parameters();
    info.class_names = manifest.class_names;
    info.n_data = manifest.n_data;
    info.weight_decay = manifest.weight_decay;
    info.bias_weight_decay = manifest.bias_weight_decay;
    info.sigma_noise =
        info.likelihood == LikelihoodKind::kGaussian ? manifest.likelihood.sigma_noise : 0;
    info.checkpoint_sha256 = sha256;
    info.description = manifest.description;
    for (size_t i = 0; i < capture.captured.size(); ++i) {
      (capture.captured[i] ? info.captured_parameters : info.generic_parameters)
          .push_back(network.parameters()[i].name);
    }
    info.last_layer_parameters = LastLayerParameters(network);
    return std::make_shared<const LoadedModel>(
        LoadedModel{std::move(manifest), std::move(network), std::move(capture), std::move(info)});
  });
}

}  // namespace laplaced
