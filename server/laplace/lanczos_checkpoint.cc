#include "server/laplace/lanczos_checkpoint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/atomic_file.h"
#include "formats/file_handle.h"
#include "formats/safetensors.h"
#include "server/laplace/tensor_map.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kMostJsonBytes = 1 << 20;
constexpr char kState[] = "state.safetensors";

std::string BasisFile(int64_t rank) { return absl::StrCat("basis-", rank, ".safetensors"); }

}  // namespace

struct LanczosCheckpoint::Step {
  int64_t products = 0;
  int64_t ranks = 0;        // that wrote it
  int64_t coordinates = 0;  // of all of them
};

std::string LanczosCheckpoint::StepFolder(uint64_t set, int64_t products) const {
  return absl::StrCat(options_.folder, "/lanczos-", set, "-", products);
}

std::string LanczosCheckpoint::StepFile(uint64_t set) const {
  return absl::StrCat(options_.folder, "/lanczos-", set, ".json");
}

absl::StatusOr<absl::optional<LanczosCheckpoint::Step>> LanczosCheckpoint::ReadStep(
    uint64_t set) const {
  const auto text = ReadWholeFile(StepFile(set), kMostJsonBytes);
  if (absl::IsNotFound(text.status())) return absl::optional<Step>();
  if (!text.ok()) return text.status();
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* name) -> int64_t {
    return json.is_object() && json.contains(name) && json[name].is_number_integer()
               ? json[name].get<int64_t>()
               : -1;
  };
  const Step step{number("products"), number("ranks"), number("coordinates")};
  if (step.products < 0 || step.ranks < 1 || step.coordinates < 1 ||
      !json.contains("fingerprint") || !json["fingerprint"].is_string()) {
    return absl::DataLossError(absl::StrCat(StepFile(set), " is damaged: remove it to start anew"));
  }
  if (const auto found = json["fingerprint"].get<std::string>(); found != options_.fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the checkpoint in ", options_.folder, " belongs to another fit, of ", found,
        "; this one is of ", options_.fingerprint, ". Leave out --resume to start anew"));
  }
  return absl::optional<Step>(step);
}

absl::StatusOr<LanczosState> LanczosCheckpoint::ReadState(uint64_t set, const Step& step,
                                                          Share mine) const {
  const std::string folder = StepFolder(set, step.products);
  LAPLACED_ASSIGN_OR_RETURN(const MappedSafetensors file,
                            MappedSafetensors::Open(absl::StrCat(folder, "/", kState)));
  LAPLACED_ASSIGN_OR_RETURN(const TensorMap tensors, AliasTensors(file));
  LanczosState state;
  LAPLACED_ASSIGN_OR_RETURN(at::Tensor projected, FindTensor(tensors, "projected"));
  LAPLACED_ASSIGN_OR_RETURN(at::Tensor random, FindTensor(tensors, "random"));
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor counts, FindTensor(tensors, "counts", {4}));
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor scale, FindTensor(tensors, "scale", {1}));
  if (projected.dim() != 2 || projected.size(0) != projected.size(1) ||
      projected.scalar_type() != at::kDouble || random.scalar_type() != at::kByte ||
      counts.scalar_type() != at::kLong) {
    return absl::DataLossError(absl::StrCat(folder, "/", kState, " holds no state of Lanczos"));
  }
  state.projected = projected.clone();
  state.random = random.clone();
  state.products = counts[0].item<int64_t>();
  state.breakdowns = counts[1].item<int64_t>();
  state.since_fresh = counts[2].item<int64_t>();
  state.fresh = counts[3].item<int64_t>() != 0;
  state.scale = scale.item<double>();
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor most, FindTensor(tensors, "max_basis", {1}));
  state.max_basis = most.item<int64_t>();
  const int64_t vectors = projected.size(0) + 1;
  state.basis = at::empty({vectors, mine.size()}, at::kDouble);
  for (int64_t writer = 0; writer < step.ranks; ++writer) {
    const Share theirs = ShareOf(step.coordinates, writer, step.ranks);
    const int64_t begin = std::max(mine.begin, theirs.begin);
    const int64_t end = std::min(mine.end, theirs.end);
    if (begin >= end) continue;
    LAPLACED_ASSIGN_OR_RETURN(const MappedSafetensors part, MappedSafetensors::Open(absl::StrCat(
                                                                folder, "/", BasisFile(writer))));
    LAPLACED_ASSIGN_OR_RETURN(const TensorMap named, AliasTensors(part));
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor basis,
                              FindTensor(named, "basis", {vectors, theirs.size()}));
    state.basis.narrow(1, begin - mine.begin, end - begin)
        .copy_(basis.narrow(1, begin - theirs.begin, end - begin));
  }
  return state;
}

