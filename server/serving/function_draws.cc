#include "server/serving/function_draws.h"

#include <algorithm>

#include "server/model/torch_status.h"
#include "server/serving/example_blocks.h"

namespace laplaced {
namespace {

// Visits rows [begin, begin + deviation.size(0)) of `raw`, draw by draw.
template <typename Visit>
absl::Status ForEachDraw(const DrawJob& job, const Posterior& value, const at::Tensor& raw,
                         const FunctionDraws& draws, const Visit& visit) {
  const UncertainNetwork& uncertain = job.posterior.uncertain;
  const int64_t size = ForwardModeBlock(uncertain.network, uncertain.capture);
  return job.posterior.sampler->ForEachDraw(
      *value.structure, value.precisions(), PaddedBlocks(job.model, raw, size), draws,
      [&](int64_t draw, size_t block, const at::Tensor& deviation) {
        const int64_t begin = static_cast<int64_t>(block) * size;
        visit(draw, begin, deviation.narrow(0, 0, std::min(size, raw.size(0) - begin)));
      },
      [&] { return job.context.Check(); });
}

}  // namespace

int64_t DrawGroup(int64_t n_outputs, bool covariance) {
  constexpr int64_t kNumel = int64_t{1} << 24;
  const int64_t most = kNumel / (covariance ? n_outputs * n_outputs : n_outputs);
  if (most >= kForwardBlock) return most / kForwardBlock * kForwardBlock;
  return std::max<int64_t>(1, most);
}

absl::StatusOr<at::Tensor> Outputs(const DrawJob& job, const at::Tensor& raw, int64_t first) {
  std::vector<at::Tensor> f;
  for (int64_t begin = 0; begin < raw.size(0); begin += kForwardBlock) {
    LAPLACED_RETURN_IF_ERROR(job.context.Check());
    f.push_back(ForwardBlock(job.model, raw, begin, std::min(kForwardBlock, raw.size(0) - begin)));
    LAPLACED_RETURN_IF_ERROR(CheckFinite(f.back(), first + begin));
  }
  return at::cat(f);
}

absl::StatusOr<DrawMoments> Draw(const DrawJob& job, const Posterior& value, const at::Tensor& raw,
                                 const at::Tensor& f, int64_t first, bool covariance) {
  DrawMoments moments(f, job.posterior.likelihood.kind, covariance);
  LAPLACED_RETURN_IF_ERROR(
      ForEachDraw(job, value, raw, {job.seed, job.samples, {}},
                  [&](int64_t, int64_t begin, const at::Tensor& d) { moments.Add(begin, d); }));
  LAPLACED_RETURN_IF_ERROR(CheckFinite(moments.Variance(job.samples), first));
  return moments;
}

absl::StatusOr<OodInputs> DrawForScores(const DrawJob& job, const std::vector<std::string>& scores,
                                        const at::Tensor& raw, const at::Tensor& f, int64_t first) {
  OodInputs inputs;
  inputs.f = f;
  if (!NeedsPosterior(scores)) return inputs;
  LAPLACED_ASSIGN_OR_RETURN(const DrawMoments moments,
                            Draw(job, job.posterior.ood_value, raw, f, first, false));
  inputs.variance = moments.Variance(job.samples);
  switch (job.posterior.likelihood.kind) {
    case Likelihood::Kind::kCategorical:
      inputs.mutual_information = moments.Categorical(job.samples).epistemic;
      break;
    case Likelihood::Kind::kBernoulli:
      inputs.mutual_information = moments.Bernoulli(job.samples).epistemic.sum(1);
      break;
    case Likelihood::Kind::kGaussian:
      break;
  }
  return inputs;
}

absl::StatusOr<std::vector<float>> DrawFunctions(const DrawJob& job, const Posterior& value,
                                                 const std::vector<bool>& parameters,
                                                 const at::Tensor& raw, const at::Tensor& f,
                                                 int64_t count) {
  std::vector<float> functions(static_cast<size_t>(count * f.numel()));
  const at::Tensor all = at::from_blob(functions.data(), {count, f.size(0), f.size(1)}, at::kFloat);
  LAPLACED_RETURN_IF_ERROR(
      ForEachDraw(job, value, raw, {job.seed, count, parameters},
                  [&](int64_t draw, int64_t begin, const at::Tensor& d) {
                    all[draw].narrow(0, begin, d.size(0)).copy_(f.narrow(0, begin, d.size(0)) + d);
                  }));
  return functions;
}

}  // namespace laplaced
