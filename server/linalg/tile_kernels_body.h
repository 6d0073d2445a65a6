// The kernels of tile_kernels.h for one instruction set. Each tile_kernels_<set>.cc defines
//   LAPLACED_KERNELS       namespace of this version
//   LAPLACED_VECTOR_BYTES  size of a register
//   LAPLACED_TILE          registers that may hold a tile of the result
// and includes this file; the build compiles it with the set's flags. Nothing of the standard
// library may be used here: an inline function compiled with these flags could end up in code for
// every processor.
#include "server/linalg/tile_kernels.h"

namespace laplaced {
namespace LAPLACED_KERNELS {
namespace {

template <typename T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(LAPLACED_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::Type;

template <typename T>
constexpr int kLanes = LAPLACED_VECTOR_BYTES / static_cast<int>(sizeof(T));

constexpr int kTile = LAPLACED_TILE;
constexpr int kVectors = 3;  // of a panel
constexpr int kBlock = kTile / kVectors;

constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
Vector<T> Load(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}
template <typename T>
void Store(T* p, Vector<T> v) {
  *reinterpret_cast<Vector<T>*>(p) = v;
}
template <typename T>
Vector<T> Broadcast(T value) {
  return value - Vector<T>{};
}

// Rows of a tile as wide as `vectors`, few enough for the registers.
constexpr int RowsFor(int vectors) { return kTile / vectors < 8 ? kTile / vectors : 8; }

// acc[m][v] = sum over k of a[m * lda + k] b[k * ldb + v]
template <typename T, int M, int V>
struct Tile {
  Vector<T> acc[M][V];

  [[gnu::always_inline]] inline void Multiply(int64_t k, const T* a, int64_t lda, const T* b,
                                              int64_t ldb) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[m][v] = Vector<T>{};
    }
    for (int64_t i = 0; i < k; ++i, b += ldb) {
      Vector<T> row[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) row[v] = Load(b + v * kLanes<T>);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Vector<T> factor = Broadcast(a[m * lda + i]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[m][v] += factor * row[v];
      }
    }
  }

  // Loops with known ends only, so that the tile never leaves the registers before.
  [[gnu::always_inline]] inline void StoreRows(T* rows, int64_t stride) const {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) Store(rows + m * stride + v * kLanes<T>, acc[m][v]);
    }
  }
};

// Calls f<m>() with the compile-time constant that equals `m`, 1 <= m <= Most.
template <int Most, typename F>
[[gnu::always_inline]] inline void WithRows(int64_t m, const F& f) {
  if constexpr (Most > 1) {
    if (m < Most) return WithRows<Most - 1>(m, f);
  }
  f.template operator()<Most>();
}

template <typename T>
struct PanelTile {
  int64_t k, lda, ldc, columns;
  const T* a;
  const T* panel;
  T* c;

  template <int M>
  void operator()() const {
    constexpr int kPanel = kVectors * kLanes<T>;
    Tile<T, M, kVectors> tile;
    tile.Multiply(k, a, lda, panel, kPanel);
    if (columns == kPanel) {
      tile.StoreRows(c, ldc);
      return;
    }
    T part[M * kPanel];
    tile.StoreRows(part, kPanel);
    for (int m = 0; m < M; ++m) {
      for (int64_t j = 0; j < columns; ++j) c[m * ldc + j] = part[m * kPanel + j];
    }
  }
};

template <typename T>
void MultiplyPanels(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* panels, T* c,
                    int64_t ldc) {
  constexpr int64_t kPanel = kVectors * kLanes<T>;
  for (int64_t j = 0; j < n; j += kPanel, panels += k * kPanel) {
    for (int64_t i = 0; i < m; i += kBlock) {
      const PanelTile<T> tile{
          k, lda, ldc, Least(kPanel, n - j), a + i * lda, panels, c + i * ldc + j};
      WithRows<kBlock>(Least(kBlock, m - i), tile);
    }
  }
}

template <typename T, int V>
struct ColumnTile {
  int64_t k, lda, ldb, ldc, columns;
  const T* a;
  const T* b;
  double* c;

