#include "server/app/model_keeper.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/observe/log.h"

namespace laplaced {
namespace {

constexpr int64_t kLongestPause = 100;  // looks

std::string Title(const std::string& name, int64_t version) {
  return absl::StrCat(name, "/", version);
}

}  // namespace

ModelKeeper::ModelKeeper(ModelSelection selection, const Repository& repository, ModelHost& host)
    : selection_(std::move(selection)), repository_(repository), host_(host) {}

ModelKeeper::~ModelKeeper() { Stop(); }

absl::Status ModelKeeper::LoadSelected() {
  const absl::StatusOr<std::vector<ModelVersion>> present = repository_.ListModels();
  if (!present.ok()) return present.status();
  const absl::Status valid = CheckPresent(selection_, *present);
  if (!valid.ok()) return valid;
  Look();
  return absl::OkStatus();
}

void ModelKeeper::Look() {
  std::lock_guard<std::mutex> looking(looking_);
  ++look_;
  const absl::StatusOr<std::vector<ModelVersion>> present = repository_.ListModels();
  if (!present.ok()) {
    const std::string why(present.status().message());
    if (why != unreadable_) LogError("the registry cannot be read", {{"error", why}});
    unreadable_ = why;
    return;
  }
  unreadable_.clear();
  FollowPosteriors();
  for (const auto& [name, wanted] : FindWanted(selection_, *present)) {
    if (stop_) return;
    Keep(name, wanted);
  }
}

void ModelKeeper::Keep(const std::string& name, const WantedModel& wanted) {
  std::set<int64_t>& kept = kept_[name];
  bool complete = true;
  for (const int64_t version : wanted.versions) {
    if (stop_) return;
    if (kept.count(version) == 0) complete = Load({name, version}) && complete;
  }
  if (kept.empty()) {
    auto substitute = wanted.substitutes.rbegin();
    while (substitute != wanted.substitutes.rend() && !stop_ && !Load({name, *substitute})) {
      ++substitute;
    }
  }
  if (!complete) return;
  const bool all_answer =
      std::all_of(wanted.versions.begin(), wanted.versions.end(), [&](int64_t version) {
        return Answers({name, version});
      });
  for (auto it = kept.begin(); it != kept.end();) {
    if (wanted.versions.count(*it) > 0 || (!all_answer && Answers({name, *it}))) {
      ++it;
      continue;
    }
    // It may be unloaded already, by somebody else.
    if (host_.Unload(name, *it).ok()) {
      LogInfo(absl::StrCat("unloaded model ", Title(name, *it), ", which is no longer selected"));
    }
    it = kept.erase(it);
  }
  ForgetFailures(name, wanted);
}

// Versions do not change, so those that a newer one has superseded are not worth an alert.
void ModelKeeper::ForgetFailures(const std::string& name, const WantedModel& wanted) {
  for (const ModelInfo& model : host_.Tried()) {
    if (model.name != name || model.state != ModelState::kFailed) continue;
    if (wanted.versions.count(model.version) > 0) continue;
    host_.ForgetFailure(name, model.version);
    failures_.erase({name, model.version});
  }
}

bool ModelKeeper::Answers(const Key& key) const {
  const auto model = host_.Pin(key.first, key.second);
  return model.ok() && !(*model)->posterior_id().empty();
}

bool ModelKeeper::Load(const Key& key) {
  if (!MayTry(key)) return false;
  const absl::StatusOr<ModelInfo> info = host_.Load(key.first, key.second);
  if (!info.ok()) {
    Failed(key, "is not served", info.status());
    return false;
  }
  failures_.erase(key);
  kept_[key.first].insert(key.second);
  LogInfo(absl::StrCat("loaded model ", Title(info->name, info->version),
                       info->active_posterior_id.empty()
                           ? ", which has no active posterior yet"
                           : absl::StrCat(" with posterior ", info->active_posterior_id)));
  return true;
}

void ModelKeeper::FollowPosteriors() {
  const absl::StatusOr<std::vector<ModelInfo>> models = host_.List();
  if (!models.ok()) return;
  for (const ModelInfo& model : *models) {
    if (stop_) return;
    const Key key{model.name, model.version};
    if (model.state != ModelState::kReady) continue;
    // One that could not be used says nothing of another.
    const std::string active =
        repository_.ActivePosterior({model.name, model.version}).value_or("");
    if (!MayTry(key, active)) continue;
    const absl::StatusOr<bool> refreshed = host_.RefreshPosterior(model.name, model.version);
    if (absl::IsNotFound(refreshed.status()) && !host_.Pin(model.name, model.version).ok()) {
      continue;  // unloaded meanwhile
    }
    if (!refreshed.ok()) {
      Failed(key, "keeps its posterior, the active one cannot be used", refreshed.status(), active);
      continue;
    }
    failures_.erase(key);
    if (*refreshed) {
      LogInfo(absl::StrCat("model ", Title(model.name, model.version),
                           " has taken up the posterior that was activated"));
    }
  }
}

bool ModelKeeper::MayTry(const Key& key, const std::string& posterior_id) const {
  const auto found = failures_.find(key);
  return found == failures_.end() || look_ >= found->second.next ||
         posterior_id != found->second.posterior_id;
}

void ModelKeeper::Failed(const Key& key, const std::string& what, const absl::Status& status,
                         const std::string& posterior_id) {
  Failure& failure = failures_[key];
  const std::string message(status.message());
  // The same again is no news.
  if (message != failure.message) {
    LogError(absl::StrCat("model ", Title(key.first, key.second), " ", what), {{"error", message}});
  }
  if (posterior_id != failure.posterior_id) failure.pause = 1;
  failure.message = message;
  failure.posterior_id = posterior_id;
  failure.next = look_ + failure.pause;
  failure.pause = std::min(2 * failure.pause, kLongestPause);
}

void ModelKeeper::Watch(double seconds, std::function<void()> on_start) {
  thread_ = std::thread([this, seconds, start = std::move(on_start)] {
    if (start) start();
    std::unique_lock<std::mutex> lock(mutex_);
    const std::chrono::duration<double> pause(seconds);
    while (!stop_changed_.wait_for(lock, pause, [this] { return stop_.load(); })) {
      lock.unlock();
      Look();
      lock.lock();
    }
  });
}

void ModelKeeper::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace laplaced
