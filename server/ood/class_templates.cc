#include "server/ood/class_templates.h"

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr char kCounts[] = "templates.counts", kMeans[] = "templates.means";

}  // namespace

ClassTemplates::ClassTemplates(int64_t n_classes)
    : counts(at::zeros({n_classes}, at::kDouble)),
      means(at::zeros({n_classes, n_classes}, at::kDouble)) {}

void ClassTemplates::Add(const at::Tensor& f) {
  const at::Tensor p = at::softmax(f.to(at::kDouble), 1);
  const at::Tensor member = at::one_hot(p.argmax(1), counts.size(0)).to(at::kDouble);  // [B, C]
  const at::Tensor total = counts + member.sum(0);
  const at::Tensor sums = means * counts.unsqueeze(1) + at::matmul(member.t(), p);
  means = sums / total.clamp_min(1).unsqueeze(1);
  counts = total;
}

bool ClassTemplates::empty() const { return counts.sum().item<double>() == 0; }

at::Tensor ClassTemplates::LeastDivergence(const at::Tensor& f) const {
  const at::Tensor log_p = at::log_softmax(f, 1), p = log_p.exp();
  const at::Tensor present = (counts > 0).nonzero().squeeze(1);
  // A template is a mean of positive numbers, but may have underflowed.
  const at::Tensor log_templates = means.index_select(0, present).clamp_min(1e-300).log();
  const at::Tensor cross = at::matmul(p, log_templates.t());  // [B, present]
  return (p * log_p).sum(1) - cross.amax(1);
}

void ClassTemplates::PutInto(TensorMap& tensors) const {
  if (empty()) return;
  tensors[kCounts] = counts;
  tensors[kMeans] = means;
}

absl::StatusOr<ClassTemplates> TakeClassTemplates(const TensorMap& tensors, int64_t n_classes) {
  ClassTemplates templates(n_classes);
  if (tensors.count(kCounts) == 0) return templates;
  LAPLACED_ASSIGN_OR_RETURN(templates.counts, FindTensor(tensors, kCounts, {n_classes}));
  LAPLACED_ASSIGN_OR_RETURN(templates.means, FindTensor(tensors, kMeans, {n_classes, n_classes}));
  return templates;
}

}  // namespace laplaced