absl::StatusOr<absl::optional<LanczosState>> LanczosCheckpoint::Find(uint64_t set,
                                                                     const Ranks& ranks) {
  using Found = absl::optional<LanczosState>;
  before_.reset();
  if (!options_.resume) return Found();
  return CatchTorch("checkpoint", [&]() -> absl::StatusOr<Found> {
    // What rank 0 sees counts.
    at::Tensor seen = at::zeros({4}, at::kLong);
    if (ranks.rank() == 0) {
      LAPLACED_ASSIGN_OR_RETURN(const absl::optional<Step> step, ReadStep(set));
      if (step) seen = at::tensor({int64_t{1}, step->products, step->ranks, step->coordinates});
    }
    LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(seen));
    if (seen[0].item<int64_t>() == 0) return Found();
    const Step step{seen[1].item<int64_t>(), seen[2].item<int64_t>(), seen[3].item<int64_t>()};
    LAPLACED_ASSIGN_OR_RETURN(LanczosState state,
                              ReadState(set, step, ShareOf(step.coordinates, ranks)));
    before_ = StepFolder(set, step.products);
    if (options_.tell && ranks.rank() == 0) {
      options_.tell(
          absl::StrCat("going on after ", step.products, " curvature products, from ", *before_));
    }
    return Found(std::move(state));
  });
}

absl::Status LanczosCheckpoint::WriteFiles(const std::string& folder, const LanczosState& state,
                                           const Ranks& ranks) const {
  TensorMap mine = {{"basis", state.basis}};
  LAPLACED_RETURN_IF_ERROR(
      WriteSafetensors(absl::StrCat(folder, "/", BasisFile(ranks.rank())), ViewsOf(mine), {}));
  if (ranks.rank() != 0) return absl::OkStatus();
  const int64_t fresh = state.fresh ? 1 : 0;
  TensorMap shared = {
      {"projected", state.projected},
      {"random", state.random},
      {"counts", at::tensor({state.products, state.breakdowns, state.since_fresh, fresh})},
      {"scale", at::full({1}, state.scale, at::kDouble)},
      {"max_basis", at::full({1}, state.max_basis, at::kLong)}};
  return WriteSafetensors(absl::StrCat(folder, "/", kState), ViewsOf(shared), {});
}

absl::Status LanczosCheckpoint::Keep(uint64_t set, const LanczosState& state, const Ranks& ranks) {
  return CatchTorch("checkpoint", [&]() -> absl::Status {
    const bool due = std::chrono::steady_clock::now() - last_ >= options_.interval;
    at::Tensor now = at::full({1}, due ? 1 : 0, at::kLong);
    LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(now));
    // Before the first product there is nothing to lose.
    if (now.item<int64_t>() == 0 || state.products == 0) return absl::OkStatus();

    const std::string folder = StepFolder(set, state.products);
    if (before_ == folder) return absl::OkStatus();  // it has just been read from there
    absl::Status written;
    if (ranks.rank() == 0) {
      written = RemoveAll(folder);  // half a step of a process that died
      if (written.ok()) written = MakeFolders(folder);
    }
    at::Tensor failures = at::full({1}, written.ok() ? 0 : 1, at::kLong);
    at::Tensor coordinates = at::full({1}, state.basis.size(1), at::kLong);
    LAPLACED_RETURN_IF_ERROR(ranks.Sum(failures));
    LAPLACED_RETURN_IF_ERROR(ranks.Sum(coordinates));
    if (failures.item<int64_t>() == 0) {
      written = WriteFiles(folder, state, ranks);
      failures.fill_(written.ok() ? 0 : 1);
      LAPLACED_RETURN_IF_ERROR(ranks.Sum(failures));
    }
    if (ranks.rank() == 0 && failures.item<int64_t>() == 0) {
      const nlohmann::json json = {{"fingerprint", options_.fingerprint},
                                   {"products", state.products},
                                   {"ranks", ranks.size()},
                                   {"coordinates", coordinates.item<int64_t>()}};
      written = ReplaceFile(StepFile(set), {json.dump(1), "\n"});
    }
    last_ = std::chrono::steady_clock::now();
    if (failures.item<int64_t>() == 0 && written.ok()) {
      if (before_ && ranks.rank() == 0) RemoveAll(*before_).IgnoreError();
      before_ = folder;
    } else {
      if (ranks.rank() == 0) RemoveAll(folder).IgnoreError();
      if (!written.ok() && options_.tell) {
        options_.tell(absl::StrCat("no checkpoint was written, the fit goes on: ",
                                   std::string(written.message())));
      }
    }
    return absl::OkStatus();
  });
}

void LanczosCheckpoint::Remove() const { RemoveAll(options_.folder).IgnoreError(); }

}  // namespace laplaced
