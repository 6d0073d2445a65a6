// Every version of the kernels that this processor runs, against sums written out, at sizes with
// all kinds of remainders.
#include "server/linalg/tile_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace laplaced {
namespace {

template <typename T>
const TileKernels<T>& Of(const NamedKernels& named);
template <>
const TileKernels<float>& Of<float>(const NamedKernels& named) {
  return *named.single;
}
template <>
const TileKernels<double>& Of<double>(const NamedKernels& named) {
  return *named.dual;
}

template <typename T>
class TileKernelsTest : public testing::Test {
 protected:
  std::vector<T> Random(int64_t n) {
    std::normal_distribution<double> normal;
    std::vector<T> values(n);
    for (T& v : values) v = static_cast<T>(normal(random_));
    return values;
  }

  // Relative to the size that sums of `terms` products of standard normals have.
  static double Tolerance(int64_t terms) {
    return 8 * std::numeric_limits<T>::epsilon() * std::sqrt(static_cast<double>(terms) + 1) *
           std::log2(static_cast<double>(terms) + 2);
  }

  template <typename F>
  void ForEachVersion(const F& check) {
    NamedKernels found[8];
    const int64_t count = AvailableKernels(found, 8);
    ASSERT_GE(count, 1);
    EXPECT_EQ(&Kernels<T>(), &Of<T>(found[count - 1]));
    for (int64_t i = 0; i < count; ++i) {
      SCOPED_TRACE(found[i].name);
      check(Of<T>(found[i]));
    }
  }

  std::mt19937_64 random_{7};
};

using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(TileKernelsTest, Precisions);

// [k, n] in panels; whatever is beyond n must not matter.
template <typename T>
std::vector<T> InPanels(const std::vector<T>& b, int64_t k, int64_t n, int64_t panel) {
  std::vector<T> panels((n + panel - 1) / panel * k * panel, T{99});
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      panels[(j / panel * k + i) * panel + j % panel] = b[i * n + j];
    }
  }
  return panels;
}

TYPED_TEST(TileKernelsTest, PanelsMultiply) {
  using T = TypeParam;
  this->ForEachVersion([&](const TileKernels<T>& kernels) {
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 0}, {4, 24, 7}, {10, 50, 33}, {13, 97, 300}}) {
      const int64_t lda = k + 3, ldc = n + 2;
      const auto a = this->Random(m * lda), b = this->Random(k * n);
      std::vector<T> c(m * ldc, T{-7});
      const auto panels = InPanels(b, k, n, kernels.panel);
      kernels.multiply_panels(m, n, k, a.data(), lda, panels.data(), c.data(), ldc);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < ldc; ++j) {
          double sum = 0;
          for (int64_t l = 0; j < n && l < k; ++l) sum += double{a[i * lda + l]} * b[l * n + j];
          EXPECT_NEAR(c[i * ldc + j], j < n ? sum : -7, this->Tolerance(k));
        }
      }
    }
  });
}

TYPED_TEST(TileKernelsTest, ProductsAndGramsAddUp) {
  using T = TypeParam;
  this->ForEachVersion([&](const TileKernels<T>& kernels) {
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                  {2, 0, 5},
                                  {3, 3, 700},
                                  {10, 50, 257},
                                  {11, 10, 2},
                                  {7, 200, 1030},
                                  {4, 33, 64}}) {
      const int64_t lda = k + 1;
      const auto a = this->Random(m * lda), b = this->Random(k * n);
      std::vector<double> c(m * n, 0.5), g(m * m, 0.25);
      kernels.add_product(m, n, k, a.data(), lda, b.data(), c.data(), n);
      kernels.add_gram(m, k, a.data(), lda, g.data(), m);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.5;
          for (int64_t l = 0; l < k; ++l) sum += double{a[i * lda + l]} * b[l * n + j];
          EXPECT_NEAR(c[i * n + j], sum, this->Tolerance(k)) << m << " " << n << " " << k;
        }
        for (int64_t j = 0; j < m; ++j) {
          double sum = 0.25;
          for (int64_t l = 0; l < k; ++l) sum += double{a[i * lda + l]} * a[j * lda + l];
          // Squares have mean one.
          EXPECT_NEAR(g[i * m + j], sum, this->Tolerance(k) * std::sqrt(1.0 + k)) << m << " " << k;
        }
      }
    }
  });
}

