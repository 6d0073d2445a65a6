#include "client/cli/score_writer.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/context.h"
#include "formats/atomic_file.h"
#include "formats/npy.h"
#include "formats/npz.h"

namespace laplace::cli {
namespace {

using ::laplaced::DType;
using ::laplaced::PendingFile;

// Room for the header of an array with any number of rows.
constexpr size_t kHeaderBytes = 128;

int64_t RowsOf(const client::Scores& scores) {
  return scores.ood_scores.empty() ? 0 : static_cast<int64_t>(scores.ood_scores[0].values.size());
}

std::string RoundTrip(double value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

std::string CsvName(const std::string& name) {
  if (name.find_first_of(",\"\r\n") == std::string::npos) return name;
  return absl::StrCat("\"", absl::StrReplaceAll(name, {{"\"", "\"\""}}), "\"");
}

std::string CsvTitle(const client::Scores& scores) {
  std::string line = "row";
  for (const client::OodScore& score : scores.ood_scores) {
    absl::StrAppend(&line, ",", CsvName(score.name));
    if (score.threshold) absl::StrAppend(&line, ",", CsvName(score.name + "_is_ood"));
  }
  return line + "\n";
}

void AppendCsv(int64_t first_row, const client::Scores& scores, std::string& text) {
  for (int64_t i = 0; i < RowsOf(scores); ++i) {
    absl::StrAppend(&text, first_row + i);
    for (const client::OodScore& score : scores.ood_scores) {
      absl::StrAppend(&text, ",", RoundTrip(score.values[i]));
      if (score.threshold) absl::StrAppend(&text, score.is_ood[i] ? ",1" : ",0");
    }
    text += '\n';
  }
}

void AppendNdjson(int64_t first_row, const client::Scores& scores, std::string& text) {
  const auto key = [](const std::string& name) {
    return Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  for (int64_t i = 0; i < RowsOf(scores); ++i) {
    absl::StrAppend(&text, "{\"row\":", first_row + i);
    for (const client::OodScore& score : scores.ood_scores) {
      const double value = score.values[i];
      absl::StrAppend(&text, ",", key(score.name), ":",
                      std::isfinite(value) ? RoundTrip(value) : "null");
      if (!score.threshold) continue;
      absl::StrAppend(&text, ",", key(score.name + "_is_ood"), ":",
                      score.is_ood[i] ? "true" : "false");
    }
    text += "}\n";
  }
}

// CSV and NDJSON, to a file or to standard output.
class TextWriter final : public ScoreWriter {
 public:
  // Without a file it writes to standard output.
  TextWriter(ScoreFormat format, std::unique_ptr<PendingFile> file)
      : csv_(format == ScoreFormat::kCsv), file_(std::move(file)) {}

  absl::Status Write(int64_t first_row, const client::Scores& scores) override {
    std::string text;
    if (csv_ && !titled_) text = CsvTitle(scores);
    titled_ = true;
    csv_ ? AppendCsv(first_row, scores, text) : AppendNdjson(first_row, scores, text);
    if (file_) return file_->Write(text);
    absl::Status status = ::laplaced::WriteAll(STDOUT_FILENO, text, "standard output");
    if (status.ok()) return status;
    pollfd out = {STDOUT_FILENO, 0, 0};
    reader_gone_ = poll(&out, 1, 0) > 0 && (out.revents & POLLERR) != 0;
    return status;
  }

  absl::Status Finish() override { return file_ ? file_->Commit() : absl::OkStatus(); }
  bool reader_gone() const override { return reader_gone_; }

 private:
  const bool csv_;
  const std::unique_ptr<PendingFile> file_;
  bool titled_ = false;
  bool reader_gone_ = false;
};

// Every array grows in a file of its own beside the archive, which is put together in the end.
class NpzWriter final : public ScoreWriter {
 public:
  explicit NpzWriter(std::string path) : path_(std::move(path)) {}

  absl::Status Write(int64_t first_row, const client::Scores& scores) override {
    if (arrays_.empty()) {
      if (absl::Status status = Begin(scores); !status.ok()) return status;
    }
    const int64_t rows = RowsOf(scores);
    std::vector<int64_t> numbers(rows);
    for (int64_t i = 0; i < rows; ++i) numbers[i] = first_row + i;
    size_t array = 0;
    absl::Status status = Append(numbers, arrays_[array++]);
    for (const client::OodScore& score : scores.ood_scores) {
      if (status.ok()) status = Append(score.values, arrays_[array++]);
      if (!score.threshold) continue;
      const std::vector<uint8_t> flags(score.is_ood.begin(), score.is_ood.end());
      if (status.ok()) status = Append(flags, arrays_[array++]);
    }
    rows_ += rows;
    return status;
  }

  absl::Status Finish() override {
    std::vector<std::pair<std::string, std::string>> files;
    for (const Member& array : arrays_) {
      const absl::StatusOr<std::string> header = ::laplaced::SerializeNpyHeader(
          array.dtype, array.grows ? std::vector<int64_t>{rows_} : std::vector<int64_t>(),
          kHeaderBytes);
      if (!header.ok()) return header.status();
      if (header->size() != kHeaderBytes) return absl::InternalError("header has another size");
      if (absl::Status status = array.file->Overwrite(0, *header); !status.ok()) return status;
      files.emplace_back(array.name, array.file->temporary_path());
    }
    return ::laplaced::WriteNpzOfFiles(path_, files);
  }

 private:
  struct Member {
    std::string name;
    DType dtype;
    bool grows;                         // with the rows; otherwise one number
    std::unique_ptr<PendingFile> file;  // never committed: it goes with this object
  };

  absl::Status Add(const std::string& name, DType dtype, bool grows) {
    for (const Member& array : arrays_) {
      if (array.name == name) {
        return absl::InvalidArgumentError(absl::StrCat(path_, ": expected every array once, got ",
                                                       name, " twice; name each score once"));
      }
    }
    absl::StatusOr<std::unique_ptr<PendingFile>> file = PendingFile::Create(path_);
    if (!file.ok()) return file.status();
    arrays_.push_back({name, dtype, grows, *std::move(file)});
    return arrays_.back().file->Write(std::string(kHeaderBytes, '\0'));
  }

  absl::Status Begin(const client::Scores& scores) {
    absl::Status status = Add("row", DType::kInt64, true);
    for (const client::OodScore& score : scores.ood_scores) {
      if (status.ok()) status = Add(score.name, DType::kFloat64, true);
      if (!score.threshold) continue;
      if (status.ok()) status = Add(score.name + "_is_ood", DType::kUint8, true);
    }
    // Behind those that grow, in whose order Write goes.
    for (const client::OodScore& score : scores.ood_scores) {
      if (!score.threshold || !status.ok()) continue;
      status = Add(score.name + "_threshold", DType::kFloat64, false);
      if (status.ok()) status = Append(std::vector<double>{*score.threshold}, arrays_.back());
    }
    return status;
  }

  template <typename T>
  static absl::Status Append(const std::vector<T>& values, Member& array) {
    return array.file->Write(
        absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  }

  const std::string path_;
  int64_t rows_ = 0;
  std::vector<Member> arrays_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ScoreWriter>> OpenScoreWriter(ScoreFormat format,
                                                             const std::string& path) {
  if (path == "-") {
    // Writing says so when nobody reads.
    signal(SIGPIPE, SIG_IGN);
    return std::make_unique<TextWriter>(format, nullptr);
  }
  if (format == ScoreFormat::kNpz) return std::make_unique<NpzWriter>(path);
  absl::StatusOr<std::unique_ptr<PendingFile>> file = PendingFile::Create(path);
  if (!file.ok()) return file.status();
  return std::make_unique<TextWriter>(format, *std::move(file));
}

}  // namespace laplace::cli
