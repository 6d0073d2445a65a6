#include "server/registry/repository.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "formats/atomic_file.h"
#include "formats/file_error.h"
#include "formats/file_handle.h"
#include "formats/file_type.h"
#include "server/model/field_error.h"
#include "server/registry/checkpoint_file.h"
#include "server/registry/id_time.h"
#include "server/registry/posterior_artifact.h"

namespace laplaced {
namespace {

constexpr size_t kMaxNameLength = 128;
constexpr int64_t kMaxActiveBytes = 4096;
constexpr char kActiveFile[] = "ACTIVE";
constexpr char kPosteriorsFolder[] = "posteriors";

std::string Join(const std::string& folder, absl::string_view name) {
  return absl::StrCat(folder, "/", name);
}

absl::StatusOr<bool> IsFolder(const std::string& path) {
  const absl::StatusOr<std::filesystem::file_type> type = FileTypeOf(path);
  if (!type.ok()) return type.status();
  return *type == std::filesystem::file_type::directory;
}

// The names in `folder` that `wanted` takes and that are folders. One that cannot be looked at is
// an error: it must not seem to be gone.
absl::StatusOr<std::vector<std::string>> FoldersIn(
    const std::string& folder, const std::function<bool(const std::string&)>& wanted) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder);
  if (!names.ok()) return names.status();
  std::vector<std::string> folders;
  for (const std::string& name : *names) {
    if (!wanted(name)) continue;
    const absl::StatusOr<bool> is_folder = IsFolder(Join(folder, name));
    if (!is_folder.ok()) return is_folder.status();
    if (*is_folder) folders.push_back(name);
  }
  return folders;
}

// 0 if there is no such file.
int64_t FileBytes(const std::string& path) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

bool IsValidName(absl::string_view name) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

// The version that a folder name spells; 0 if it spells none.
int64_t VersionOf(const std::string& name) {
  int64_t version = 0;
  if (!absl::SimpleAtoi(name, &version) || version < 1) return 0;
  return absl::StrCat(version) == name ? version : 0;
}

// Sorted versions below the folder of one model.
absl::StatusOr<std::vector<int64_t>> Versions(const std::string& model_folder) {
  const absl::StatusOr<std::vector<std::string>> names =
      FoldersIn(model_folder, [](const std::string& name) { return VersionOf(name) > 0; });
  if (!names.ok()) return names.status();
  std::vector<int64_t> versions;
  for (const std::string& name : *names) versions.push_back(VersionOf(name));
  std::sort(versions.begin(), versions.end());
  return versions;
}

// Sorted names of the folders below `models` that can be those of models.
absl::StatusOr<std::vector<std::string>> ModelNames(const std::string& models) {
  return FoldersIn(models, [](const std::string& name) { return IsValidName(name); });
}

absl::Status CheckWritable(const std::string& folder) {
  if (access(folder.c_str(), R_OK | W_OK | X_OK) == 0) return absl::OkStatus();
  return FileError(errno, absl::StrCat("registry folder ", folder, " cannot be written"));
}

}  // namespace

absl::StatusOr<Repository> Repository::Open(const std::string& root) {
  Repository repository(root);
  for (const std::string& folder : {root, repository.ModelsFolder(), repository.DatasetsFolder(),
                                    repository.OperationsFolder()}) {
    if (absl::Status status = MakeFolders(folder); !status.ok()) return status;
    if (absl::Status status = CheckWritable(folder); !status.ok()) return status;
    if (absl::Status status = RemoveTemporaries(folder); !status.ok()) return status;
  }
  absl::StatusOr<std::vector<ModelVersion>> models = repository.ListModels();
  if (!models.ok()) return models.status();
  for (const ModelVersion& model : *models) {
    absl::Status staged = RemoveTemporaries(repository.FolderOf(model.name));
    if (!staged.ok()) return staged;
    const std::string folder = repository.FolderOf(model);
    if (absl::Status status = RemoveTemporaries(folder); !status.ok()) return status;
    absl::Status status = RemoveTemporaries(Join(folder, kPosteriorsFolder));
    if (!status.ok()) return status;
    const auto ids = ListFolder(Join(folder, kPosteriorsFolder));
    if (!ids.ok()) return ids.status();
    for (const std::string& id : *ids) KeepNewIdsAfter(id);
  }
  return repository;
}

absl::StatusOr<Repository> Repository::OpenReadOnly(const std::string& root) {
  Repository repository(root);
  if (access(root.c_str(), R_OK | X_OK) != 0) {
    return FileError(errno, absl::StrCat("registry folder ", root, " cannot be read"));
  }
  const absl::StatusOr<bool> is_folder = IsFolder(root);
  if (!is_folder.ok()) return is_folder.status();
  if (!*is_folder) {
    return absl::InvalidArgumentError(
        absl::StrCat("registry: expected a folder, got the file ", root));
  }
  return repository;
}

