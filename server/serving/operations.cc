#include "server/serving/operations.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/observe/log.h"
#include "server/registry/repository.h"

namespace laplaced {
namespace {

using Clock = std::chrono::steady_clock;

// Below this share of the work the time left is not estimated: the first steps say little about the
// rest.
constexpr double kMinFractionForEstimate = 0.01;

// Between attempts to save what the disk refused.
constexpr std::chrono::seconds kSaveAgain{1};

std::string Now() {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
}

bool Ended(const OperationSnapshot& snapshot) {
  return snapshot.record.state != OperationState::kRunning;
}

absl::Status NoSuchOperation(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("id: there is no operation '", id,
                                          "'; ListOperations shows all there are (the ",
                                          kEndedOperationsKept, " that ended last are kept)"));
}

// Final record of an operation that ended with `result`. `aborted`: the server stopped it, not a
// user.
OperationRecord FinalRecord(OperationRecord record, const absl::StatusOr<OperationResult>& result,
                            bool aborted) {
  record.end_time = Now();
  if (result.ok()) {
    record.state = OperationState::kSucceeded;
    record.posterior_id = result->posterior_id;
    record.model_version = result->model_version;
    record.result = result->result;
    return record;
  }
  record.state = OperationState::kFailed;
  record.error_code = static_cast<int>(result.status().code());
  record.error_message = std::string(result.status().message());
  if (absl::IsCancelled(result.status())) {
    if (aborted) {
      record.error_code = static_cast<int>(absl::StatusCode::kAborted);
      record.error_message = "the server was stopped while the operation ran; start it again";
    } else {
      record.state = OperationState::kCancelled;
    }
  }
  return record;
}

void LogEnd(const OperationRecord& record, double seconds) {
  LogFields fields = {
      {"operation", record.id}, {"description", record.description}, {"seconds", seconds}};
  if (record.state == OperationState::kFailed) {
    fields.emplace_back("error", record.error_message);
    return LogWarning("operation failed", fields);
  }
  if (record.state == OperationState::kCancelled) return LogInfo("operation cancelled", fields);
  if (!record.posterior_id.empty()) fields.emplace_back("posterior", record.posterior_id);
  if (record.model_version > 0) fields.emplace_back("version", record.model_version);
  if (!record.result.empty()) fields.emplace_back("result", record.result);
  LogInfo("operation succeeded", fields);
}

}  // namespace

struct Operations::State {
  struct Operation {
    OperationSnapshot snapshot;
    Clock::time_point begin;
    std::atomic<bool> stop{false};
    bool stopped_by_user = false;
    bool end_decided = false;  // somebody writes, or has written, the final record
    bool returned = false;     // the thread asks for the mutex no more
    std::thread thread;
  };
  struct Subscription {
    std::shared_ptr<Operation> operation;
    std::function<void(const OperationSnapshot&)> on_change;
    uint64_t seen = 0;  // revision of the last call
    bool in_call = false;
  };

  // Handed to the work; writes progress into the operation.
  class Handle : public OperationHandle {
   public:
    Handle(State& state, Operation& operation) : state_(state), operation_(operation) {}
    bool cancelled() const override { return operation_.stop.load(std::memory_order_relaxed); }
    void Report(const std::string& phase, int64_t done, int64_t total, double fraction) override {
      state_.Report(operation_, phase, done, total, fraction);
    }

   private:
    State& state_;
    Operation& operation_;
  };

  State(OperationStore opened, int64_t limit, OnEnd told)
      : store(std::move(opened)), max_running(limit), on_end(std::move(told)) {
    for (const OperationRecord& record : store.recovered()) {
      auto operation = std::make_shared<Operation>();
      operation->snapshot.record = record;
      operation->snapshot.revision = 1;
      if (record.state == OperationState::kSucceeded) operation->snapshot.fraction = 1;
      operations.push_back(std::move(operation));
    }
    notifier = std::thread([this] { Notify(); });
  }

  std::shared_ptr<Operation> Find(const std::string& id) const {
    for (const auto& operation : operations) {
      if (operation->snapshot.record.id == id) return operation;
    }
    return nullptr;
  }

