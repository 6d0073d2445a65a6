#include "server/ood/feature_statistics.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/linalg/mix_bits.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr char kCounts[] = "features.counts", kMeans[] = "features.means",
               kScatter[] = "features.scatter", kBank[] = "features.bank",
               kMaxLogits[] = "features.bank_max_logits",
               kPriorities[] = "features.bank_priorities";

int64_t BankLimit(int64_t width) {
  return std::clamp<int64_t>(kBankBytes / (4 * width), 1, kBankRows);
}

// sum_g weight_g d_g d_g', d [G, D].
at::Tensor WeightedOuter(const at::Tensor& weights, const at::Tensor& d) {
  return at::matmul((d * weights.unsqueeze(1)).t(), d);
}

// Down to the limit once the bank is `slack` rows above it.
void TrimBank(FeatureStatistics& s, int64_t slack) {
  const int64_t limit = BankLimit(s.bank.size(1));
  if (s.bank.size(0) <= limit + slack) return;
  const at::Tensor kept =
      std::get<1>(at::topk(s.bank_priorities, limit, 0, /*largest=*/false, /*sorted=*/true));
  s.bank = s.bank.index_select(0, kept);
  s.bank_max_logits = s.bank_max_logits.index_select(0, kept);
  s.bank_priorities = s.bank_priorities.index_select(0, kept);
}

at::Tensor Priorities(uint64_t seed, int64_t first, int64_t n) {
  const at::Tensor priorities = at::empty({n}, at::kLong);
  auto* out = priorities.data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t bits = MixBits(MixBits(seed) ^ static_cast<uint64_t>(first + i));
    out[i] = static_cast<int64_t>(bits >> 1);
  }
  return priorities;
}

}  // namespace

int64_t FeatureStatistics::count() const {
  return static_cast<int64_t>(counts.sum().item<double>());
}

at::Tensor FeatureStatistics::GlobalMean() const {
  return at::matmul(counts, means) / counts.sum();
}

at::Tensor FeatureStatistics::TotalScatter() const {
  return scatter + WeightedOuter(counts, means - GlobalMean());
}

absl::StatusOr<FeatureStatistics> FeatureStatistics::OverRanks(const Ranks& ranks) const {
  if (ranks.size() == 1) return *this;
  FeatureStatistics all;
  all.counts = counts.clone();
  all.means = means * counts.unsqueeze(1);
  LAPLACED_RETURN_IF_ERROR(ranks.Sum(all.counts));
  LAPLACED_RETURN_IF_ERROR(ranks.Sum(all.means));
  all.means = all.means / all.counts.clamp_min(1).unsqueeze(1);
  // What is around the ranks' own means, and what those are apart.
  all.scatter = scatter + WeightedOuter(counts, means - all.means);
  LAPLACED_RETURN_IF_ERROR(ranks.Sum(all.scatter));
  LAPLACED_ASSIGN_OR_RETURN(all.bank, ranks.Gather(bank));
  LAPLACED_ASSIGN_OR_RETURN(all.bank_max_logits, ranks.Gather(bank_max_logits));
  LAPLACED_ASSIGN_OR_RETURN(all.bank_priorities, ranks.Gather(bank_priorities));
  TrimBank(all, 0);
  return all;
}

void FeatureStatistics::PutInto(TensorMap& tensors) const {
  tensors[kCounts] = counts;
  tensors[kMeans] = means;
  tensors[kScatter] = scatter;
  tensors[kBank] = bank;
  tensors[kMaxLogits] = bank_max_logits;
  tensors[kPriorities] = bank_priorities;
}

bool HasFeatureStatistics(const TensorMap& tensors) { return tensors.count(kMeans) > 0; }

