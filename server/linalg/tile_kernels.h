// Matrix products of the shapes that per-example gradients have, on one thread, out of cache-sized
// tiles.
//
// A per-example Jacobian is made by many small products and used once: a BLAS that packs its
// operands spends as long on copying as on computing. These kernels read every operand where it
// lies, keep a tile of the result in registers, and reach what a large matrix product reaches. They
// are compiled for several instruction sets; the processor chooses once. Plain pointers, row-major,
// no LibTorch; nothing is allocated. Thread-safe.
#pragma once

#include <cstdint>

namespace laplaced {

// Sums of shifted copies of a signal: a convolution of stride one.
//   target[targets[v] + m * row_stride + i] = sum over k of W[m, k] source[sources[v] + offsets[k]
//   + i]
// for i < vector, v < n_vectors, m < rows. Targets may overlap where their values are equal.
template <typename T>
struct ShiftedProduct {
  int64_t rows;
  int64_t terms;
  const T* weights;  // as PackRows lays them out
  const int64_t* offsets;
  const T* source;
  T* target;
  int64_t row_stride;
  int64_t n_vectors;
  const int64_t* sources;
  const int64_t* targets;
};

// Patches of an image, one row for each of height * width places:
//   patch[y * width + x, j] = source[y * row_stride + x * column_stride + offsets[j]], j < columns
template <typename T>
struct Patches {
  const T* source;
  int64_t height, width, row_stride, column_stride;
  int64_t columns;
  const int64_t* offsets;
};

template <typename T>
struct TileKernels {
  int64_t vector;  // numbers in a register
  int64_t block;   // rows that PackRows puts next to each other
  int64_t panel;   // columns of a panel: a matrix [k, n] in panels is [ceil(n / panel), k, panel]

  // C[m, n] = A[m, k] B[k, n], with B in panels. Rows of A and C are `lda` and `ldc` apart.
  void (*multiply_panels)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* panels,
                          T* c, int64_t ldc);

  // C[m, n] += A[m, k] B[k, n] for few columns n; sums of 256 terms are added up in fp64.
  void (*add_product)(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                      double* c, int64_t ldc);

  // G[m, m] += A A', A [m, k]; sums of 1,024 terms are added up in fp64.
  void (*add_gram)(int64_t m, int64_t k, const T* a, int64_t lda, double* g, int64_t ldg);

  void (*shifted_product)(const ShiftedProduct<T>& product);

  // The patches in panels, filled up with zeros.
  void (*pack_patches)(const Patches<T>& patches, T* panels);

  // to[i] = gate[i] <= 0 ? 0 : from[i]. `to` may be `from`.
  void (*gate)(int64_t n, const T* gate, const T* from, T* to);

  // For `rows` rows of `length` numbers, one after the other: to[r, i] = factors[r] from[r, i]
  // (`to` may be `from`); sums[r] = sum over i of from[r, i] with[r, i], or of from[r, i] if `with`
  // is null.
  void (*scale_rows)(int64_t rows, int64_t length, const T* factors, const T* from, T* to);
  void (*sum_rows)(int64_t rows, int64_t length, const T* from, const T* with, T* sums);

  // W [rows, terms] as ShiftedProduct wants it: [ceil(rows / block), terms, block], filled up with
  // zeros. W[m, k] is weights[m * row_stride + columns[k]].
  void (*pack_rows)(int64_t rows, int64_t terms, const T* weights, int64_t row_stride,
                    const int64_t* columns, T* packed);
};

// For float and double: the fastest that this processor runs.
template <typename T>
const TileKernels<T>& Kernels();

// Every version that this processor runs, the plainest first, with its name: for tests.
struct NamedKernels {
  const char* name;
  const TileKernels<float>* single;
  const TileKernels<double>* dual;
};
int64_t AvailableKernels(NamedKernels* found, int64_t most);

}  // namespace laplaced
