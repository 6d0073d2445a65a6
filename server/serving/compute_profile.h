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

  // Seconds for `rows` rows at once: measured, or from the size nearest to it. A larger size than
  // any that ran is guessed to take a quarter more for each doubling, so that it is tried; more
  // than 64 rows go in blocks. 0 if nothing has run yet.
  double Seconds(int64_t rows) const;

  // Largest power of two up to `most` whose rows take at most `seconds`; 1 if none does.
  int64_t RowsWithin(double seconds, int64_t most) const;

 private:
  static constexpr int kSizes = 7;  // 1 ... 64
  static constexpr int64_t kMost = int64_t{1} << (kSizes - 1);
  std::array<double, kSizes> seconds_{};
};

// The next power of two is n, or the one below is. REQUIRES: n >= 1.
int64_t PowerOfTwoFrom(int64_t n);
int64_t PowerOfTwoUpTo(int64_t n);

}  // namespace laplaced
