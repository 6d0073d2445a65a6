// The registry folder: where everything is, under which names, and which posterior is active.
//
//   <root>/models/<name>/<version>/{model.pt, model.json}  checkpoint_file.h: other names
//   <root>/models/<name>/<version>/posteriors/<id>/...     see posterior_artifact.h
//   <root>/models/<name>/<version>/ACTIVE                  id of the active posterior
//   <root>/datasets/<id>/...                               see dataset_store.h
//   <root>/operations/<id>.json                            see operation_store.h
//
// Names come from clients, so each is validated before it becomes part of a path: 1 to 128
// characters of letters, digits, '.', '_' and '-', not starting with '.'; anything else is a
// FieldError, without a path in it. Symbolic links inside the registry are followed: whoever can
// write there can place checkpoints anyway. One process at a time may write to a registry, the one
// that holds its RegistryLock: Open removes the temporary files of the one before. Any number may
// read it. A folder of a single model, as other systems hand it over, can be read as if it were a
// registry (OpenSingleModel). Thread-safe: holds only names; all state is on disk.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace laplaced {

struct ModelVersion {
  std::string name;
  int64_t version = 0;
};

class Repository {
 public:
  // Creates the folders that are missing and removes half-written leftovers (temporary files and
  // folders, see formats/atomic_file.h) of a killed process.
  // Error: the root cannot be created or written (message names path and reason).
  static absl::StatusOr<Repository> Open(const std::string& root);

  // For a process that only reads, next to one that may write: creates, removes and checks nothing
  // but that the root is a folder. Folders that are missing count as empty. Errors: NOT_FOUND,
  // INVALID_ARGUMENT (not a folder), FAILED_PRECONDITION (no right to it) and the like.
  static absl::StatusOr<Repository> OpenReadOnly(const std::string& root);

  // To read one model, which answers to `name` whatever its folder is called. `root` holds
  //   model.pt                     the folder of its version 1, or
  //   1/model.pt, 2/model.pt, ...  its versions, or
  //   models/...                   a registry: its model of that name, else the only one it has.
  // Errors: those of OpenReadOnly; NOT_FOUND (no model), FAILED_PRECONDITION (several models, none
  // of that name).
  static absl::StatusOr<Repository> OpenSingleModel(const std::string& root,
                                                    const std::string& name);

  const std::string& root() const { return root_; }

  // Every version folder of every model, sorted by name then version. Folders whose name is not a
  // valid name, or not a positive number without leading zeros, are skipped.
  absl::StatusOr<std::vector<ModelVersion>> ListModels() const;

  // The highest version of a model. Errors: INVALID_ARGUMENT (name), NOT_FOUND.
  absl::StatusOr<int64_t> LatestVersion(const std::string& name) const;

  // Folder of a model version, which must exist. Errors: INVALID_ARGUMENT (name, version below 1),
  // NOT_FOUND.
  absl::StatusOr<std::string> ModelFolder(const ModelVersion& model) const;

  // Folder that a posterior has or would have. Errors: INVALID_ARGUMENT (id), NOT_FOUND (model).
  absl::StatusOr<std::string> PosteriorFolder(const ModelVersion& model,
                                              const std::string& posterior_id) const;

  // Ids of all complete posteriors, newest first (ids sort by creation time).
  absl::StatusOr<std::vector<std::string>> ListPosteriors(const ModelVersion& model) const;

  // Empty if none is active. The named folder may be missing or damaged; the caller finds out on
  // reading. DATA_LOSS if ACTIVE holds something that is not a name.
  absl::StatusOr<std::string> ActivePosterior(const ModelVersion& model) const;

  // Durable when it returns (write, fsync, rename, fsync folder). Does not look whether the
  // posterior exists.
  absl::Status SetActivePosterior(const ModelVersion& model, const std::string& posterior_id) const;

  // At once or not at all: the folder gets a temporary name, which is durable when this returns OK,
  // and is then emptied; what a killed process leaves of it, Open removes. Takes damaged posteriors
  // too, and does not look which one is active. Errors: INVALID_ARGUMENT (id), NOT_FOUND.
  absl::Status RemovePosterior(const ModelVersion& model, const std::string& posterior_id) const;

  // Bytes of the checkpoint and, unless the id is empty, of the posterior's files, as they are on
  // disk; what is missing counts as nothing. Errors: INVALID_ARGUMENT, NOT_FOUND (model).
  absl::StatusOr<int64_t> BytesOf(const ModelVersion& model, const std::string& posterior_id) const;

  // A fresh path beside the versions of a model, for a folder that is to become one of them;
  // nothing is created, and what a killed process leaves there, Open removes. Errors:
  // INVALID_ARGUMENT (name), NOT_FOUND.
  absl::StatusOr<std::string> StagingFolder(const std::string& name) const;

  // Makes the folder at such a path the highest version of the model, at once or not at all, and
  // returns its number. The caller has synced the content. Errors: INVALID_ARGUMENT (name),
  // NOT_FOUND, FAILED_PRECONDITION (a single model, which has no versions to add to).
  absl::StatusOr<int64_t> AddVersion(const std::string& name, const std::string& staged) const;

  std::string DatasetsFolder() const;
  std::string OperationsFolder() const;

 private:
  // Of OpenSingleModel.
  struct SingleModel {
    std::string name;  // empty: the folders are those of a registry
    std::string folder;
    bool is_version = false;  // whether `folder` is that of version 1, or of all versions
  };

  explicit Repository(std::string root) : root_(std::move(root)) {}
  std::string ModelsFolder() const;
  // Whether they exist or not. REQUIRES: a valid name.
  std::string FolderOf(const std::string& name) const;
  std::string FolderOf(const ModelVersion& model) const;
  // Sorted. NOT_FOUND if there is no such model.
  absl::StatusOr<std::vector<int64_t>> VersionsOf(const std::string& name) const;

  std::string root_;
  SingleModel single_;
};

// "p-20260102t030405.678z-1a2b3c": sorts by time, valid as a name. `prefix` is "p" or "op". Unique
// and in order within a process, also when the clock stands still or is set back: its time is after
// that of the one before and of those in the registry (id_time.h). The digits keep processes apart.
std::string NewId(const std::string& prefix);

// FieldError unless `name` follows the rule above; `field` names the request field in the message.
absl::Status ValidateName(const std::string& field, const std::string& name);

}  // namespace laplaced
