#include "server/distributed/gloo_ranks.h"

#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFarewell{5000};

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

std::string Text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

// LibTorch 2 wants its store on libuv unless told otherwise, which Debian's build has not; LibTorch
// 1.13 has no such option. Stores of both kinds understand each other.
template <typename Options>
auto WithoutLibuv(Options& options, int) -> decltype(options.useLibUV, void()) {
  options.useLibUV = false;
}
template <typename Options>
void WithoutLibuv(Options&, long) {}

// Looks until it is there, and says whether it was in time. (Stores can wait themselves, but after
// a wait that timed out a TCPStore takes the answer to it for the answer to the next question.)
template <typename Condition>
bool AwaitThat(Condition&& there, milliseconds timeout) {
  constexpr milliseconds kPause{20};
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!there()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

bool AwaitKeys(c10d::Store& store, const std::vector<std::string>& keys, milliseconds timeout) {
  return AwaitThat([&] { return store.check(keys); }, timeout);
}

std::string Key(const std::string& what, int64_t rank) { return absl::StrCat(what, "/", rank); }

constexpr char kVerdict[] = "verdict";
constexpr char kAllHere[] = "all were there";

// kAllHere, or who gave up first. It is decided once, by rank 0 when all keys are there, or by the
// first rank that has waited for too long: whoever comes later waits for nobody.
std::string Verdict(c10d::Store& store, int64_t rank, const std::vector<std::string>& keys,
                    milliseconds timeout) {
  const auto all_here = [&] { return rank == 0 && store.check(keys); };
  const bool in_time =
      AwaitThat([&] { return store.check({kVerdict}) || all_here(); }, timeout) && all_here();
  const std::string mine =
      in_time ? kAllHere
              : absl::StrCat("rank ", rank, " gave up after ", timeout.count() / 1000.0, " s");
  return Text(store.compareSet(kVerdict, {}, Bytes(mine)));
}

}  // namespace

struct MeetingPoint::State {
  c10::intrusive_ptr<c10d::Store> store;
  int64_t rank = 0, size = 1;
  bool keeps_store = false;
  std::string interface;
  std::string where;
};

struct GlooRanks::State {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
  c10::intrusive_ptr<c10d::Store> store;  // of this group alone
  int64_t rank = 0, size = 1;
  bool keeps_store = false;
  absl::Status lost;

  // Runs a call of the group, and finds out why if it fails.
  template <typename Call>
  absl::Status Run(const char* what, Call&& call) {
    if (!lost.ok()) return lost;
    try {
      call();
      return absl::OkStatus();
    } catch (const std::exception& e) {
      lost =
          absl::UnavailableError(absl::StrCat("rank ", rank, " of ", size, " lost the others in a ",
                                              what, ": ", Reason(FirstLine(e.what()))));
    }
    group.reset();  // the others shall not wait for this rank
    return lost;
  }

  // What the rank that gave up says, or else what the network says.
  std::string Reason(const std::string& network) const {
    std::vector<std::string> reasons;
    try {
      for (int64_t other = 0; other < size; ++other) {
        if (other == rank || !store->check({Key("failed", other)})) continue;
        reasons.push_back(
            absl::StrCat("rank ", other, " gave up: ", Text(store->get(Key("failed", other)))));
      }
      store->set(Key("knows", rank), Bytes("1"));
    } catch (const std::exception&) {
      // Its keeper is gone too.
    }
    if (!reasons.empty()) return absl::StrJoin(reasons, "; ");
    return absl::StrCat(network, " (a rank died or hangs: see the logs of the others)");
  }
};

GlooRanks::GlooRanks(std::unique_ptr<State> state) : state_(std::move(state)) {}
GlooRanks::~GlooRanks() = default;

int64_t GlooRanks::rank() const { return state_->rank; }
int64_t GlooRanks::size() const { return state_->size; }

