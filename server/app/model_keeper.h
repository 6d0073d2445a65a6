// Keeps the loaded models in step with the registry, by the `load` setting.
//
// A look at the registry loads the versions that are wanted by now, and then, once all that are
// wanted of a name answer (so have a posterior), unloads what it had loaded of that name before. So
// there is always a version to answer: one that cannot be loaded changes nothing, is logged, and is
// tried again after pauses that double up to a hundred looks; one without a posterior waits beside
// the version before it; and while no wanted version of a name can be loaded, the highest below
// serves. Only what was loaded here is ever unloaded, never the last version of a name, and what an
// administrator unloads stays so until the registry offers something new.
//
// A look also takes up posteriors that were activated by somebody else, or came with a copy of a
// version after its checkpoint. Errors of single models never stop the others. Thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "server/app/model_selection.h"
#include "server/registry/repository.h"
#include "server/serving/model_host.h"

namespace laplaced {

class ModelKeeper {
 public:
  // `repository` and `host` must outlive this.
  ModelKeeper(ModelSelection selection, const Repository& repository, ModelHost& host);
  ~ModelKeeper();
  ModelKeeper(const ModelKeeper&) = delete;
  ModelKeeper& operator=(const ModelKeeper&) = delete;

  // The first look. Error: a model that is listed by name is not there, or the repository cannot be
  // read.
  absl::Status LoadSelected();

  void Look();

  // Looks every so often from now on, on a thread of its own that runs `on_start` (may be empty)
  // first; until Stop, which waits for what the look that is under way loads just now. Once.
  void Watch(double seconds, std::function<void()> on_start);
  void Stop();

 private:
  // Whether something that has failed is to be tried in this look.
  struct Failure {
    std::string message;
    std::string posterior_id;  // that could not be used; empty: the version could not be loaded
    int64_t pause = 1;         // looks
    int64_t next = 0;          // number of a look
  };
  using Key = std::pair<std::string, int64_t>;

  // These REQUIRE: looking_ held.
  void Keep(const std::string& name, const WantedModel& wanted);
  void ForgetFailures(const std::string& name, const WantedModel& wanted);
  bool Load(const Key& key);
  bool Answers(const Key& key) const;
  void FollowPosteriors();
  bool MayTry(const Key& key, const std::string& posterior_id = "") const;
  void Failed(const Key& key, const std::string& what, const absl::Status& status,
              const std::string& posterior_id = "");

  const ModelSelection selection_;
  const Repository& repository_;
  ModelHost& host_;

  std::mutex looking_;  // held through a whole look
  int64_t look_ = 0;
  std::map<std::string, std::set<int64_t>> kept_;  // what was loaded here and is still wanted
  std::map<Key, Failure> failures_;
  std::string unreadable_;  // why the last look could not read the repository

  std::mutex mutex_;
  std::condition_variable stop_changed_;
  std::atomic<bool> stop_{false};  // set with mutex_ held
  std::thread thread_;
};

}  // namespace laplaced
