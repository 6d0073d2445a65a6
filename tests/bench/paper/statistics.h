// Means over repetitions with their errors, and CSV files of them.
#pragma once

#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace laplaced::paper {

inline constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

struct Estimate {
  double value = kNone;
  double standard_error = kNone;  // NaN for fewer than two repetitions
};

Estimate MeanOf(const std::vector<double>& values);

// mean(above) / mean(below) of paired repetitions; the error by linearisation: that of the mean of
// above - ratio * below, over |mean(below)|.
Estimate RatioOfMeans(const std::vector<double>& above, const std::vector<double>& below);

// One file: a header, then rows. Fields are texts without commas, whole numbers, and numbers, of
// which NaN becomes an empty field. Ends the program if the disk refuses.
class Csv {
 public:
  Csv(const std::string& folder, const std::string& name, const std::string& header);
  ~Csv();

  class Row {
   public:
    explicit Row(Csv& csv) : csv_(csv) {}
    ~Row() { csv_.Write(line_); }
    Row(const Row&) = delete;
    Row& operator=(const Row&) = delete;
    Row& operator<<(const std::string& text);
    Row& operator<<(int64_t number);
    Row& operator<<(double number);
    Row& operator<<(const Estimate& estimate) {
      return *this << estimate.value << estimate.standard_error;
    }

   private:
    void Add(const std::string& field);
    Csv& csv_;
    std::string line_;
  };
  Row NewRow() { return Row(*this); }

 private:
  void Write(const std::string& line);

  std::string path_;
  std::ofstream file_;
};

}  // namespace laplaced::paper