absl::Status GlooRanks::Sum(at::Tensor& tensor) const {
  return state_->Run("sum", [&] {
    std::vector<at::Tensor> tensors = {tensor};
    state_->group->allreduce(tensors)->wait();
  });
}

absl::Status GlooRanks::Broadcast(at::Tensor& tensor) const {
  return state_->Run("broadcast", [&] {
    std::vector<at::Tensor> tensors = {tensor};
    state_->group->broadcast(tensors)->wait();
  });
}

absl::StatusOr<at::Tensor> GlooRanks::Gather(const at::Tensor& part) const {
  const auto all = [this](const at::Tensor& mine) {
    std::vector<at::Tensor> in = {mine};
    std::vector<std::vector<at::Tensor>> out(1);
    for (int64_t i = 0; i < state_->size; ++i) out[0].push_back(at::empty_like(mine));
    state_->group->allgather(out, in)->wait();
    return out[0];
  };
  at::Tensor whole;
  LAPLACED_RETURN_IF_ERROR(state_->Run("gather", [&] {
    const at::Tensor sizes = at::cat(all(at::full({1}, part.size(0), at::kLong)));
    const auto longest = sizes.max().item<int64_t>();
    // Gloo wants parts of one size.
    std::vector<int64_t> shape = part.sizes().vec();
    shape[0] = longest;
    at::Tensor padded = part.contiguous();
    if (part.size(0) < longest) {
      padded = at::zeros(shape, part.options());
      padded.narrow(0, 0, part.size(0)).copy_(part);
    }
    if (longest == 0) {
      whole = padded;
      return;
    }
    std::vector<at::Tensor> parts = all(padded);
    for (int64_t i = 0; i < state_->size; ++i) {
      parts[i] = parts[i].narrow(0, 0, sizes[i].item<int64_t>());
    }
    whole = at::cat(parts);
  }));
  return whole;
}

void GlooRanks::GiveUp(const absl::Status& why) {
  if (why.ok() || !state_->lost.ok()) return;
  state_->lost = why;
  try {
    state_->store->set(Key("failed", state_->rank), Bytes(std::string(why.message())));
    state_->store->set(Key("knows", state_->rank), Bytes("1"));  // it will not ask the others
    state_->group.reset();
    if (!state_->keeps_store) return;
    std::vector<std::string> others;
    for (int64_t other = 0; other < state_->size; ++other) {
      if (other != state_->rank) others.push_back(Key("knows", other));
    }
    AwaitKeys(*state_->store, others, kFarewell);
  } catch (const std::exception&) {
    // Nobody listens any more.
  }
  state_->group.reset();
}

absl::StatusOr<MeetingPoint> MeetingPoint::Open(const Launch& launch, milliseconds timeout) {
  auto state = std::make_shared<State>();
  state->rank = launch.rank;
  state->size = launch.size;
  state->keeps_store = launch.rank == 0 && !launch.launcher_has_store;
  state->interface = launch.interface;
  state->where = absl::StrCat(launch.master_host, ":", launch.master_port);
  try {
    c10d::TCPStoreOptions options;
    options.port = launch.master_port;
    options.isServer = state->keeps_store;
    options.waitWorkers = false;
    WithoutLibuv(options, 0);
    // It counts in whole seconds.
    options.timeout = std::chrono::ceil<std::chrono::seconds>(timeout);
    state->store = c10::make_intrusive<c10d::PrefixStore>(
        absl::StrCat("laplaced/", launch.attempt),
        c10::make_intrusive<c10d::TCPStore>(launch.master_host, options));
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("rank ", launch.rank,
                     state->keeps_store ? " cannot open the ranks' meeting point at "
                                        : " cannot reach rank 0 at ",
                     state->where, " (MASTER_ADDR, MASTER_PORT): ", FirstLine(e.what())));
  }
  return MeetingPoint(std::move(state));
}

