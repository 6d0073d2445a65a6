#include "formats/row_reader.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/byte_stream.h"
#include "formats/csv_rows.h"
#include "formats/idx.h"
#include "formats/npy.h"
#include "formats/npz.h"

namespace laplaced {
namespace {

constexpr char kNpyMagic[] = "\x93NUMPY";
// Rows that are left out are read in pieces of about this size.
constexpr int64_t kSkipBytes = 1 << 20;
constexpr size_t kPieceBytes = 1 << 20;

// Elements of a fixed size, one after the other.
class BinaryRows final : public RowReader {
 public:
  BinaryRows(std::string name, NpyHeader header, ByteReader read, std::function<absl::Status()> end,
             bool swap_bytes, int64_t max_batch_bytes)
      : RowReader(std::move(name), header.dtype, std::move(header.shape), /*text=*/false,
                  max_batch_bytes, header.boolean),
        read_(std::move(read)),
        end_(std::move(end)),
        swap_bytes_(swap_bytes) {}

 private:
  absl::StatusOr<int64_t> Read(int64_t count, int64_t row_bytes, std::string& bytes) override {
    const auto size = static_cast<size_t>(count * row_bytes);
    // Room for all of them, but no page of it before its bytes have come: a compressed file may
    // announce more than it holds.
    bytes.reserve(size);
    while (bytes.size() < size) {
      const size_t begin = bytes.size();
      bytes.resize(std::min(size, begin + kPieceBytes));
      const absl::Status status = read_(&bytes[begin], bytes.size() - begin);
      if (!status.ok()) return status;
    }
    if (swap_bytes_) IdxToNative(dtype(), bytes.data(), bytes.size());
    return count;
  }

  absl::Status CheckEnd() override { return end_(); }

  const ByteReader read_;
  const std::function<absl::Status()> end_;
  const bool swap_bytes_;
};

absl::Status CheckEndOf(ByteStream& stream) {
  const absl::StatusOr<absl::string_view> rest = stream.Peek(1);
  if (!rest.ok()) return rest.status();
  if (rest->empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(stream.name(), ": has more data than its header announces"));
}

using Rows = absl::StatusOr<std::unique_ptr<RowReader>>;

Rows NpyRows(std::shared_ptr<ByteStream> stream, const RowReaderOptions& options) {
  const ByteReader read = [stream](char* out, size_t size) {
    return stream->ReadExactly(out, size, "the array");
  };
  absl::optional<int64_t> total = stream->file_size();
  if (stream->compressed()) total.reset();
  const std::string& name = stream->name();
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(read, total, name);
  if (!header.ok()) return header.status();
  const absl::StatusOr<int64_t> bytes = NumBytes(header->dtype, header->shape);
  if (!bytes.ok()) return bytes.status();
  if (const int64_t room = stream->most_bytes() - header->data_offset; *bytes > room) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": ", DTypeName(header->dtype), " array of shape ", ShapeString(header->shape),
        " needs ", *bytes, " bytes after the header, the file can hold at most ", room));
  }
  return std::make_unique<BinaryRows>(
      name, *std::move(header), read, [stream] { return CheckEndOf(*stream); },
      /*swap_bytes=*/false, options.max_batch_bytes);
}

Rows IdxRows(std::shared_ptr<ByteStream> stream, const RowReaderOptions& options) {
  absl::StatusOr<IdxHeader> header = ReadIdxHeader(*stream);
  if (!header.ok()) return header.status();
  const ByteReader read = [stream](char* out, size_t size) {
    return stream->ReadExactly(out, size, "elements");
  };
  return std::make_unique<BinaryRows>(
      stream->name(), NpyHeader{header->dtype, std::move(header->shape), 0}, read,
      [stream] { return CheckEndOf(*stream); }, /*swap_bytes=*/true, options.max_batch_bytes);
}

Rows NpzRows(const std::string& path, const RowReaderOptions& options) {
  absl::StatusOr<NpzMember> member = OpenNpzMember(path, options.keys);
  if (!member.ok()) return member.status();
  return std::make_unique<BinaryRows>(member->shown, std::move(member->header),
                                      std::move(member->read), std::move(member->end),
                                      /*swap_bytes=*/false, options.max_batch_bytes);
}

Rows CsvRowsOf(std::shared_ptr<ByteStream> stream, const RowReaderOptions& options) {
  return OpenCsvRows(std::move(stream), options.text_dtype, options.max_batch_bytes);
}

// .npy or CSV, whatever its first bytes are.
Rows RowsOfStandardInput(std::shared_ptr<ByteStream> stream, const RowReaderOptions& options) {
  const absl::StatusOr<absl::string_view> start = stream->Peek(sizeof kNpyMagic - 1);
  if (!start.ok()) return start.status();
  if (absl::StartsWith(*start, kNpyMagic)) return NpyRows(std::move(stream), options);
  if (absl::StartsWith(*start, "PK\x03\x04")) {
    return absl::InvalidArgumentError(
        absl::StrCat(stream->name(),
                     ": a .npz archive has its list of arrays at the end and cannot be read from a "
                     "pipe; name the file, or send .npy or CSV"));
  }
  return CsvRowsOf(std::move(stream), options);
}

