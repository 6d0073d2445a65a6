// Rows of files, batch by batch, as `laplace score` reads them. The first byte chooses the kind of
// file, the type of CSV's numbers and the size of batches; the rest is the file.
#include <cmath>

#include "formats/npy.h"
#include "formats/row_reader.h"
#include "tests/fuzz/gzip.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 2048;
constexpr int64_t kMaxBatchBytes = 64 << 10;
// ByteStream's buffers, inflate's window, a header of .npy.
constexpr int64_t kBuffers = 1 << 20;
// A line of CSV has at most 1032 times the packed bytes, and grows by doubling.
constexpr int64_t kLineOfInput = 3 * 1032;

constexpr const char* kNames[] = {"rows.csv",    "rows.csv.gz", "rows.npy",
                                  "rows.npy.gz", "rows-idx2",   "rows-idx2.gz"};
constexpr DType kTextTypes[] = {DType::kFloat32, DType::kFloat64, DType::kUint8};

template <typename T>
bool AllFinite(const Array& array) {
  const T* values = array.data<T>();
  for (size_t i = 0; i < array.bytes.size() / sizeof(T); ++i) {
    if (!std::isfinite(static_cast<double>(values[i]))) return false;
  }
  return true;
}

void CheckBatch(const Array& batch, bool text, int64_t max_rows) {
  const absl::StatusOr<int64_t> bytes = NumBytes(batch.dtype, batch.shape);
  Require(bytes.ok() && *bytes == static_cast<int64_t>(batch.bytes.size()),
          "a batch has not the bytes that its shape says");
  Require(batch.rows() <= max_rows, "a batch has more rows than were asked for");
  if (!text) return;
  if (batch.dtype == DType::kFloat32) Require(AllFinite<float>(batch), "CSV gave no number");
  if (batch.dtype == DType::kFloat64) Require(AllFinite<double>(batch), "CSV gave no number");
}

void Run(absl::string_view input) {
  if (input.empty()) return;
  const auto choice = static_cast<unsigned char>(input[0]);
  const std::string path = WriteScratch(kNames[choice % 6], input.substr(1));
  RowReaderOptions options;
  options.text_dtype = kTextTypes[choice / 6 % 3];
  options.max_batch_bytes = kMaxBatchBytes;
  const int64_t max_rows = 1 + choice / 18;

  const HeapBound bound(input.size(), kLineOfInput, kBuffers);
  const auto allowed = {absl::StatusCode::kInvalidArgument};
  const absl::StatusOr<std::unique_ptr<RowReader>> rows = OpenRows(path, options);
  RequireStatus(rows.status(), allowed);
  if (!rows.ok()) return;
  // Rows without elements take no bytes, so that there may be any number of them.
  for (int batches = 0; batches < 1000; ++batches) {
    const absl::StatusOr<Array> batch = (*rows)->Next(max_rows);
    RequireStatus(batch.status(), allowed);
    if (!batch.ok()) return;
    CheckBatch(*batch, (*rows)->text(), max_rows);
    if (batch->rows() < max_rows) return;
  }
}

std::vector<std::string> Seeds() {
  const std::string csv = "a,b\n1,2\r\n-0.5, 1e-3\n\n";
  const std::string pixels =
      "\xEF\xBB\xBF"
      "0,255\n7,8\n";
  const std::string npy = SerializeNpy(AllocateArray(DType::kFloat32, {3, 2}).value()).value();
  const std::string idx("\0\0\x08\2\0\0\0\2\0\0\0\2abcd", 16);
  const auto chosen = [](int file, int dtype, const std::string& bytes) {
    return static_cast<char>(file + 6 * dtype + 18) + bytes;
  };
  return {chosen(0, 0, csv),       chosen(0, 2, pixels), chosen(1, 1, Gzip(csv)), chosen(2, 0, npy),
          chosen(3, 0, Gzip(npy)), chosen(4, 0, idx),    chosen(5, 0, Gzip(idx))};
}

LAPLACED_FUZZ_TARGET(rows, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
