#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"
#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/model_host.h"
#include "server/serving/torch_served_model.h"

namespace laplaced {
namespace {

using Key = std::pair<std::string, int64_t>;

class TorchModelHost : public ModelHost {
 public:
  TorchModelHost(const Repository& repository, const ModelHostOptions& options)
      : repository_(repository), options_(options) {}

  absl::StatusOr<std::vector<ModelInfo>> List() const override {
    std::map<Key, std::string> gone;  // failures of versions that are no longer there
    {
      std::lock_guard<std::mutex> lock(mutex_);
      gone = failures_;
    }
    LAPLACED_ASSIGN_OR_RETURN(const std::vector<ModelVersion> found, repository_.ListModels());
    std::lock_guard<std::mutex> lock(mutex_);
    std::map<Key, ModelInfo> infos;
    for (const ModelVersion& version : found) {
      const Key key{version.name, version.version};
      infos[key] = Available(version);
      gone.erase(key);
    }
    for (const auto& [key, unused] : gone) failures_.erase(key);
    return Merged(std::move(infos));
  }

  std::vector<ModelInfo> Tried() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::map<Key, ModelInfo> infos;
    for (const auto& [key, unused] : failures_) infos[key] = Available({key.first, key.second});
    return Merged(std::move(infos));
  }

  absl::StatusOr<ModelInfo> Get(const std::string& name, int64_t version) const override {
    LAPLACED_RETURN_IF_ERROR(ValidateName("name", name));
    if (auto pinned = Pin(name, version); pinned.ok()) return (*pinned)->info();
    LAPLACED_ASSIGN_OR_RETURN(const ModelVersion found, Resolve(name, version));
    LAPLACED_RETURN_IF_ERROR(repository_.ModelFolder(found).status());
    std::lock_guard<std::mutex> lock(mutex_);
    return Available(found);
  }

  absl::StatusOr<ModelInfo> Load(const std::string& name, int64_t version) override {
    LAPLACED_RETURN_IF_ERROR(ValidateName("name", name));
    LAPLACED_ASSIGN_OR_RETURN(const ModelVersion found, Resolve(name, version));
    const Key key{found.name, found.version};
    std::lock_guard<std::mutex> changing(changing_);
    {
      // Versions do not change: what is loaded stays as it is, whatever has become of its files.
      std::lock_guard<std::mutex> lock(mutex_);
      if (const auto it = loaded_.find(key); it != loaded_.end()) return it->second->info();
    }
    // There may be any number of such names, and it may come later: no failure of a model.
    LAPLACED_RETURN_IF_ERROR(repository_.ModelFolder(found).status());
    const auto loaded = LoadVersion(found);
    if (!loaded.ok()) {
      std::lock_guard<std::mutex> lock(mutex_);
      failures_[key] = std::string(loaded.status().message());
      return loaded.status();
    }
    Put(key, *loaded);
    return (*loaded)->info();
  }

  void ForgetFailure(const std::string& name, int64_t version) override {
    std::lock_guard<std::mutex> lock(mutex_);
    failures_.erase({name, version});
  }

  absl::Status Unload(const std::string& name, int64_t version) override {
    LAPLACED_RETURN_IF_ERROR(ValidateName("name", name));
    std::lock_guard<std::mutex> changing(changing_);
    // To give back gigabytes takes a while, so not while others wait for the lock.
    std::vector<std::shared_ptr<const TorchServedModel>> unloaded;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (auto it = loaded_.begin(); it != loaded_.end();) {
        if (it->first.first != name || (version != 0 && it->first.second != version)) {
          ++it;
          continue;
        }
        unloaded.push_back(std::move(it->second));
        it = loaded_.erase(it);
      }
    }
    if (unloaded.empty()) return NotLoaded(name, version);
    TellOfChange(name);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const ServedModel>> Pin(const std::string& name,
                                                         int64_t version) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    LAPLACED_ASSIGN_OR_RETURN(auto model, FindLoaded(name, version));
    return std::shared_ptr<const ServedModel>(std::move(model));
  }

  absl::StatusOr<std::shared_ptr<const ServedModel>> PinToAnswer(const std::string& name,
                                                                 int64_t version) const override {
    if (version == 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      auto it = loaded_.upper_bound({name, INT64_MAX});
      while (it != loaded_.begin() && std::prev(it)->first.first == name) {
        --it;
        if (!it->second->posterior_id().empty()) return {it->second};
      }
    }
    return Pin(name, version);
  }

