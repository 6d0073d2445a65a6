#include "server/laplace/function_sampler.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "server/linalg/mix_bits.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Several draws share one pass over the directions; elements of their noise at the most.
constexpr int64_t kNoiseNumel = int64_t{1} << 23;
constexpr int64_t kMostAtOnce = 16;

void HoldAtMode(const Network& network, const std::vector<bool>& parameters,
                const at::Tensor& deviations) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i]) continue;
    const Parameter& p = network.parameters()[i];
    deviations.narrow(0, p.offset, p.value.numel()).zero_();
  }
}

}  // namespace

at::Tensor DrawNoise(uint64_t seed, int64_t draw, int64_t n_parameters, at::ScalarType dtype) {
  const uint64_t mixed = MixBits(MixBits(seed) ^ static_cast<uint64_t>(draw));
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(mixed);
  return at::randn({n_parameters}, generator, at::TensorOptions(dtype));
}

absl::Status FunctionSampler::ForEachDraw(const Structure& structure, const Precisions& at,
                                          const std::vector<at::Tensor>& blocks,
                                          const FunctionDraws& draws, const Visit& visit,
                                          const std::function<absl::Status()>& check) const {
  return CatchTorch("function samples", [&]() -> absl::Status {
    const int64_t p = network_.n_parameters();
    // Of one width even where fewer are left, so that a draw's arithmetic does not depend on how
    // many are asked for.
    const int64_t width = std::clamp<int64_t>(kNoiseNumel / p, 1, kMostAtOnce);
    at::NoGradGuard no_grad;
    for (int64_t begin = 0; begin < draws.count; begin += width) {
      const int64_t count = std::min(width, draws.count - begin);
      at::Tensor noise = at::zeros({width, p}, at::TensorOptions(network_.dtype()));
      for (int64_t i = 0; i < count; ++i) {
        noise[i].copy_(DrawNoise(draws.seed, begin + i, p, network_.dtype()));
      }
      const at::Tensor deviations =
          structure.Deviations(at, noise.t()).to(network_.dtype()).t().contiguous();  // [width, P]
      noise.reset();
      HoldAtMode(network_, draws.parameters, deviations.t());
      for (int64_t i = 0; i < count; ++i) {
        for (size_t block = 0; block < blocks.size(); ++block) {
          LAPLACED_RETURN_IF_ERROR(check());
          at::Tensor jv;
          {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!own_) {
              LAPLACED_ASSIGN_OR_RETURN(Network copy, network_.Clone());
              own_.emplace(std::move(copy));
            }
            jv = own_->ForwardAndJvp(blocks[block], deviations[i]).second;
          }
          visit(begin + i, block, jv);
        }
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace laplaced