  void Report(Operation& operation, const std::string& phase, int64_t done, int64_t total,
              double fraction);
  void Run(Operation& operation, const Work& work);
  // Ends the operation with `result`, unless that is decided already. REQUIRES: `lock` is held; it
  // is released while the disk is written.
  void End(Operation& operation, const absl::StatusOr<OperationResult>& result,
           std::unique_lock<std::mutex>& lock);
  void Notify();
  std::shared_ptr<Subscription> NextToNotify();
  // Whether another may start. REQUIRES: `mutex` is held.
  absl::Status CheckRoom() const;
  // Of more than kEndedOperationsKept that have ended, takes out those that ended first; returns
  // their ids. REQUIRES: `mutex` is held.
  std::vector<std::string> TakeOldest();
  // Saves those of `unsaved` that the disk takes now. REQUIRES: `lock` is held; it is released
  // while the disk is written.
  void SaveAgain(std::unique_lock<std::mutex>& lock);

  const OperationStore store;
  const int64_t max_running;
  const OnEnd on_end;

  std::mutex mutex;
  std::condition_variable changed;    // for the notifier: a revision, a subscription or `closing`
  std::condition_variable call_done;  // a subscription's call returned
  std::condition_variable ended;      // `running` fell
  std::vector<std::shared_ptr<Operation>> operations;  // oldest first
  std::map<uint64_t, std::shared_ptr<Subscription>> subscriptions;
  std::vector<OperationRecord> unsaved;  // final ones that the disk refused
  uint64_t next_subscription = 1;
  uint64_t last_notified = 0;
  int64_t running = 0;  // those being started included
  bool shut_down = false;
  bool closing = false;
  std::thread notifier;
};

void Operations::State::Report(Operation& operation, const std::string& phase, int64_t done,
                               int64_t total, double fraction) {
  std::unique_lock<std::mutex> lock(mutex);
  OperationSnapshot& snapshot = operation.snapshot;
  if (Ended(snapshot)) return;  // it was given up, and the final state is the last
  const bool new_stage = snapshot.phase != phase;
  snapshot.phase = phase;
  snapshot.done = done;
  snapshot.total = total;
  // A NaN fails both comparisons and leaves the fraction as it is.
  if (fraction > snapshot.fraction) snapshot.fraction = std::min(fraction, 1.0);
  if (snapshot.fraction >= kMinFractionForEstimate) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - operation.begin).count();
    snapshot.seconds_left = elapsed * (1 - snapshot.fraction) / snapshot.fraction;
  }
  ++snapshot.revision;
  changed.notify_one();
  if (!new_stage) return;
  const std::string id = snapshot.record.id;
  const double progress = snapshot.fraction;
  lock.unlock();
  LogInfo("operation stage", {{"operation", id}, {"stage", phase}, {"progress", progress}});
}

void Operations::State::Run(Operation& operation, const Work& work) {
  absl::StatusOr<OperationResult> result = absl::InternalError("the work did not return");
  try {
    Handle handle(*this, operation);
    result = work(handle);
  } catch (const std::exception& error) {
    result = absl::InternalError(absl::StrCat("unexpected error: ", error.what()));
  }

  std::unique_lock<std::mutex> lock(mutex);
  if (operation.end_decided) {
    LogWarning(absl::StrCat("the work of operation ", operation.snapshot.record.id,
                            " ended after the operation was given up; its result is dropped"));
  } else {
    End(operation, result, lock);
  }
  operation.returned = true;
  --running;
  ended.notify_all();
}

void Operations::State::End(Operation& operation, const absl::StatusOr<OperationResult>& result,
                            std::unique_lock<std::mutex>& lock) {
  operation.end_decided = true;
  OperationRecord record =
      FinalRecord(operation.snapshot.record, result, shut_down && !operation.stopped_by_user);
  lock.unlock();
  const absl::Status saved = store.Save(record);
  if (!saved.ok()) {
    LogError(absl::StrCat("the end of operation ", record.id, " could not be recorded; until it ",
                          "is, a kill would turn it into a failure: ", saved.message()));
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - operation.begin).count();
  LogEnd(record, seconds);
  if (on_end) on_end(record, seconds);

  lock.lock();
  if (!saved.ok()) unsaved.push_back(record);
  operation.snapshot.record = std::move(record);
  operation.snapshot.seconds_left = 0;
  if (result.ok()) operation.snapshot.fraction = 1;
  ++operation.snapshot.revision;
  changed.notify_one();
}