  std::vector<int64_t> LoadedVersions(const std::string& name) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<int64_t> versions;
    for (const auto& [key, unused] : loaded_) {
      if (key.first == name) versions.push_back(key.second);
    }
    return versions;
  }

  absl::Status ActivatePosterior(const std::string& name, int64_t version,
                                 const std::string& posterior_id,
                                 const std::string& instead_of) override {
    std::lock_guard<std::mutex> changing(changing_);
    std::shared_ptr<const TorchServedModel> current;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      LAPLACED_ASSIGN_OR_RETURN(current, FindLoaded(name, version));
    }
    const ModelVersion found{current->info().name, current->info().version};
    if (!instead_of.empty()) {
      LAPLACED_ASSIGN_OR_RETURN(const std::string active, repository_.ActivePosterior(found));
      if (active != instead_of) {
        return absl::AbortedError(absl::StrCat("it was to take the place of ", instead_of, ", but ",
                                               active.empty() ? "none" : active,
                                               " has become the active posterior meanwhile"));
      }
    }
    LAPLACED_ASSIGN_OR_RETURN(auto next, WithPosterior(*current, posterior_id));
    LAPLACED_RETURN_IF_ERROR(repository_.SetActivePosterior(found, posterior_id));
    Put({found.name, found.version}, std::move(next));
    return absl::OkStatus();
  }

  absl::Status DeletePosterior(const std::string& name, int64_t version,
                               const std::string& posterior_id) override {
    // Nothing is activated meanwhile.
    std::lock_guard<std::mutex> changing(changing_);
    LAPLACED_ASSIGN_OR_RETURN(const ModelInfo info, Get(name, version));
    const ModelVersion found{info.name, info.version};
    LAPLACED_ASSIGN_OR_RETURN(const std::string active, repository_.ActivePosterior(found));
    if (posterior_id == active || posterior_id == info.active_posterior_id) {
      return absl::FailedPreconditionError(absl::StrCat(
          "posterior ", posterior_id, " is the active one of model ", found.name, "/",
          found.version,
          ": activate another one first (ActivatePosterior, `laplace posterior activate`)"));
    }
    return repository_.RemovePosterior(found, posterior_id);
  }

  absl::StatusOr<bool> RefreshPosterior(const std::string& name, int64_t version) override {
    std::lock_guard<std::mutex> changing(changing_);
    std::shared_ptr<const TorchServedModel> current;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      LAPLACED_ASSIGN_OR_RETURN(current, FindLoaded(name, version));
    }
    const ModelVersion found{current->info().name, current->info().version};
    LAPLACED_ASSIGN_OR_RETURN(const std::string active, repository_.ActivePosterior(found));
    if (active.empty() || active == current->posterior_id()) return false;
    LAPLACED_ASSIGN_OR_RETURN(auto next, WithPosterior(*current, active));
    Put({found.name, found.version}, std::move(next));
    return true;
  }

 private:
  // Serves a version from now on. REQUIRES: changing_ held.
  void Put(const Key& key, std::shared_ptr<const TorchServedModel> model) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      failures_.erase(key);
      loaded_[key] = std::move(model);
    }
    TellOfChange(key.first);
  }

  void TellOfChange(const std::string& name) const {
    if (options_.on_change) options_.on_change(name);
  }

  // Whether a version may take so many bytes beside the others.
  absl::Status CheckMemory(const ModelVersion& version, int64_t bytes) const {
    const int64_t limit = options_.max_model_bytes;
    if (limit == 0) return absl::OkStatus();
    int64_t taken = 0;
    std::string by;
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [key, model] : loaded_) {
      if (key == Key{version.name, version.version}) continue;
      taken += model->info().memory_bytes;
      absl::StrAppend(&by, by.empty() ? "" : ", ", key.first, "/", key.second, " ",
                      model->info().memory_bytes);
    }
    if (bytes <= limit - taken) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("model ", version.name, "/", version.version, " and its posterior have ",
                     bytes, " bytes, and of the server's limit of ", limit, " (max_model_bytes) ",
                     taken, " are taken", by.empty() ? "" : absl::StrCat(" (", by, ")"),
                     ": unload a model (`laplace models unload`) or raise the limit"));
  }

  absl::StatusOr<std::shared_ptr<const TorchServedModel>> WithPosterior(
      const TorchServedModel& current, const std::string& posterior_id) const {
    const ModelVersion version{current.info().name, current.info().version};
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                              repository_.PosteriorFolder(version, posterior_id));
    LAPLACED_ASSIGN_OR_RETURN(const int64_t bytes, repository_.BytesOf(version, posterior_id));
    LAPLACED_RETURN_IF_ERROR(CheckMemory(version, bytes));
    LAPLACED_ASSIGN_OR_RETURN(const auto posterior, LoadPosterior(folder, *current.model()));
    return std::make_shared<const TorchServedModel>(current.model(), posterior, options_, bytes);
  }

  absl::StatusOr<ModelVersion> Resolve(const std::string& name, int64_t version) const {
    if (version > 0) return ModelVersion{name, version};
    LAPLACED_ASSIGN_OR_RETURN(const int64_t latest, repository_.LatestVersion(name));
    return ModelVersion{name, latest};
  }

  absl::StatusOr<std::shared_ptr<const TorchServedModel>> LoadVersion(
      const ModelVersion& version) const {
    const std::string active = repository_.ActivePosterior(version).value_or("");
    LAPLACED_ASSIGN_OR_RETURN(int64_t bytes, repository_.BytesOf(version, active));
    LAPLACED_RETURN_IF_ERROR(CheckMemory(version, bytes));
    LAPLACED_ASSIGN_OR_RETURN(const auto model, LoadModel(repository_, version));
    // A posterior that cannot be used must not keep the model from loading: fitting or activating
    // another one is the repair.
    auto posterior = LoadActivePosterior(version, *model);
    if (!posterior.ok()) {
      LAPLACED_ASSIGN_OR_RETURN(bytes, repository_.BytesOf(version, ""));
    }
    auto served = std::make_shared<const TorchServedModel>(
        model, posterior.ok() ? *posterior : nullptr, options_, bytes,
        posterior.ok()
            ? ""
            : absl::StrCat("the active posterior cannot be used: ", posterior.status().message()));
    LAPLACED_RETURN_IF_ERROR(served->WarmUp());
    return served;
  }

  // Null if none is active.
  absl::StatusOr<std::shared_ptr<const LoadedPosterior>> LoadActivePosterior(
      const ModelVersion& version, const LoadedModel& model) const {
    LAPLACED_ASSIGN_OR_RETURN(const std::string active, repository_.ActivePosterior(version));
    if (active.empty()) return std::shared_ptr<const LoadedPosterior>();
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                              repository_.PosteriorFolder(version, active));
    return LoadPosterior(folder, model);
  }

  absl::StatusOr<std::shared_ptr<const TorchServedModel>> FindLoaded(const std::string& name,
                                                                     int64_t version) const {
    // The highest version comes last among those of one name.
    const auto end = loaded_.upper_bound({name, version == 0 ? INT64_MAX : version});
    if (end != loaded_.begin()) {
      const auto it = std::prev(end);
      if (it->first.first == name && (version == 0 || it->first.second == version))
        return it->second;
    }
    return NotLoaded(name, version);
  }

  static absl::Status NotLoaded(const std::string& name, int64_t version) {
    return absl::NotFoundError(absl::StrCat(
        "model ", name, version > 0 ? absl::StrCat("/", version) : "",
        " is not loaded: load it first (LoadModel, `laplace models load ", name, "`)"));
  }

  // With what is loaded. REQUIRES: mutex_ held.
  std::vector<ModelInfo> Merged(std::map<Key, ModelInfo> infos) const {
    for (const auto& [key, model] : loaded_) infos[key] = model->info();
    std::vector<ModelInfo> list;
    for (auto& [unused, info] : infos) list.push_back(std::move(info));
    return list;
  }

  ModelInfo Available(const ModelVersion& version) const {
    ModelInfo info;
    info.name = version.name;
    info.version = version.version;
    if (const auto failure = failures_.find({version.name, version.version});
        failure != failures_.end()) {
      info.state = ModelState::kFailed;
      info.state_message = failure->second;
    }
    return info;
  }

  const Repository& repository_;
  const ModelHostOptions options_;
  std::mutex changing_;  // held through a whole load, unload or activation, so that they happen one
                         // after the other
  mutable std::mutex mutex_;  // guards the maps; never held during slow work
  std::map<Key, std::shared_ptr<const TorchServedModel>> loaded_;
  mutable std::map<Key, std::string> failures_;  // a look at the repository drops what has gone
};

}  // namespace

std::unique_ptr<ModelHost> MakeModelHost(const Repository& repository,
                                         const ModelHostOptions& options) {
  return std::make_unique<TorchModelHost>(repository, options);
}

}  // namespace laplaced