absl::StatusOr<Repository> Repository::OpenSingleModel(const std::string& root,
                                                       const std::string& name) {
  absl::Status status = ValidateName("name", name);
  if (!status.ok()) return status;
  absl::StatusOr<Repository> repository = OpenReadOnly(root);
  if (!repository.ok()) return repository.status();
  SingleModel& single = repository->single_;
  single.name = name;
  single.folder = root;
  single.is_version = !absl::IsNotFound(FindCheckpointFile(root).status());
  if (single.is_version) return repository;
  const absl::StatusOr<std::vector<int64_t>> versions = Versions(root);
  if (!versions.ok()) return versions.status();
  if (!versions->empty()) return repository;
  const absl::StatusOr<std::vector<std::string>> names = ModelNames(repository->ModelsFolder());
  if (!names.ok()) return names.status();
  if (std::find(names->begin(), names->end(), name) != names->end()) {
    single.folder = Join(repository->ModelsFolder(), name);
  } else if (names->size() == 1) {
    single.folder = Join(repository->ModelsFolder(), names->front());
  } else if (names->empty()) {
    return absl::NotFoundError(
        absl::StrCat("registry: expected the model '", name, "' in ", root,
                     ", as model.pt and model.json, as <version>/model.pt or as a registry with "
                     "models/<name>/<version>/model.pt; got none of them"));
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat("registry: expected one model, or one that is called '", name, "', in ", root,
                     "/models; got ", absl::StrJoin(*names, ", ")));
  }
  return repository;
}

absl::StatusOr<std::vector<ModelVersion>> Repository::ListModels() const {
  absl::StatusOr<std::vector<std::string>> names = std::vector<std::string>{single_.name};
  if (single_.name.empty()) names = ModelNames(ModelsFolder());
  if (!names.ok()) return names.status();
  std::vector<ModelVersion> models;
  for (const std::string& name : *names) {
    absl::StatusOr<std::vector<int64_t>> versions = VersionsOf(name);
    if (absl::IsNotFound(versions.status())) continue;
    if (!versions.ok()) return versions.status();
    for (int64_t version : *versions) models.push_back({name, version});
  }
  return models;
}

absl::StatusOr<int64_t> Repository::LatestVersion(const std::string& name) const {
  if (absl::Status status = ValidateName("name", name); !status.ok()) return status;
  absl::StatusOr<std::vector<int64_t>> versions = VersionsOf(name);
  if (!versions.ok()) return versions.status();
  if (versions->empty()) {
    return absl::NotFoundError(absl::StrCat("model '", name, "' has no version in the registry"));
  }
  return versions->back();
}

absl::StatusOr<std::string> Repository::ModelFolder(const ModelVersion& model) const {
  if (absl::Status status = ValidateName("name", model.name); !status.ok()) return status;
  if (model.version < 1) {
    return FieldError("version", absl::StrCat("expected a positive number, got ", model.version));
  }
  const std::string folder = FolderOf(model);
  const absl::StatusOr<bool> exists = folder.empty() ? false : IsFolder(folder);
  if (!exists.ok()) return exists.status();
  if (!*exists) {
    return absl::NotFoundError(absl::StrCat("there is no version ", model.version, " of model '",
                                            model.name, "' in the registry"));
  }
  return folder;
}

absl::StatusOr<std::string> Repository::PosteriorFolder(const ModelVersion& model,
                                                        const std::string& posterior_id) const {
  absl::Status status = ValidateName("posterior_id", posterior_id);
  if (!status.ok()) return status;
  absl::StatusOr<std::string> folder = ModelFolder(model);
  if (!folder.ok()) return folder.status();
  return Join(*folder, absl::StrCat(kPosteriorsFolder, "/", posterior_id));
}

absl::StatusOr<std::vector<std::string>> Repository::ListPosteriors(
    const ModelVersion& model) const {
  absl::StatusOr<std::string> folder = ModelFolder(model);
  if (!folder.ok()) return folder.status();
  const std::string posteriors = Join(*folder, kPosteriorsFolder);
  absl::StatusOr<std::vector<std::string>> names = ListFolder(posteriors);
  if (!names.ok()) return names.status();
  std::vector<std::string> ids;
  for (const std::string& name : *names) {
    if (!IsValidName(name)) continue;
    const auto record = FileTypeOf(Join(posteriors, absl::StrCat(name, "/", kPosteriorRecordFile)));
    // One that cannot be looked at must not seem to be gone.
    if (!record.ok() || *record == std::filesystem::file_type::regular) ids.push_back(name);
  }
  std::reverse(ids.begin(), ids.end());
  return ids;
}

absl::StatusOr<std::string> Repository::ActivePosterior(const ModelVersion& model) const {
  absl::StatusOr<std::string> folder = ModelFolder(model);
  if (!folder.ok()) return folder.status();
  const std::string path = Join(*folder, kActiveFile);
  absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxActiveBytes);
  if (absl::IsNotFound(text.status())) return std::string();
  if (absl::IsInvalidArgument(text.status())) return absl::DataLossError(text.status().message());
  if (!text.ok()) return text.status();
  const absl::string_view id = absl::StripTrailingAsciiWhitespace(*text);
  if (!IsValidName(id)) {
    return absl::DataLossError(absl::StrCat(path, " does not hold the id of a posterior"));
  }
  return std::string(id);
}