// Goes round the subscriptions, so that a busy operation does not keep the others waiting.
std::shared_ptr<Operations::State::Subscription> Operations::State::NextToNotify() {
  auto it = subscriptions.upper_bound(last_notified);
  for (size_t left = subscriptions.size(); left > 0; --left, ++it) {
    if (it == subscriptions.end()) it = subscriptions.begin();
    if (it->second->seen != it->second->operation->snapshot.revision) {
      last_notified = it->first;
      return it->second;
    }
  }
  return nullptr;
}

void Operations::State::SaveAgain(std::unique_lock<std::mutex>& lock) {
  std::vector<OperationRecord> records;
  records.swap(unsaved);
  lock.unlock();
  std::vector<OperationRecord> refused;
  for (OperationRecord& record : records) {
    if (store.Save(record).ok()) {
      LogInfo("the end of the operation is recorded now", {{"operation", record.id}});
    } else {
      refused.push_back(std::move(record));
    }
  }
  lock.lock();
  for (OperationRecord& record : refused) unsaved.push_back(std::move(record));
}

absl::Status Operations::State::CheckRoom() const {
  if (shut_down) {
    return absl::UnavailableError("the server is shutting down and starts no more operations");
  }
  if (running >= max_running) {
    return absl::ResourceExhaustedError(
        absl::StrCat(running, " operation(s) run already, which is this server's limit ",
                     "(max_concurrent_fits); wait for one to end or cancel it"));
  }
  return absl::OkStatus();
}

std::vector<std::string> Operations::State::TakeOldest() {
  const auto may_go = [](const std::shared_ptr<Operation>& operation) {
    return Ended(operation->snapshot) && !operation->thread.joinable();
  };
  const int64_t surplus =
      std::count_if(operations.begin(), operations.end(), may_go) - kEndedOperationsKept;
  if (surplus <= 0) return {};
  std::vector<std::pair<std::string, std::string>> by_end;  // time, id
  for (const auto& operation : operations) {
    const OperationRecord& record = operation->snapshot.record;
    if (may_go(operation)) by_end.emplace_back(record.end_time, record.id);
  }
  std::stable_sort(by_end.begin(), by_end.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> taken;
  for (int64_t i = 0; i < surplus; ++i) {
    const std::string& id = by_end[static_cast<size_t>(i)].second;
    operations.erase(std::find(operations.begin(), operations.end(), Find(id)));
    taken.push_back(id);
  }
  return taken;
}

void Operations::State::Notify() {
  std::unique_lock<std::mutex> lock(mutex);
  Clock::time_point save = Clock::time_point::max();  // when to try next
  for (;;) {
    if (unsaved.empty()) {
      save = Clock::time_point::max();
    } else if (save == Clock::time_point::max()) {
      save = Clock::now() + kSaveAgain;
    } else if (Clock::now() >= save) {
      save = Clock::time_point::max();
      SaveAgain(lock);
      continue;
    }
    const std::shared_ptr<Subscription> next = NextToNotify();
    if (!next) {
      if (closing) return SaveAgain(lock);
      if (unsaved.empty()) {
        changed.wait(lock);
      } else {
        changed.wait_until(lock, save);
      }
      continue;
    }
    const OperationSnapshot snapshot = next->operation->snapshot;
    next->seen = snapshot.revision;
    next->in_call = true;
    lock.unlock();
    next->on_change(snapshot);
    lock.lock();
    next->in_call = false;
    call_done.notify_all();
  }
}

Operations::Operations(OperationStore store, int64_t max_running, OnEnd on_end)
    : state_(std::make_unique<State>(std::move(store), max_running, std::move(on_end))) {}

Operations::~Operations() {
  Shutdown();
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->closing = true;
    state_->changed.notify_one();
  }
  state_->notifier.join();
}

absl::Status Operations::CheckRoom() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->CheckRoom();
}