absl::StatusOr<FeatureStatistics> TakeFeatureStatistics(const TensorMap& tensors) {
  FeatureStatistics s;
  LAPLACED_ASSIGN_OR_RETURN(s.means, FindTensor(tensors, kMeans));
  if (s.means.dim() != 2 || s.means.numel() == 0) {
    return absl::DataLossError(absl::StrCat(kMeans, " is not a matrix"));
  }
  const int64_t d = s.means.size(1);
  LAPLACED_ASSIGN_OR_RETURN(s.counts, FindTensor(tensors, kCounts, {s.means.size(0)}));
  LAPLACED_ASSIGN_OR_RETURN(s.scatter, FindTensor(tensors, kScatter, {d, d}));
  LAPLACED_ASSIGN_OR_RETURN(s.bank_priorities, FindTensor(tensors, kPriorities));
  const int64_t m = s.bank_priorities.numel();
  LAPLACED_ASSIGN_OR_RETURN(s.bank, FindTensor(tensors, kBank, {m, d}));
  LAPLACED_ASSIGN_OR_RETURN(s.bank_max_logits, FindTensor(tensors, kMaxLogits, {m}));
  for (const at::Tensor* t : {&s.counts, &s.means, &s.scatter}) {
    if (t->scalar_type() != at::kDouble) {
      return absl::DataLossError("the moments of the features are not fp64");
    }
  }
  if (m < 1 || !(s.counts.sum().item<double>() >= 1)) {
    return absl::DataLossError("the statistics of the features hold no examples");
  }
  return s;
}

FeatureGatherer::FeatureGatherer(int64_t groups, int64_t width, uint64_t seed, int64_t first)
    : seed_(seed), seen_(first) {
  statistics_.counts = at::zeros({groups}, at::kDouble);
  statistics_.means = at::zeros({groups, width}, at::kDouble);
  statistics_.scatter = at::zeros({width, width}, at::kDouble);
  statistics_.bank = at::empty({0, width}, at::kFloat);
  statistics_.bank_max_logits = at::empty({0}, at::kFloat);
  statistics_.bank_priorities = at::empty({0}, at::kLong);
}

FeatureGatherer::FeatureGatherer(FeatureStatistics start, uint64_t seed)
    : statistics_(std::move(start)), seed_(seed), seen_(statistics_.count()) {}

void FeatureGatherer::Add(const at::Tensor& features, const at::Tensor& f,
                          const at::Tensor& groups) {
  AddMoments(features, groups);
  FeatureStatistics& s = statistics_;
  const int64_t n = features.size(0);
  s.bank = at::cat({s.bank, features.to(at::kFloat)});
  s.bank_max_logits = at::cat({s.bank_max_logits, f.amax(1).to(at::kFloat)});
  s.bank_priorities = at::cat({s.bank_priorities, Priorities(seed_, seen_, n)});
  seen_ += n;
  TrimBank(statistics_, BankLimit(features.size(1)) / 4);
}

// Chan, Golub, LeVeque 1979, by class: the scatter of two parts is the sum of theirs and of what
// their means are apart.
void FeatureGatherer::AddMoments(const at::Tensor& features, const at::Tensor& groups) {
  FeatureStatistics& s = statistics_;
  const int64_t n_groups = s.counts.size(0);
  const at::Tensor member = at::one_hot(groups, n_groups).to(at::kDouble);  // [B, G]
  const at::Tensor n = member.sum(0);
  const at::Tensor means = at::matmul(member.t(), features) / n.clamp_min(1).unsqueeze(1);
  const at::Tensor centred = features - means.index_select(0, groups);
  const at::Tensor total = s.counts + n;
  const at::Tensor apart = means - s.means;
  s.scatter = s.scatter + at::matmul(centred.t(), centred) +
              WeightedOuter(s.counts * n / total.clamp_min(1), apart);
  s.means = s.means + apart * (n / total.clamp_min(1)).unsqueeze(1);
  s.counts = total;
}

FeatureStatistics FeatureGatherer::Finish() {
  TrimBank(statistics_, 0);
  return statistics_;
}

}  // namespace laplaced
