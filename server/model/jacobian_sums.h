// Adds up T = J U and G = J J' from pieces of per-example Jacobians, on all threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "server/linalg/tile_kernels.h"

namespace laplaced {

// Of b examples with R rows each: t [b, R, K] and g [b, R, R], row-major. Does not own them.
struct ProductSums {
  double* t;
  double* g;
  int64_t examples, rows, k;

  int64_t NumelT() const { return examples * rows * k; }
  int64_t NumelG() const { return examples * rows * rows; }
};

// Of t and g for directions u [numel, K]; all must be contiguous.
inline ProductSums SumsOf(const at::Tensor& t, const at::Tensor& g, const at::Tensor& u) {
  TORCH_CHECK(t.is_contiguous() && g.is_contiguous() && u.is_contiguous(),
              "expected row-major tensors");
  return {t.data_ptr<double>(), g.data_ptr<double>(), t.size(0), t.size(1), t.size(2)};
}

// The share of `numel` columns of the Jacobian: `jacobian` [b * R, numel], rows `stride` apart, and
// their rows u [numel, K] of the directions, row-major.
template <typename T>
void AddRowProducts(const T* jacobian, int64_t stride, int64_t numel, const T* u,
                    const ProductSums& sums) {
  const TileKernels<T>& kernels = Kernels<T>();
  kernels.add_product(sums.examples * sums.rows, sums.k, numel, jacobian, stride, u, sums.t,
                      sums.k);
  for (int64_t e = 0; e < sums.examples; ++e) {
    kernels.add_gram(sums.rows, numel, jacobian + e * sums.rows * stride, stride,
                     sums.g + e * sums.rows * sums.rows, sums.rows);
  }
}

// Multiply-adds that are worth waking another thread for.
inline constexpr int64_t kMacsForAThread = 2'000'000;

// Calls add(begin, end, sums) for parts of [0, n), which are `macs` multiply-adds together: on
// several threads if they are worth it and the caller is not one of several already. Every part has
// sums of its own, which are added in order: what a sum is made of depends on the number of
// threads, not on their timing.
template <typename Add>
void AddInParts(int64_t n, int64_t macs, const ProductSums& sums, const Add& add) {
  const int64_t parts = at::in_parallel_region()
                            ? 1
                            : std::min<int64_t>({at::get_num_threads(), n, macs / kMacsForAThread});
  if (parts <= 1) {
    add(int64_t{0}, n, sums);
    return;
  }
  const int64_t numel = sums.NumelT() + sums.NumelG();
  std::vector<double> partial(parts * numel);
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      ProductSums part = sums;
      part.t = partial.data() + p * numel;
      part.g = part.t + sums.NumelT();
      add(p * n / parts, (p + 1) * n / parts, part);
    }
  });
  for (int64_t p = 0; p < parts; ++p) {
    const double* part = partial.data() + p * numel;
    for (int64_t i = 0; i < sums.NumelT(); ++i) sums.t[i] += part[i];
    for (int64_t i = 0; i < sums.NumelG(); ++i) sums.g[i] += part[sums.NumelT() + i];
  }
}

// All of a Jacobian [b, R, numel] that is there as a whole, with u [numel, K] row-major.
void AddJacobian(const at::Tensor& jacobian, const at::Tensor& u, const at::Tensor& t,
                 const at::Tensor& g);

// Of a weight [out, in] whose gradient is an outer product for every example, delta a', with inputs
// a [b, in] and delta [b, R, out]: J U = sum over outputs o of delta_o (a' U_o), which costs R
// times less than going through J, and J J' = (delta delta') (a' a).
void AddOuterProducts(const at::Tensor& inputs, const at::Tensor& delta, const at::Tensor& u,
                      const at::Tensor& t, const at::Tensor& g);

}  // namespace laplaced