absl::Status UnknownKind(const std::string& path, const RowReaderOptions& options) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": unknown kind of file, expected a name that ends in ",
      options.arrays_only ? ".npy, .npz or .gz or contains idx"
                          : ".npy, .npz, .csv or .gz or contains idx, or - for standard input"));
}

}  // namespace

RowReader::RowReader(std::string name, DType dtype, std::vector<int64_t> shape, bool text,
                     int64_t max_batch_bytes, bool boolean)
    : name_(std::move(name)),
      dtype_(dtype),
      shape_(std::move(shape)),
      text_(text),
      max_batch_bytes_(max_batch_bytes),
      boolean_(boolean) {}

absl::Status RowReader::Malformed(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", what));
}

absl::Status RowReader::Reshape(const std::vector<int64_t>& shape) {
  const auto elements = [](std::vector<int64_t> sizes) {
    if (!sizes.empty() && sizes[0] == kUnknownRows) sizes[0] = 1;
    return NumElements(sizes);
  };
  const bool known = rows() != kUnknownRows;
  const absl::StatusOr<int64_t> before = elements(shape_);
  const absl::StatusOr<int64_t> after = elements(shape);
  if (!before.ok()) return Malformed(before.status().message());
  if (shape.empty() || !after.ok() || *after != *before || (shape[0] != kUnknownRows) != known) {
    return Malformed(absl::StrCat("its array of shape ", ShapeString(shape_),
                                  " has not the elements of one of shape ", ShapeString(shape)));
  }
  shape_ = shape;
  return absl::OkStatus();
}

absl::StatusOr<Array> RowReader::Next(int64_t max_rows) {
  const bool known = rows() != kUnknownRows;
  const int64_t count = known ? std::min(max_rows, rows() - next_row_) : max_rows;
  Array batch;
  batch.dtype = dtype_;
  batch.boolean = boolean_;
  batch.shape = shape_;
  if (batch.shape.empty()) batch.shape = {0};
  batch.shape[0] = 0;
  if (count == 0) return batch;
  std::vector<int64_t> row_shape(shape_.begin() + 1, shape_.end());
  const absl::StatusOr<int64_t> row_bytes = NumBytes(dtype_, row_shape);
  if (!row_bytes.ok()) return Malformed(row_bytes.status().message());
  if (*row_bytes > max_batch_bytes_ / count) {
    return Malformed(absl::StrCat(count, " rows of ", DTypeName(dtype_), " ",
                                  ShapeString(row_shape), " are more than the ", max_batch_bytes_,
                                  " bytes that may be read at a time; read fewer rows at a time"));
  }
  try {
    absl::StatusOr<int64_t> got = Read(count, *row_bytes, batch.bytes);
    if (!got.ok()) return got.status();
    batch.shape[0] = *got;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for ", count, " rows of ", name_));
  }
  next_row_ += batch.shape[0];
  if (known && next_row_ == rows()) {
    if (absl::Status status = CheckEnd(); !status.ok()) return status;
  }
  return batch;
}

absl::StatusOr<int64_t> RowReader::Skip(int64_t rows) {
  const std::vector<int64_t> row_shape(shape_.begin() + (shape_.empty() ? 0 : 1), shape_.end());
  const absl::StatusOr<int64_t> row_bytes = NumBytes(dtype_, row_shape);
  if (!row_bytes.ok()) return Malformed(row_bytes.status().message());
  const int64_t step = std::max<int64_t>(1, kSkipBytes / std::max<int64_t>(1, *row_bytes));
  int64_t skipped = 0;
  while (skipped < rows) {
    const absl::StatusOr<Array> batch = Next(std::min(step, rows - skipped));
    if (!batch.ok()) return batch.status();
    if (batch->rows() == 0) break;
    skipped += batch->rows();
  }
  return skipped;
}

absl::StatusOr<std::unique_ptr<RowReader>> OpenRows(const std::string& path,
                                                    const RowReaderOptions& options) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (absl::EndsWith(name, ".npz")) return NpzRows(path, options);
  if (absl::EndsWith(name, ".npz.gz")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a .npz may not be compressed once more, unpack it first"));
  }
  const bool npy = absl::EndsWith(name, ".npy") || absl::EndsWith(name, ".npy.gz");
  const bool csv = absl::EndsWith(name, ".csv") || absl::EndsWith(name, ".csv.gz");
  const bool idx = absl::EndsWith(name, ".gz") || absl::StrContains(name, "idx");
  const bool text = csv || path == kStandardInput;
  if (options.arrays_only ? text || (!npy && !idx) : !text && !npy && !idx) {
    return UnknownKind(path, options);
  }
  absl::StatusOr<std::unique_ptr<ByteStream>> stream = ByteStream::Open(path, options.stop);
  if (!stream.ok()) return stream.status();
  if (path == kStandardInput) return RowsOfStandardInput(*std::move(stream), options);
  if (npy) return NpyRows(*std::move(stream), options);
  if (csv) return CsvRowsOf(*std::move(stream), options);
  return IdxRows(*std::move(stream), options);
}

}  // namespace laplaced