  template <int M>
  void operator()() const {
    constexpr int kWidth = V * kLanes<T>;
    Tile<T, M, V> tile;
    tile.Multiply(k, a, lda, b, ldb);
    T rows[M * kWidth];
    tile.StoreRows(rows, kWidth);
    for (int m = 0; m < M; ++m) {
      double* sums = c + m * ldc;
      const T* row = rows + m * kWidth;
      if (columns == kWidth) {
        for (int j = 0; j < kWidth; ++j) sums[j] += static_cast<double>(row[j]);
      } else {
        for (int64_t j = 0; j < columns; ++j) sums[j] += static_cast<double>(row[j]);
      }
    }
  }
};

// Columns [begin, begin + V vectors) of a product.
template <typename T, int V>
void AddColumns(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, double* c,
                int64_t ldc, int64_t begin) {
  constexpr int kRows = RowsFor(V);
  for (int64_t i = 0; i < m; i += kRows) {
    const ColumnTile<T, V> tile{k,
                                lda,
                                n,
                                ldc,
                                Least(V * kLanes<T>, n - begin),
                                a + i * lda,
                                b + begin,
                                c + i * ldc + begin};
    WithRows<kRows>(Least(kRows, m - i), tile);
  }
}

template <typename T>
void AddProduct(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, double* c,
                int64_t ldc) {
  constexpr int64_t kTerms = 256, kMostVectors = 4;
  if (n == 0) return;
  // A register that starts inside the last rows would read beyond them.
  const int64_t safe = k - Least(k, 1 + kLanes<T> / n);
  const int64_t vectors = (n + kLanes<T> - 1) / kLanes<T>;
  const int64_t parts = (vectors + kMostVectors - 1) / kMostVectors;
  for (int64_t first = 0; first < safe; first += kTerms) {
    const int64_t terms = Least(kTerms, safe - first);
    int64_t begin = 0;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t wide = vectors / parts + (p < vectors % parts ? 1 : 0);
      const T* a0 = a + first;
      const T* b0 = b + first * n;
      if (wide == 1) AddColumns<T, 1>(m, n, terms, a0, lda, b0, c, ldc, begin);
      if (wide == 2) AddColumns<T, 2>(m, n, terms, a0, lda, b0, c, ldc, begin);
      if (wide == 3) AddColumns<T, 3>(m, n, terms, a0, lda, b0, c, ldc, begin);
      if (wide == 4) AddColumns<T, 4>(m, n, terms, a0, lda, b0, c, ldc, begin);
      begin += wide * kLanes<T>;
    }
  }
  for (int64_t i = safe; i < k; ++i) {
    for (int64_t r = 0; r < m; ++r) {
      const double factor = static_cast<double>(a[r * lda + i]);
      for (int64_t j = 0; j < n; ++j) c[r * ldc + j] += factor * static_cast<double>(b[i * n + j]);
    }
  }
}

template <typename T>
double Sum(Vector<T> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += static_cast<double>(v[i]);
  return sum;
}

// Inner products of M rows from a with N rows from b.
template <typename T, int M, int N>
void AddDots(int64_t k, const T* a, const T* b, int64_t lda, double* g, int64_t ldg) {
  Vector<T> acc[M][N];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) acc[m][n] = Vector<T>{};
  }
  int64_t i = 0;
  for (; i + kLanes<T> <= k; i += kLanes<T>) {
    Vector<T> right[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) right[n] = Load(b + n * lda + i);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const Vector<T> left = Load(a + m * lda + i);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[m][n] += left * right[n];
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      double sum = Sum<T>(acc[m][n]);
      for (int64_t j = i; j < k; ++j) {
        sum += static_cast<double>(a[m * lda + j]) * static_cast<double>(b[n * lda + j]);
      }
      g[m * ldg + n] += sum;
    }
  }
}

