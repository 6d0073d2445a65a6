// How long computations of one kind take, by their number of rows, from those that ran.
//
// Smoothed over about the last ten of each size (powers of two). A value; not thread-safe.
#pragma once

#include <array>
#include <cstdint>

namespace laplaced {

class ComputeProfile {
 public:
  void Add(int64_t rows, double seconds);

  // Seconds for `rows` rows at once: measured, or in proportion to the size nearest to it. 0 if
  // nothing has run yet.
  double Seconds(int64_t rows) const;

  // Seconds of a row among so many that computing them together pays most; 0 likewise.
  double SecondsPerRow() const;

  // Largest power of two up to `most` whose rows take at most `seconds`; 1 if none does.
  int64_t RowsWithin(double seconds, int64_t most) const;

 private:
  static constexpr int kSizes = 7;  // 1 ... 64
  std::array<double, kSizes> seconds_{};
};

// The next power of two is n, or the one below is. REQUIRES: n >= 1.
int64_t PowerOfTwoFrom(int64_t n);
int64_t PowerOfTwoUpTo(int64_t n);

}  // namespace laplaced
