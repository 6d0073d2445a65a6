#include "client/cli/table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace laplace::cli {
namespace {

// Characters of UTF-8 text: bytes that do not continue another.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths,
                 const std::vector<Table::Column>& columns) {
  std::string line;
  for (size_t i = 0; i < columns.size(); ++i) {
    if (i > 0) line += "  ";
    const std::string padding(widths[i] - Width(cells[i]), ' ');
    line += columns[i].align == Table::Align::kRight ? padding + cells[i] : cells[i] + padding;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<std::string> titles;
  std::vector<size_t> widths;
  for (const Column& column : columns_) {
    titles.push_back(column.title);
    widths.push_back(Width(column.title));
  }
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text = Line(titles, widths, columns_);
  for (const auto& row : rows_) text += Line(row, widths, columns_);
  return text;
}

std::string Table::ToMarkdown() const {
  const auto line = [](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (const std::string& cell : cells) {
      absl::StrAppend(&text, " ", absl::StrReplaceAll(cell, {{"|", "\\|"}, {"\n", " "}}), " |");
    }
    return text + "\n";
  };
  std::vector<std::string> titles;
  std::string rule = "|";
  for (const Column& column : columns_) {
    titles.push_back(column.title);
    rule += column.align == Align::kRight ? "---:|" : "---|";
  }
  std::string text = line(titles) + rule + "\n";
  for (const auto& row : rows_) text += line(row);
  return text;
}

std::string Shortened(const std::string& text, size_t width) {
  std::string line = text;
  absl::RemoveExtraAsciiWhitespace(&line);
  for (char& c : line) {
    if (absl::ascii_isspace(c)) c = ' ';
  }
  if (Width(line) <= width) return line;
  size_t end = 0;
  for (size_t characters = 0; end < line.size(); ++end) {
    const bool starts = (line[end] & 0xC0) != 0x80;
    if (starts && ++characters > width - 3) break;
  }
  line.resize(end);
  absl::StripTrailingAsciiWhitespace(&line);
  return line + "...";
}

std::string NameValueList(const std::vector<std::pair<std::string, std::string>>& lines) {
  size_t width = 0;
  for (const auto& [name, value] : lines) width = std::max(width, Width(name));
  std::string text;
  for (const auto& [name, value] : lines) {
    const std::string next_line = "\n" + std::string(width + 2, ' ');
    absl::StrAppend(&text, name, std::string(width - Width(name) + 2, ' '),
                    absl::StrReplaceAll(value, {{"\n", next_line}}), "\n");
  }
  return text;
}

std::string Probability(double value) {
  if (value > 0 && value < 0.001) return "<0.001";
  if (value < 1 && value > 0.999) return ">0.999";
  return absl::StrFormat("%.3f", value);
}

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string Number(double value) {
  return absl::StrFormat("%.4g", value == 0 ? 0.0 : value);  // -0.0 == 0
}

std::string Count(int64_t value) {
  std::string text = absl::StrCat(value);
  for (int64_t i = static_cast<int64_t>(text.size()) - 3; i > (value < 0); i -= 3) {
    text.insert(i, ",");
  }
  return text;
}

std::string Bytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return absl::StrFormat(value < 100 ? "%.1f %s" : "%.0f %s", value, unit);
}

std::string Seconds(double seconds) {
  if (seconds < 1) return absl::StrFormat("%.0f ms", 1000 * seconds);
  if (seconds < 10) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return absl::StrCat(whole, " s");
  if (whole < 3600) return absl::StrCat(whole / 60, " min ", whole % 60, " s");
  return absl::StrCat(whole / 3600, " h ", whole / 60 % 60, " min");
}

std::string ShortHash(const std::string& hash) {
  const size_t prefix = absl::StartsWith(hash, "sha256-") ? 7 : 0;
  return hash.substr(0, prefix + 12);
}

std::string Shape(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace laplace::cli
