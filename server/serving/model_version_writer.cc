#include "server/serving/model_version_writer.h"

#include <torch/script.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/atomic_file.h"
#include "formats/file_handle.h"
#include "server/model/checkpoint.h"
#include "server/model/parameter_values.h"
#include "server/model/torch_status.h"
#include "server/registry/checkpoint_file.h"

namespace laplaced {
namespace {

constexpr char kCheckpointFile[] = "model.pt";
constexpr char kManifestFile[] = "model.json";
constexpr int64_t kMostManifestBytes = 1 << 20;

// A folder that is removed unless it was given away.
class Staging {
 public:
  explicit Staging(std::string path) : path_(std::move(path)) {}
  ~Staging() { RemoveAll(path_).IgnoreError(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const char* name) const { return absl::StrCat(path_, "/", name); }

 private:
  const std::string path_;
};

// Other keys stay as they are, known or not, in their order.
absl::StatusOr<std::string> ManifestText(const std::string& path) {
  LAPLACED_ASSIGN_OR_RETURN(std::string text, ReadWholeFile(path, kMostManifestBytes));
  nlohmann::ordered_json json =
      nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(kManifestFile, ": expected a JSON object"));
  }
  if (json.erase("architecture") == 0) return text;
  return json.dump(2) + "\n";
}

absl::Status CheckWritten(const std::string& folder, const LoadedModel& model,
                          const Network& expected) {
  LAPLACED_ASSIGN_OR_RETURN(const Repository written,
                            Repository::OpenSingleModel(folder, model.info.name));
  LAPLACED_ASSIGN_OR_RETURN(const auto loaded, LoadModel(written, {model.info.name, 1}));
  const at::Tensor x = expected.TrialInputs(4);
  if (!at::equal(loaded->network.FlatParameters(), expected.FlatParameters()) ||
      !at::allclose(loaded->network.Forward(x), expected.Forward(x), 1e-4, 1e-5)) {
    return absl::FailedPreconditionError(
        "the new version was written, but read back it is another network; it was removed");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> WriteModelVersion(const Repository& repository, const LoadedModel& model,
                                          const at::Tensor& theta, const std::string& origin) {
  return CatchTorch("writing the new version", [&]() -> absl::StatusOr<int64_t> {
    const ModelInfo& info = model.info;
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                              repository.ModelFolder({info.name, info.version}));
    LAPLACED_ASSIGN_OR_RETURN(const std::string manifest,
                              ManifestText(absl::StrCat(folder, "/", kManifestFile)));
    LAPLACED_ASSIGN_OR_RETURN(const std::string checkpoint, FindCheckpointFile(folder));
    // Of its own: a Network does not give its module away.
    LAPLACED_ASSIGN_OR_RETURN(
        torch::jit::Module module,
        ReadCheckpoint(absl::StrCat(folder, "/", checkpoint), checkpoint, model.manifest));
    LAPLACED_ASSIGN_OR_RETURN(
        const Network changed,
        Network::FromModule(module, model.manifest.input_shape, model.manifest.n_outputs));
    if (!at::equal(changed.FlatParameters(), model.network.FlatParameters())) {
      return absl::FailedPreconditionError(
          absl::StrCat(checkpoint, " has changed since the model was loaded: load it again"));
    }
    SetParameters(changed, theta);
    // The same parameters in the network that the step was computed with.
    LAPLACED_ASSIGN_OR_RETURN(const Network expected, WithParameters(model.network, theta));

    LAPLACED_ASSIGN_OR_RETURN(std::string path, repository.StagingFolder(info.name));
    const Staging staging(std::move(path));
    LAPLACED_RETURN_IF_ERROR(MakeFolders(staging.path()));
    // In memory first: LibTorch's own writer does not notice that a disk is full.
    std::ostringstream archive;
    module.save(archive);
    LAPLACED_RETURN_IF_ERROR(WriteNewFile(staging.File(kCheckpointFile), {archive.str()}));
    LAPLACED_RETURN_IF_ERROR(WriteNewFile(staging.File(kManifestFile), {manifest}));
    LAPLACED_RETURN_IF_ERROR(WriteNewFile(staging.File(kOriginFile), {origin}));
    LAPLACED_RETURN_IF_ERROR(SyncFolder(staging.path()));
    LAPLACED_RETURN_IF_ERROR(CheckWritten(staging.path(), model, expected));
    return repository.AddVersion(info.name, staging.path());
  });
}

}  // namespace laplaced