TYPED_TEST(TileKernelsTest, ShiftedCopiesAddUp) {
  using T = TypeParam;
  this->ForEachVersion([&](const TileKernels<T>& kernels) {
    for (const int64_t rows : {1, 4, 7, 16}) {
      for (const int64_t n_vectors : {1, 2, 3, 8}) {
        const int64_t terms = 5, length = n_vectors * kernels.vector;
        const std::vector<int64_t> offsets = {0, 3, 1, 40, 2}, columns = {4, 0, 1, 2, 3};
        const auto source = this->Random(length + 64), w = this->Random(rows * terms);
        std::vector<T> packed((rows + kernels.block - 1) / kernels.block * kernels.block * terms);
        kernels.pack_rows(rows, terms, w.data(), terms, columns.data(), packed.data());
        std::vector<int64_t> places;  // the last one overlaps the one before
        for (int64_t v = 0; v < n_vectors; ++v) places.push_back(v * kernels.vector);
        if (n_vectors > 1) places.back() -= 1;
        std::vector<T> target(rows * length);
        kernels.shifted_product({rows, terms, packed.data(), offsets.data(), source.data(),
                                 target.data(), length, n_vectors, places.data(), places.data()});
        for (int64_t m = 0; m < rows; ++m) {
          for (int64_t i = 0; i < length - (n_vectors > 1 ? 1 : 0); ++i) {
            double sum = 0;
            for (int64_t k = 0; k < terms; ++k) {
              sum += double{w[m * terms + columns[k]]} * source[i + offsets[k]];
            }
            EXPECT_NEAR(target[m * length + i], sum, this->Tolerance(terms));
          }
        }
      }
    }
  });
}

TYPED_TEST(TileKernelsTest, RowsAreGatedScaledAndSummed) {
  using T = TypeParam;
  this->ForEachVersion([&](const TileKernels<T>& kernels) {
    for (const int64_t length : {1, 7, 16, 33, 100}) {
      const int64_t rows = 3, n = rows * length;
      const auto from = this->Random(n), with = this->Random(n), factors = this->Random(rows);
      std::vector<T> gates = with, to(n), scaled = from, sums(rows), dots(rows);
      gates[0] = 0;
      kernels.gate(n, gates.data(), from.data(), to.data());
      kernels.scale_rows(rows, length, factors.data(), scaled.data(), scaled.data());
      kernels.sum_rows(rows, length, from.data(), nullptr, sums.data());
      kernels.sum_rows(rows, length, from.data(), with.data(), dots.data());
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0, dot = 0;
        for (int64_t i = r * length; i < (r + 1) * length; ++i) {
          EXPECT_EQ(to[i], gates[i] > 0 ? from[i] : T{0});
          EXPECT_EQ(scaled[i], factors[r] * from[i]);
          sum += from[i];
          dot += double{from[i]} * with[i];
        }
        EXPECT_NEAR(sums[r], sum, this->Tolerance(length));
        EXPECT_NEAR(dots[r], dot, this->Tolerance(length));
      }
    }
  });
}

TYPED_TEST(TileKernelsTest, PatchesArePacked) {
  using T = TypeParam;
  this->ForEachVersion([&](const TileKernels<T>& kernels) {
    for (const int64_t width : {1, 7, 8, 19, 32}) {
      for (const int64_t columns : {1, 9, 27, 100}) {
        for (const int64_t column_stride : {1, 2}) {
          const int64_t height = 3, row_stride = 80, panel = kernels.panel;
          const auto source = this->Random(height * row_stride + 400);
          std::vector<int64_t> offsets;
          for (int64_t j = 0; j < columns; ++j) offsets.push_back(3 * j % 101);
          const int64_t count = (columns + panel - 1) / panel, places = height * width;
          std::vector<T> panels(count * places * panel, T{99});
          kernels.pack_patches(
              {source.data(), height, width, row_stride, column_stride, columns, offsets.data()},
              panels.data());
          for (int64_t j = 0; j < count * panel; ++j) {
            for (int64_t p = 0; p < places; ++p) {
              const T expected =
                  j < columns
                      ? source[p / width * row_stride + p % width * column_stride + offsets[j]]
                      : T{0};
              ASSERT_EQ(panels[(j / panel * places + p) * panel + j % panel], expected)
                  << "column " << j << ", place " << p << ", width " << width;
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace laplaced
