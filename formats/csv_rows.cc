#include "formats/csv_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace laplaced {
namespace {

constexpr char kByteOrderMark[] = "\xEF\xBB\xBF";

bool Parse(absl::string_view text, float* value) { return absl::SimpleAtof(text, value); }
bool Parse(absl::string_view text, double* value) { return absl::SimpleAtod(text, value); }
bool Parse(absl::string_view text, uint8_t* value) {
  uint32_t whole = 0;
  if (!absl::SimpleAtoi(text, &whole) || whole > 255) return false;
  *value = static_cast<uint8_t>(whole);
  return true;
}

template <typename T>
bool Finite(T value) {
  return std::isfinite(static_cast<double>(value));
}

constexpr const char* Expected(DType dtype) {
  return dtype == DType::kUint8 ? "a whole number from 0 to 255" : "a finite number";
}

// Lines of a stream, counted.
class LineReader {
 public:
  explicit LineReader(std::shared_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

  // False at the end. The line comes without its end.
  absl::StatusOr<bool> Next(std::string* line) {
    line->clear();
    for (bool any = false;;) {
      const absl::StatusOr<absl::string_view> bytes = stream_->Peek(1);
      if (!bytes.ok()) return bytes.status();
      if (bytes->empty() && !any) return false;
      any = true;
      const size_t end = bytes->find('\n');
      absl::StrAppend(line, bytes->substr(0, end));
      if (static_cast<int64_t>(line->size()) > kMaxCsvLineBytes) {
        return absl::InvalidArgumentError(absl::StrCat(stream_->name(), ": line ", number_ + 1,
                                                       " has more than ", kMaxCsvLineBytes,
                                                       " bytes"));
      }
      stream_->Skip(end == absl::string_view::npos ? bytes->size() : end + 1);
      if (end == absl::string_view::npos && !bytes->empty()) continue;
      if (++number_ == 1 && absl::StartsWith(*line, kByteOrderMark)) line->erase(0, 3);
      if (!line->empty() && line->back() == '\r') line->pop_back();
      return true;
    }
  }

  // Of the line that came last, counted from 1.
  int64_t number() const { return number_; }

 private:
  const std::shared_ptr<ByteStream> stream_;
  int64_t number_ = 0;
};

bool Blank(const std::string& line) { return absl::StripAsciiWhitespace(line).empty(); }

int64_t Fields(const std::string& line) {
  return 1 + static_cast<int64_t>(std::count(line.begin(), line.end(), ','));
}

bool HoldsNames(const std::string& line) {
  double number = 0;
  for (absl::string_view field : absl::StrSplit(line, ',')) {
    if (Parse(field, &number)) return false;
  }
  return true;
}

template <typename T>
class CsvRows final : public RowReader {
 public:
  // `line` is the first row, empty if there is none.
  CsvRows(std::string name, DType dtype, int64_t columns, LineReader lines, std::string line,
          int64_t max_batch_bytes)
      : RowReader(std::move(name), dtype, {kUnknownRows, columns}, /*text=*/true, max_batch_bytes),
        columns_(columns),
        first_row_line_(lines.number()),
        lines_(std::move(lines)),
        line_(std::move(line)),
        waiting_(!line_.empty()) {}

 private:
  absl::StatusOr<int64_t> Read(int64_t count, int64_t row_bytes, std::string& bytes) override {
    bytes.reserve(static_cast<size_t>(count * row_bytes));
    int64_t rows = 0;
    for (; rows < count && !ended_; ++rows) {
      if (!std::exchange(waiting_, false)) {
        const absl::StatusOr<bool> more = NextRow();
        if (!more.ok()) return more.status();
        if (!*more) break;
      }
      bytes.resize(bytes.size() + static_cast<size_t>(row_bytes));
      T* values = reinterpret_cast<T*>(&bytes[bytes.size() - static_cast<size_t>(row_bytes)]);
      if (absl::Status status = ParseLine(values); !status.ok()) return status;
    }
    return rows;
  }

  absl::Status CheckEnd() override { return absl::OkStatus(); }

  // The next line into `line_`; false if none but blank ones are left.
  absl::StatusOr<bool> NextRow() {
    absl::StatusOr<bool> more = lines_.Next(&line_);
    if (!more.ok()) return more.status();
    if (*more && !Blank(line_)) return true;
    const int64_t blank = lines_.number();
    while (more.ok() && *more && Blank(line_)) more = lines_.Next(&line_);
    if (!more.ok()) return more.status();
    if (*more) {
      return Malformed(
          absl::StrCat("line ", blank, " is blank, but rows follow in line ", lines_.number()));
    }
    ended_ = true;
    return false;
  }

  absl::Status ParseLine(T* values) const {
    if (const int64_t fields = Fields(line_); fields != columns_) {
      return Malformed(absl::StrCat("line ", lines_.number(), ": expected ", columns_,
                                    " numbers as in line ", first_row_line_, ", got ", fields));
    }
    int64_t column = 0;
    for (absl::string_view field : absl::StrSplit(line_, ',')) {
      if (!Parse(field, &values[column]) || !Finite(values[column])) {
        return Malformed(absl::StrCat("line ", lines_.number(), ", column ", column + 1,
                                      ": expected ", Expected(dtype()), ", got '",
                                      absl::CHexEscape(field.substr(0, 40)), "'"));
      }
      ++column;
    }
    return absl::OkStatus();
  }

  const int64_t columns_;
  const int64_t first_row_line_;
  LineReader lines_;
  std::string line_;
  bool waiting_;  // `line_` is a row that was not taken yet
  bool ended_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowReader>> OpenCsvRows(std::shared_ptr<ByteStream> stream,
                                                       DType dtype, int64_t max_batch_bytes) {
  const std::string name = stream->name();
  LineReader lines(std::move(stream));
  std::string line;
  absl::StatusOr<bool> more = lines.Next(&line);
  int64_t columns = Blank(line) ? 0 : Fields(line);
  if (more.ok() && *more && !Blank(line) && HoldsNames(line)) {
    more = lines.Next(&line);
    if (more.ok() && *more && !Blank(line)) columns = Fields(line);
  }
  if (!more.ok()) return more.status();
  if (!*more) line.clear();
  if (*more && Blank(line)) {
    // Nothing but blank lines may follow.
    const int64_t blank = lines.number();
    while (more.ok() && *more && Blank(line)) more = lines.Next(&line);
    if (!more.ok()) return more.status();
    if (*more) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": line ", blank, " is blank, but rows follow in line ", lines.number()));
    }
    line.clear();
  }
  if (dtype == DType::kFloat64) {
    return std::make_unique<CsvRows<double>>(name, dtype, columns, std::move(lines),
                                             std::move(line), max_batch_bytes);
  }
  if (dtype == DType::kUint8) {
    return std::make_unique<CsvRows<uint8_t>>(name, dtype, columns, std::move(lines),
                                              std::move(line), max_batch_bytes);
  }
  return std::make_unique<CsvRows<float>>(name, DType::kFloat32, columns, std::move(lines),
                                          std::move(line), max_batch_bytes);
}

}  // namespace laplaced
