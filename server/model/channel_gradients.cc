#include "server/model/channel_gradients.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "server/linalg/tile_kernels.h"

namespace laplaced {
namespace {

// Rows of `numel` numbers that are worth waking another thread for.
int64_t Grain(int64_t numel) {
  constexpr int64_t kNumbers = 1 << 17;
  return std::max<int64_t>(1, kNumbers / std::max<int64_t>(1, numel));
}

}  // namespace

at::Tensor GradientThroughRelu(const at::Tensor& y, const at::Tensor& grads, bool in_place) {
  const at::Tensor from = grads.contiguous(), gate = y.contiguous();
  const at::Tensor to = in_place && grads.is_contiguous() ? grads : at::empty_like(from);
  const int64_t n = gate.numel();
  AT_DISPATCH_FLOATING_TYPES(from.scalar_type(), "GradientThroughRelu", [&] {
    const scalar_t* g = from.data_ptr<scalar_t>();
    scalar_t* result = to.data_ptr<scalar_t>();
    at::parallel_for(0, from.size(0), Grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        Kernels<scalar_t>().gate(n, gate.data_ptr<scalar_t>(), g + r * n, result + r * n);
      }
    });
  });
  return to;
}

at::Tensor ScaledChannels(const at::Tensor& factors, const at::Tensor& grads, bool in_place) {
  const at::Tensor from = grads.contiguous();
  const at::Tensor to = in_place && grads.is_contiguous() ? grads : at::empty_like(from);
  const at::Tensor f = factors.to(from.scalar_type()).contiguous();
  const int64_t images = from.size(0) * from.size(1), channels = from.size(2),
                numel = from.numel() / images;
  AT_DISPATCH_FLOATING_TYPES(from.scalar_type(), "ScaledChannels", [&] {
    const scalar_t* g = from.data_ptr<scalar_t>();
    scalar_t* result = to.data_ptr<scalar_t>();
    at::parallel_for(0, images, Grain(numel), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Kernels<scalar_t>().scale_rows(channels, numel / channels, f.data_ptr<scalar_t>(),
                                       g + i * numel, result + i * numel);
      }
    });
  });
  return to;
}

at::Tensor SumOverPlaces(const at::Tensor& grads, const at::Tensor& x) {
  if (grads.dim() == 3) return x.defined() ? grads * x.unsqueeze(1) : grads;
  const at::Tensor g = grads.select(0, 0).select(0, 0).is_contiguous() ? grads : grads.contiguous();
  const int64_t b = g.size(0), seeds = g.size(1), channels = g.size(2);
  const int64_t numel = g.numel() / (b * seeds);
  const at::Tensor with = x.defined() ? x.contiguous() : x;
  const at::Tensor sums = at::empty({b, seeds, channels}, g.options());
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "SumOverPlaces", [&] {
    const scalar_t* from = g.data_ptr<scalar_t>();
    const scalar_t* factors = with.defined() ? with.data_ptr<scalar_t>() : nullptr;
    scalar_t* to = sums.data_ptr<scalar_t>();
    at::parallel_for(0, b * seeds, Grain(numel), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t e = i / seeds;
        Kernels<scalar_t>().sum_rows(
            channels, numel / channels, from + e * g.stride(0) + i % seeds * g.stride(1),
            factors == nullptr ? nullptr : factors + e * numel, to + i * channels);
      }
    });
  });
  return sums;
}

}  // namespace laplaced
