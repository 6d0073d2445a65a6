#include "tests/bench/paper/statistics.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace laplaced::paper {

Estimate MeanOf(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return {};
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : kNone};
}

Estimate RatioOfMeans(const std::vector<double>& above, const std::vector<double>& below) {
  const double denominator = MeanOf(below).value, ratio = MeanOf(above).value / denominator;
  std::vector<double> residuals;
  for (size_t i = 0; i < above.size(); ++i) residuals.push_back(above[i] - ratio * below[i]);
  return {ratio, MeanOf(residuals).standard_error / std::abs(denominator)};
}

Csv::Csv(const std::string& folder, const std::string& name, const std::string& header)
    : path_(folder + "/" + name), file_(path_) {
  Write(header);
}

Csv::~Csv() {
  file_.close();
  if (file_) return;
  std::fprintf(stderr, "paper_curvature: cannot write %s\n", path_.c_str());
  std::exit(1);
}

void Csv::Write(const std::string& line) { file_ << line << std::endl; }

void Csv::Row::Add(const std::string& field) {
  if (!line_.empty()) line_ += ",";
  line_ += field;
}

Csv::Row& Csv::Row::operator<<(const std::string& text) { return Add(text), *this; }
Csv::Row& Csv::Row::operator<<(int64_t number) { return Add(absl::StrCat(number)), *this; }
Csv::Row& Csv::Row::operator<<(double number) {
  return Add(std::isnan(number) ? "" : absl::StrFormat("%.9g", number)), *this;
}

}  // namespace laplaced::paper