template <typename T>
void AddGram(int64_t m, int64_t k, const T* a, int64_t lda, double* g, int64_t ldg) {
  constexpr int64_t kTerms = 1024;
  constexpr int kEdge = 3;  // of a tile; 9 sums and 4 operands fit 16 registers
  for (int64_t first = 0; first < k; first += kTerms) {
    const int64_t terms = Least(kTerms, k - first);
    const T* rows = a + first;
    for (int64_t i = 0; i < m; i += kEdge) {
      for (int64_t j = 0; j <= i; j += kEdge) {
        const int64_t tall = Least(kEdge, m - i), wide = Least(kEdge, m - j);
        double tile[kEdge * kEdge] = {};
        const T* left = rows + i * lda;
        const T* right = rows + j * lda;
        if (tall == kEdge && wide == kEdge) {
          AddDots<T, kEdge, kEdge>(terms, left, right, lda, tile, kEdge);
        } else {
          for (int64_t r = 0; r < tall; ++r) {
            if (wide == kEdge) {
              AddDots<T, 1, kEdge>(terms, left + r * lda, right, lda, tile + r * kEdge, kEdge);
            } else {
              for (int64_t s = 0; s < wide; ++s) {
                AddDots<T, 1, 1>(terms, left + r * lda, right + s * lda, lda, tile + r * kEdge + s,
                                 kEdge);
              }
            }
          }
        }
        for (int64_t r = 0; r < tall; ++r) {
          for (int64_t s = 0; s < wide; ++s) {
            const double sum = tile[r * kEdge + s];
            g[(i + r) * ldg + j + s] += sum;
            if (i != j) g[(j + s) * ldg + i + r] += sum;
          }
        }
      }
    }
  }
}

// One tile of a shifted product: a block of rows, V registers from V places.
template <typename T, int V>
void ShiftedTile(const ShiftedProduct<T>& p, const T* weights, int64_t first_row, int64_t v0) {
  Vector<T> acc[kBlock][V];
#pragma GCC unroll 8
  for (int m = 0; m < kBlock; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[m][v] = Vector<T>{};
  }
  const T* from[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) from[v] = p.source + p.sources[v0 + v];
  for (int64_t k = 0; k < p.terms; ++k, weights += kBlock) {
    const int64_t offset = p.offsets[k];
    Vector<T> value[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = Load(from[v] + offset);
#pragma GCC unroll 8
    for (int m = 0; m < kBlock; ++m) {
      const Vector<T> factor = Broadcast(weights[m]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[m][v] += factor * value[v];
    }
  }
  const int64_t valid = p.rows - first_row;
  T* to[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) to[v] = p.target + p.targets[v0 + v] + first_row * p.row_stride;
#pragma GCC unroll 8
  for (int m = 0; m < kBlock; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (m < valid) Store(to[v] + m * p.row_stride, acc[m][v]);
    }
  }
}

template <typename T>
void ApplyShifted(const ShiftedProduct<T>& p) {
  for (int64_t v = 0; v < p.n_vectors; v += kVectors) {
    const int64_t wide = Least(kVectors, p.n_vectors - v);
    const T* weights = p.weights;
    for (int64_t m = 0; m < p.rows; m += kBlock, weights += p.terms * kBlock) {
      if (wide == 3) ShiftedTile<T, 3>(p, weights, m, v);
      if (wide == 2) ShiftedTile<T, 2>(p, weights, m, v);
      if (wide == 1) ShiftedTile<T, 1>(p, weights, m, v);
    }
  }
}

// Swaps the upper right and lower left quarters of every square of 2 * Half lanes, the last of the
// steps that transpose a square of registers.
template <typename T, int Half>
[[gnu::always_inline]] inline void SwapQuarters(Vector<T>* rows) {
  typedef decltype(Vector<T>{} == Vector<T>{}) Mask;
  Mask low{}, high{};
  for (int i = 0; i < kLanes<T>; ++i) {
    const int pair = i & ~(2 * Half - 1), inner = i & (Half - 1);
    const bool second = (i & Half) != 0;
    low[i] = pair + inner + (second ? kLanes<T> : 0);
    high[i] = pair + inner + Half + (second ? kLanes<T> : 0);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if ((i & Half) != 0) continue;
    const Vector<T> a = rows[i], b = rows[i + Half];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + Half] = __builtin_shuffle(a, b, high);
  }
}

template <typename T>
[[gnu::always_inline]] inline void Transpose(Vector<T>* rows) {
  if constexpr (kLanes<T> >= 16) SwapQuarters<T, 8>(rows);
  if constexpr (kLanes<T> >= 8) SwapQuarters<T, 4>(rows);
  if constexpr (kLanes<T> >= 4) SwapQuarters<T, 2>(rows);
  if constexpr (kLanes<T> >= 2) SwapQuarters<T, 1>(rows);
}

