#include "server/model/jacobian_sums.h"

#include <ATen/Dispatch.h>

namespace laplaced {
namespace {

template <typename T>
void AddOuter(const at::Tensor& inputs, const at::Tensor& delta, const T* u,
              const ProductSums& sums) {
  const int64_t in = inputs.size(1), out = delta.size(2);
  const T* a = inputs.data_ptr<T>();
  const T* d = delta.data_ptr<T>();
  AddInParts(out, sums.examples * sums.k * in * out, sums,
             [&](int64_t begin, int64_t end, const ProductSums& part) {
               std::vector<double> along(sums.examples * sums.k);
               for (int64_t o = begin; o < end; ++o) {
                 std::fill(along.begin(), along.end(), 0.0);
                 Kernels<T>().add_product(sums.examples, sums.k, in, a, in, u + o * in * sums.k,
                                          along.data(), sums.k);
                 for (int64_t row = 0; row < sums.examples * sums.rows; ++row) {
                   const auto factor = static_cast<double>(d[row * out + o]);
                   if (factor == 0) continue;
                   const double* from = along.data() + row / sums.rows * sums.k;
                   double* to = part.t + row * sums.k;
                   for (int64_t k = 0; k < sums.k; ++k) to[k] += factor * from[k];
                 }
               }
             });
  // The inner products are few.
  std::vector<double> gram(sums.rows * sums.rows);
  for (int64_t e = 0; e < sums.examples; ++e) {
    double square = 0;
    Kernels<T>().add_gram(1, in, a + e * in, in, &square, 1);
    std::fill(gram.begin(), gram.end(), 0.0);
    Kernels<T>().add_gram(sums.rows, out, d + e * sums.rows * out, out, gram.data(), sums.rows);
    double* g = sums.g + e * sums.rows * sums.rows;
    for (size_t i = 0; i < gram.size(); ++i) g[i] += square * gram[i];
  }
}

}  // namespace

void AddJacobian(const at::Tensor& jacobian, const at::Tensor& u, const at::Tensor& t,
                 const at::Tensor& g) {
  constexpr int64_t kColumns = 1024;
  const at::Tensor j = jacobian.contiguous();
  const int64_t numel = j.size(2), k = u.size(1);
  AT_DISPATCH_FLOATING_TYPES(j.scalar_type(), "AddJacobian", [&] {
    const scalar_t* data = j.data_ptr<scalar_t>();
    const scalar_t* rows = u.data_ptr<scalar_t>();
    AddInParts(
        (numel + kColumns - 1) / kColumns, j.size(0) * j.size(1) * k * numel, SumsOf(t, g, u),
        [&](int64_t begin, int64_t end, const ProductSums& part) {
          for (int64_t c = begin * kColumns; c < std::min(numel, end * kColumns); c += kColumns) {
            AddRowProducts(data + c, numel, std::min(kColumns, numel - c), rows + c * k, part);
          }
        });
  });
}

void AddOuterProducts(const at::Tensor& inputs, const at::Tensor& delta, const at::Tensor& u,
                      const at::Tensor& t, const at::Tensor& g) {
  AT_DISPATCH_FLOATING_TYPES(delta.scalar_type(), "AddOuterProducts", [&] {
    AddOuter<scalar_t>(inputs.contiguous(), delta.contiguous(), u.data_ptr<scalar_t>(),
                       SumsOf(t, g, u));
  });
}

}  // namespace laplaced
