// Text for people: aligned tables, name-value lists, and numbers with as many digits as mean
// something.
//
// Widths count characters, not bytes, so that class names in any script line up. Not synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace laplace::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Missing cells are empty; surplus ones are dropped.
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }

  // Titles, then rows; two blanks between columns, none at the ends of lines.
  std::string ToString() const;
  // The same as a Markdown table.
  std::string ToMarkdown() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// One line of at most `width` characters: any white space becomes a blank, and what is left out is
// marked by "...". `width` is at least 3.
std::string Shortened(const std::string& text, size_t width);

// "name  value" lines with aligned values; further lines of a value stand below its first.
std::string NameValueList(const std::vector<std::pair<std::string, std::string>>& lines);

// Three decimals, but never "0.000" or "1.000" for what is not exactly 0 or 1: "<0.001", ">0.999".
std::string Probability(double value);
// "4.2 %".
std::string Percent(double share);
// Four significant digits; "0" for both zeros.
std::string Number(double value);
// "1,234,567".
std::string Count(int64_t value);
// "850 B", "25.3 MiB", "1.2 GiB".
std::string Bytes(int64_t bytes);
// "850 ms", "12 s", "3 min 20 s".
std::string Seconds(double seconds);
// First 12 hexadecimal digits of a hash, with its "sha256-" prefix if it has one.
std::string ShortHash(const std::string& hash);
// "[1, 28, 28]".
std::string Shape(const std::vector<int64_t>& shape);

}  // namespace laplace::cli