template <typename T>
void PackPatches(const Patches<T>& p, T* panels) {
  constexpr int L = kLanes<T>;
  constexpr int64_t kPanel = kVectors * L;
  const int64_t places = p.height * p.width;
  for (int64_t j0 = 0; j0 < p.columns; j0 += kPanel, panels += places * kPanel) {
    for (int64_t g = 0; g < kPanel; g += L) {
      const int64_t valid = p.columns - j0 - g < 0 ? 0 : Least(L, p.columns - j0 - g);
      T* out = panels + g;
      for (int64_t y = 0; y < p.height; ++y) {
        const T* row = p.source + y * p.row_stride;
        int64_t x = 0;
        if (p.column_stride == 1 && valid == L) {
          const int64_t* offsets = p.offsets + j0 + g;
          for (; x + L <= p.width; x += L) {
            Vector<T> square[L];
#pragma GCC unroll 16
            for (int j = 0; j < L; ++j) square[j] = Load(row + x + offsets[j]);
            Transpose<T>(square);
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) Store(out + i * kPanel, square[i]);
            out += L * kPanel;
          }
        }
        for (; x < p.width; ++x, out += kPanel) {
          const T* place = row + x * p.column_stride;
          for (int64_t j = 0; j < L; ++j) out[j] = j < valid ? place[p.offsets[j0 + g + j]] : T{0};
        }
      }
    }
  }
}

template <typename T>
void PackRows(int64_t rows, int64_t terms, const T* weights, int64_t row_stride,
              const int64_t* columns, T* packed) {
  for (int64_t m = 0; m < rows; m += kBlock) {
    for (int64_t k = 0; k < terms; ++k) {
      for (int i = 0; i < kBlock; ++i) {
        *packed++ = m + i < rows ? weights[(m + i) * row_stride + columns[k]] : T{0};
      }
    }
  }
}

template <typename T>
void Gate(int64_t n, const T* gate, const T* from, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = gate[i] <= T{0} ? T{0} : from[i];
}

template <typename T>
void ScaleRows(int64_t rows, int64_t length, const T* factors, const T* from, T* to) {
  for (int64_t r = 0; r < rows; ++r, from += length, to += length) {
    const T factor = factors[r];
    for (int64_t i = 0; i < length; ++i) to[i] = factor * from[i];
  }
}

template <typename T>
void SumRows(int64_t rows, int64_t length, const T* from, const T* with, T* sums) {
  constexpr int L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r, from += length) {
    const T* factor = with == nullptr ? nullptr : with + r * length;
    Vector<T> even{}, odd{};  // one register alone would wait for itself
    int64_t i = 0;
    if (factor == nullptr) {
      for (; i + 2 * L <= length; i += 2 * L) {
        even += Load(from + i);
        odd += Load(from + i + L);
      }
    } else {
      for (; i + 2 * L <= length; i += 2 * L) {
        even += Load(from + i) * Load(factor + i);
        odd += Load(from + i + L) * Load(factor + i + L);
      }
    }
    double sum = Sum<T>(even) + Sum<T>(odd);
    for (; i < length; ++i) {
      sum +=
          static_cast<double>(from[i]) * (factor == nullptr ? 1 : static_cast<double>(factor[i]));
    }
    sums[r] = static_cast<T>(sum);
  }
}

template <typename T>
constexpr TileKernels<T> kKernels = {
    kLanes<T>,     kBlock,       kVectors* kLanes<T>, MultiplyPanels<T>,
    AddProduct<T>, AddGram<T>,   ApplyShifted<T>,     PackPatches<T>,
    Gate<T>,       ScaleRows<T>, SumRows<T>,          PackRows<T>,
};

}  // namespace

extern const TileKernels<float> kFloat;
extern const TileKernels<double> kDouble;
const TileKernels<float> kFloat = kKernels<float>;
const TileKernels<double> kDouble = kKernels<double>;

}  // namespace LAPLACED_KERNELS
}  // namespace laplaced