absl::StatusOr<OperationSnapshot> Operations::Start(const std::string& description, Work work) {
  State& state = *state_;
  auto operation = std::make_shared<State::Operation>();
  operation->snapshot.record.id = NewId("op");
  operation->snapshot.record.description = description;
  operation->snapshot.record.start_time = Now();
  operation->snapshot.revision = 1;
  operation->begin = Clock::now();
  {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (absl::Status room = state.CheckRoom(); !room.ok()) return room;
    ++state.running;
  }
  const absl::Status saved = state.store.Save(operation->snapshot.record);

  std::unique_lock<std::mutex> lock(state.mutex);
  if (!saved.ok()) {
    --state.running;
    state.ended.notify_all();
    return saved;
  }
  for (const auto& other : state.operations) {
    if (other->returned && other->thread.joinable()) other->thread.join();
  }
  // Shutdown may have begun while the record was written; the work then sees that at once.
  if (state.shut_down) operation->stop = true;
  const OperationSnapshot first = operation->snapshot;
  state.operations.push_back(operation);
  try {
    operation->thread = std::thread(
        [&state, raw = operation.get(), work = std::move(work)] { state.Run(*raw, work); });
  } catch (const std::system_error& error) {
    state.operations.pop_back();
    --state.running;
    state.ended.notify_all();
    lock.unlock();
    state.store.Remove(first.record.id).IgnoreError();
    return absl::ResourceExhaustedError(
        absl::StrCat("the system gives no thread for the operation (", error.what(),
                     "): raise its limit of processes or stop others"));
  }
  const std::vector<std::string> gone = state.TakeOldest();
  lock.unlock();
  for (const std::string& id : gone) {
    if (const absl::Status removed = state.store.Remove(id); !removed.ok()) {
      LogWarning(absl::StrCat("the record of operation ", id,
                              " is of no use and stays: ", removed.message()));
    }
  }
  return first;
}

absl::StatusOr<OperationSnapshot> Operations::Get(const std::string& id) const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  const auto operation = state_->Find(id);
  if (!operation) return NoSuchOperation(id);
  return operation->snapshot;
}

std::vector<OperationSnapshot> Operations::List() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<OperationSnapshot> snapshots;
  snapshots.reserve(state_->operations.size());
  for (auto it = state_->operations.rbegin(); it != state_->operations.rend(); ++it) {
    snapshots.push_back((*it)->snapshot);
  }
  return snapshots;
}

std::vector<OperationSnapshot> Operations::Running() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<OperationSnapshot> snapshots;
  for (auto it = state_->operations.rbegin(); it != state_->operations.rend(); ++it) {
    if (!Ended((*it)->snapshot)) snapshots.push_back((*it)->snapshot);
  }
  return snapshots;
}

absl::StatusOr<OperationSnapshot> Operations::Cancel(const std::string& id) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  const auto operation = state_->Find(id);
  if (!operation) return NoSuchOperation(id);
  if (!Ended(operation->snapshot)) {
    operation->stopped_by_user = true;
    operation->stop = true;
  }
  return operation->snapshot;
}

absl::StatusOr<uint64_t> Operations::Subscribe(
    const std::string& id, std::function<void(const OperationSnapshot&)> on_change) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  auto operation = state_->Find(id);
  if (!operation) return NoSuchOperation(id);
  auto subscription = std::make_shared<State::Subscription>();
  subscription->operation = std::move(operation);
  subscription->on_change = std::move(on_change);
  const uint64_t number = state_->next_subscription++;
  state_->subscriptions[number] = std::move(subscription);
  state_->changed.notify_one();
  return number;
}

void Operations::Unsubscribe(uint64_t subscription) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  const auto found = state_->subscriptions.find(subscription);
  if (found == state_->subscriptions.end()) return;
  const std::shared_ptr<State::Subscription> removed = found->second;
  state_->subscriptions.erase(found);
  if (std::this_thread::get_id() == state_->notifier.get_id()) return;
  state_->call_done.wait(lock, [&] { return !removed->in_call; });
}

bool Operations::Shutdown(Clock::time_point deadline) {
  State& state = *state_;
  std::unique_lock<std::mutex> lock(state.mutex);
  state.shut_down = true;
  for (const auto& operation : state.operations) {
    if (!Ended(operation->snapshot)) operation->stop = true;
  }
  const auto all_returned = [&] { return state.running == 0; };
  if (deadline == Clock::time_point::max()) {
    state.ended.wait(lock, all_returned);
  } else {
    state.ended.wait_until(lock, deadline, all_returned);
  }
  // A copy, because End lets go of the lock.
  const std::vector<std::shared_ptr<State::Operation>> operations = state.operations;
  for (const auto& operation : operations) {
    if (operation->returned || operation->end_decided || Ended(operation->snapshot)) continue;
    LogWarning(absl::StrCat("operation ", operation->snapshot.record.id,
                            " did not stop in time and is given up"));
    state.End(*operation, absl::CancelledError("given up"), lock);
  }
  for (const auto& operation : state.operations) {
    if (operation->returned && operation->thread.joinable()) operation->thread.join();
  }
  return state.running == 0;
}

}  // namespace laplaced