absl::Status Repository::SetActivePosterior(const ModelVersion& model,
                                            const std::string& posterior_id) const {
  absl::Status status = ValidateName("posterior_id", posterior_id);
  if (!status.ok()) return status;
  absl::StatusOr<std::string> folder = ModelFolder(model);
  if (!folder.ok()) return folder.status();
  return ReplaceFile(Join(*folder, kActiveFile), {posterior_id, "\n"});
}

absl::Status Repository::RemovePosterior(const ModelVersion& model,
                                         const std::string& posterior_id) const {
  absl::StatusOr<std::string> folder = PosteriorFolder(model, posterior_id);
  if (!folder.ok()) return folder.status();
  const absl::StatusOr<bool> exists = IsFolder(*folder);
  if (!exists.ok()) return exists.status();
  if (!*exists) {
    return absl::NotFoundError(absl::StrCat("model ", model.name, "/", model.version,
                                            " has no posterior '", posterior_id, "'"));
  }
  const std::string aside = TemporaryPath(ParentFolder(*folder));
  if (absl::Status status = RenameFolder(*folder, aside); !status.ok()) return status;
  // The posterior is gone; a file that cannot be removed now is left to the next Open.
  RemoveAll(aside).IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Repository::BytesOf(const ModelVersion& model,
                                            const std::string& posterior_id) const {
  absl::StatusOr<std::string> folder = ModelFolder(model);
  if (!folder.ok()) return folder.status();
  const absl::StatusOr<std::string> checkpoint = FindCheckpointFile(*folder);
  int64_t bytes = checkpoint.ok() ? FileBytes(Join(*folder, *checkpoint)) : 0;
  if (posterior_id.empty()) return bytes;
  absl::StatusOr<std::string> posterior = PosteriorFolder(model, posterior_id);
  if (!posterior.ok()) return posterior.status();
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(*posterior, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    bytes += FileBytes(entry->path().string());
  }
  return bytes;
}

absl::StatusOr<std::string> Repository::StagingFolder(const std::string& name) const {
  absl::StatusOr<int64_t> latest = LatestVersion(name);
  if (!latest.ok()) return latest.status();
  return TemporaryPath(FolderOf(name));
}

absl::StatusOr<int64_t> Repository::AddVersion(const std::string& name,
                                               const std::string& staged) const {
  if (single_.is_version) {
    return absl::FailedPreconditionError(
        "registry: a folder of one model version takes no further version; use a registry");
  }
  for (;;) {
    absl::StatusOr<int64_t> latest = LatestVersion(name);
    if (!latest.ok()) return latest.status();
    const int64_t version = *latest + 1;
    absl::Status status = RenameFolder(staged, Join(FolderOf(name), absl::StrCat(version)));
    if (status.ok()) return version;
    // Somebody put a folder there in between: the next number, then.
    if (!absl::IsAlreadyExists(status)) return status;
    absl::StatusOr<int64_t> now = LatestVersion(name);
    if (!now.ok()) return now.status();
    if (*now == *latest) return status;  // a file has the name, which is no version
  }
}

std::string Repository::FolderOf(const std::string& name) const {
  if (single_.name.empty()) return Join(ModelsFolder(), name);
  return name == single_.name ? single_.folder : "";
}

std::string Repository::FolderOf(const ModelVersion& model) const {
  const std::string folder = FolderOf(model.name);
  if (folder.empty()) return "";
  if (single_.is_version) return model.version == 1 ? folder : "";
  return Join(folder, absl::StrCat(model.version));
}

absl::StatusOr<std::vector<int64_t>> Repository::VersionsOf(const std::string& name) const {
  const std::string folder = FolderOf(name);
  const absl::StatusOr<bool> exists = folder.empty() ? false : IsFolder(folder);
  if (!exists.ok()) return exists.status();
  if (!*exists) {
    return absl::NotFoundError(absl::StrCat("there is no model '", name, "' in the registry"));
  }
  if (single_.is_version) return std::vector<int64_t>{1};
  return Versions(folder);
}

std::string Repository::ModelsFolder() const { return Join(root_, "models"); }
std::string Repository::DatasetsFolder() const { return Join(root_, "datasets"); }
std::string Repository::OperationsFolder() const { return Join(root_, "operations"); }

std::string NewId(const std::string& prefix) {
  const std::string random = absl::StrCat(absl::Hex(RandomBits(), absl::kZeroPad16));
  return absl::StrCat(prefix, "-", IdTimeText(NextIdTime()), "-", random.substr(0, 6));
}

absl::Status ValidateName(const std::string& field, const std::string& name) {
  if (IsValidName(name)) return absl::OkStatus();
  const std::string shown = absl::CHexEscape(name.substr(0, 40));
  return FieldError(
      field, absl::StrCat("expected 1 to ", kMaxNameLength,
                          " letters, digits, '.', '_' and '-', not starting with '.', got '", shown,
                          name.size() > 40 ? absl::StrCat("...' of length ", name.size()) : "'"));
}

}  // namespace laplaced