MeetingPoint MeetingPoint::InProcess(const MeetingPoint* first, int64_t rank, int64_t size) {
  auto state = std::make_shared<State>();
  state->rank = rank;
  state->size = size;
  if (first == nullptr) {
    state->store = c10::make_intrusive<c10d::HashStore>();
  } else {
    state->store = first->state_->store;
  }
  state->interface = "lo";
  state->where = "this process";
  return MeetingPoint(std::move(state));
}

MeetingPoint::MeetingPoint(std::shared_ptr<State> state) : state_(std::move(state)) {}
MeetingPoint::MeetingPoint(MeetingPoint&&) noexcept = default;
MeetingPoint& MeetingPoint::operator=(MeetingPoint&&) noexcept = default;
MeetingPoint::~MeetingPoint() = default;

int64_t MeetingPoint::rank() const { return state_->rank; }
int64_t MeetingPoint::size() const { return state_->size; }

absl::StatusOr<std::unique_ptr<GlooRanks>> MeetingPoint::Join(const std::string& name,
                                                              milliseconds join_timeout,
                                                              milliseconds timeout) const {
  auto joined = std::make_unique<GlooRanks::State>();
  joined->rank = state_->rank;
  joined->size = state_->size;
  joined->keeps_store = state_->keeps_store;
  std::vector<std::string> all;
  for (int64_t other = 0; other < state_->size; ++other) all.push_back(Key("here", other));
  bool came = false;
  try {
    joined->store = c10::make_intrusive<c10d::PrefixStore>(name, state_->store);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(
        state_->interface.empty()
            ? c10d::ProcessGroupGloo::createDefaultDevice()
            : c10d::ProcessGroupGloo::createDeviceForInterface(state_->interface));
    options->threads = 2;
    // Late, or in the place of a process that died.
    if (joined->store->check({kVerdict})) {
      throw std::runtime_error(
          absl::StrCat("it came too late (", Text(joined->store->get(kVerdict)), ")"));
    }
    joined->store->set(Key("here", state_->rank), Bytes("1"));
    came = true;
    // Making the group waits for all ranks, and much longer.
    const std::string verdict = Verdict(*joined->store, state_->rank, all, join_timeout);
    if (verdict != kAllHere) throw std::runtime_error(verdict);
    joined->group = c10::make_intrusive<c10d::ProcessGroupGloo>(
        joined->store, static_cast<int>(state_->rank), static_cast<int>(state_->size), options);
  } catch (const std::exception& e) {
    std::vector<std::string> missing;
    try {
      for (int64_t other = 0; came && other < state_->size; ++other) {
        if (!joined->store->check({all[other]})) missing.push_back(absl::StrCat(other));
      }
    } catch (const std::exception&) {
      // The meeting point is gone.
    }
    return absl::UnavailableError(absl::StrCat(
        "rank ", state_->rank, " of ", state_->size, " waited for the others at ", state_->where,
        missing.empty()
            ? absl::StrCat(": ", FirstLine(e.what()))
            : absl::StrCat(", but rank ", absl::StrJoin(missing, ", "), " did not come within ",
                           join_timeout.count() / 1000.0, " s")));
  }
  return std::unique_ptr<GlooRanks>(new GlooRanks(std::move(joined)));
}

absl::Status MeetingPoint::Post(const std::string& key, const std::string& value) const {
  try {
    state_->store->set(key, Bytes(value));
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("the ranks' meeting point at ", state_->where, ": ", FirstLine(e.what())));
  }
}

absl::StatusOr<std::string> MeetingPoint::Await(const std::string& key,
                                                milliseconds timeout) const {
  try {
    if (!AwaitKeys(*state_->store, {key}, timeout)) {
      return absl::DeadlineExceededError(absl::StrCat(
          key, " did not appear within ", timeout.count() / 1000.0, " s at ", state_->where));
    }
    return Text(state_->store->get(key));
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("the ranks' meeting point at ", state_->where, ": ", FirstLine(e.what())));
  }
}

}  // namespace laplaced
