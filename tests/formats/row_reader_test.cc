#include "formats/row_reader.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "formats/npy.h"
#include "formats/npz.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string Gzip(const std::string& bytes) {
  z_stream zlib = {};
  EXPECT_EQ(deflateInit2(&zlib, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&zlib, bytes.size()) + 64, '\0');
  zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  zlib.avail_in = static_cast<uInt>(bytes.size());
  zlib.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&zlib, Z_FINISH), Z_STREAM_END);
  out.resize(zlib.total_out);
  deflateEnd(&zlib);
  return out;
}

// Rows [rows, 3] with the numbers 0, 1, 2, ...
Array Numbers(int64_t rows) {
  Array array = *AllocateArray(DType::kFloat32, {rows, 3});
  for (int64_t i = 0; i < 3 * rows; ++i) array.data<float>()[i] = static_cast<float>(i);
  return array;
}

// Everything that is left, in batches of `batch` rows, one array.
absl::StatusOr<Array> ReadAll(RowReader& reader, int64_t batch) {
  Array all;
  all.dtype = reader.dtype();
  all.shape = reader.shape();
  if (all.shape.empty()) return absl::InvalidArgumentError("no rows");
  all.shape[0] = 0;
  for (;;) {
    absl::StatusOr<Array> next = reader.Next(batch);
    if (!next.ok()) return next.status();
    if (next->rows() == 0) return all;
    EXPECT_LE(next->rows(), batch);
    all.shape[0] += next->rows();
    all.bytes += next->bytes;
  }
}

absl::StatusOr<Array> ReadFile(const std::string& path, int64_t batch = 4) {
  absl::StatusOr<std::unique_ptr<RowReader>> reader = OpenRows(path);
  if (!reader.ok()) return reader.status();
  return ReadAll(**reader, batch);
}

absl::Status ReadStatus(const std::string& path) { return ReadFile(path).status(); }

absl::StatusOr<Array> ReadText(const std::string& text, int64_t batch = 4) {
  TempFolder folder;
  return ReadFile(folder.Write("x.csv", text), batch);
}

std::vector<float> Floats(const Array& array) {
  return std::vector<float>(array.data<float>(), array.data<float>() + array.bytes.size() / 4);
}

// Lets standard input be something else for as long as it lives.
class StandardInput {
 public:
  explicit StandardInput(int fd) : saved_(dup(STDIN_FILENO)) {
    dup2(fd, STDIN_FILENO);
    close(fd);
  }
  ~StandardInput() {
    dup2(saved_, STDIN_FILENO);
    close(saved_);
  }

 private:
  const int saved_;
};

// Bytes that come through a pipe, a few at a time.
absl::StatusOr<Array> ReadPiped(const std::string& bytes, int64_t batch = 4) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  std::thread writer([&bytes, fd = ends[1]] {
    // A reader that has what it needs closes its end: that is an error of write and not a signal.
    sigset_t broken_pipe;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);
    for (size_t i = 0; i < bytes.size(); i += 5) {
      if (write(fd, bytes.data() + i, std::min<size_t>(5, bytes.size() - i)) < 0) break;
    }
    close(fd);
  });
  absl::StatusOr<Array> array;
  {
    const StandardInput input(ends[0]);
    array = ReadFile("-", batch);
  }
  writer.join();
  return array;
}

TEST(RowReaderTest, ReadsEveryFormatInBatchesOfAnySize) {
  TempFolder folder;
  const Array numbers = Numbers(10);
  const std::string npy = *SerializeNpy(numbers);
  ASSERT_THAT(WriteNpz(folder.File("stored.npz"), {{"y", Numbers(2)}, {"x", numbers}},
                       NpzCompression::kStored),
              IsOk());
  ASSERT_THAT(WriteNpz(folder.File("packed.npz"), {{"only", numbers}}), IsOk());
  std::string idx("\x00\x00\x0d\x02\x00\x00\x00\x0a\x00\x00\x00\x03", 12);
  std::string csv;
  for (int i = 0; i < 30; ++i) {
    const char* bytes = numbers.bytes.data() + 4 * i;
    idx += std::string{bytes[3], bytes[2], bytes[1], bytes[0]};
    absl::StrAppend(&csv, i, i % 3 == 2 ? "\n" : ",");
  }
  for (const std::string& path :
       {folder.Write("a.npy", npy), folder.Write("a.npy.gz", Gzip(npy)), folder.File("stored.npz"),
        folder.File("packed.npz"), folder.Write("idx", idx), folder.Write("x.gz", Gzip(idx)),
        folder.Write("a.csv", csv), folder.Write("a.csv.gz", Gzip(csv))}) {
    for (int64_t batch : {1, 3, 4, 10, 99}) {
      absl::StatusOr<Array> array = ReadFile(path, batch);
      ASSERT_THAT(array, IsOk()) << path;
      EXPECT_EQ(array->dtype, DType::kFloat32) << path;
      EXPECT_THAT(array->shape, ElementsAre(10, 3)) << path;
      EXPECT_EQ(array->bytes, numbers.bytes) << path << " " << batch;
    }
    const int64_t rows = (*OpenRows(path))->rows();
    EXPECT_EQ(rows, path.find(".csv") == std::string::npos ? 10 : -1) << path;
    EXPECT_EQ((*OpenRows(path))->text(), rows == -1) << path;
  }
}

TEST(RowReaderTest, ReadsNpyAndCsvFromStandardInput) {
  const Array numbers = Numbers(10);
  const std::string npy = *SerializeNpy(numbers);
  std::string csv = "a,b,c\r\n";
  for (int i = 0; i < 30; ++i) absl::StrAppend(&csv, i, i % 3 == 2 ? "\r\n" : ",");
  for (const std::string& bytes : {npy, Gzip(npy), csv, Gzip(csv)}) {
    absl::StatusOr<Array> array = ReadPiped(bytes);
    ASSERT_THAT(array, IsOk());
    EXPECT_EQ(array->bytes, numbers.bytes);
  }
  EXPECT_THAT(ReadPiped(npy.substr(0, npy.size() - 1)),
              StatusIs(kInvalid, HasSubstr("standard input: expected 24 bytes of the array, got")));
  EXPECT_THAT(ReadPiped(npy + "x"), StatusIs(kInvalid, HasSubstr("more data than its header")));
  EXPECT_THAT(ReadPiped("PK\x03\x04 and so on"), StatusIs(kInvalid, HasSubstr("name the file")));
  absl::StatusOr<Array> empty = ReadPiped("");
  ASSERT_THAT(empty, IsOk());
  EXPECT_EQ(empty->rows(), 0);
}

TEST(RowReaderTest, StopsWhileNothingComes) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  {
    const StandardInput input(ends[0]);
    RowReaderOptions options;
    const absl::Time start = absl::Now();
    options.stop = [start] { return absl::Now() - start > absl::Milliseconds(50); };
    EXPECT_THAT(OpenRows("-", options), StatusIs(absl::StatusCode::kCancelled));
  }
  close(ends[1]);
}

TEST(RowReaderTest, TellsBoolFromPixels) {
  TempFolder folder;
  const std::string pixels = *SerializeNpy(*AllocateArray(DType::kUint8, {2, 3}));
  std::string mask = pixels;
  mask.replace(mask.find("|u1"), 3, "|b1");
  for (const bool boolean : {false, true}) {
    auto reader = OpenRows(folder.Write("a.npy", boolean ? mask : pixels));
    ASSERT_THAT(reader, IsOk());
    EXPECT_EQ((*reader)->dtype(), DType::kUint8);
    EXPECT_EQ((*reader)->boolean(), boolean);
    EXPECT_EQ((*reader)->Next(1)->boolean, boolean);
  }
}

TEST(RowReaderTest, SkipsRows) {
  TempFolder folder;
  const std::string path = folder.Write("a.npy", *SerializeNpy(Numbers(10)));
  auto reader = OpenRows(path);
  ASSERT_THAT(reader, IsOk());
  EXPECT_THAT((*reader)->Skip(7), 7);
  absl::StatusOr<Array> next = (*reader)->Next(2);
  ASSERT_THAT(next, IsOk());
  EXPECT_THAT(Floats(*next), ElementsAre(21, 22, 23, 24, 25, 26));
  EXPECT_EQ(*(*reader)->Skip(7), 1);
  EXPECT_EQ((*reader)->Next(1)->rows(), 0);
}

TEST(RowReaderTest, GivesRowsAnotherShape) {
  TempFolder folder;
  const std::string path = folder.Write("a.npy", *SerializeNpy(Numbers(4)));
  auto reader = OpenRows(path);
  ASSERT_THAT(reader, IsOk());
  EXPECT_THAT((*reader)->Reshape({4, 1, 4}), StatusIs(kInvalid, HasSubstr("[4, 3]")));
  EXPECT_THAT((*reader)->Reshape({-1, 3}), StatusIs(kInvalid));
  ASSERT_THAT((*reader)->Reshape({2, 1, 6}), IsOk());
  EXPECT_EQ((*reader)->rows(), 2);
  absl::StatusOr<Array> next = (*reader)->Next(1);
  ASSERT_THAT(next, IsOk());
  EXPECT_THAT(next->shape, ElementsAre(1, 1, 6));
  EXPECT_THAT(Floats(*next), ElementsAre(0, 1, 2, 3, 4, 5));
  auto text = OpenRows(folder.Write("a.csv", "1,2,3,4\n5,6,7,8\n"));
  ASSERT_THAT((*text)->Reshape({-1, 2, 2}), IsOk());
  EXPECT_THAT((*text)->Next(9)->shape, ElementsAre(2, 2, 2));
}

TEST(RowReaderTest, RefusesDamage) {
  TempFolder folder;
  const std::string npy = *SerializeNpy(Numbers(3));
  test_support::ExpectEveryTruncationRefused(npy, "x.npy", kInvalid, ReadStatus);
  test_support::ExpectEveryTruncationRefused(Gzip(npy), "x.npy.gz", kInvalid, ReadStatus);
  test_support::ExpectEveryBitFlipSurvived(npy, "x.npy", kInvalid, ReadStatus);
  test_support::ExpectEveryBitFlipSurvived(Gzip(npy), "x.npy.gz", kInvalid, ReadStatus);
  test_support::ExpectEveryBitFlipSurvived("a,b\n1,2\r\n3,4\n\n", "x.csv", kInvalid, ReadStatus);
  EXPECT_THAT(ReadFile(folder.Write("b.npy", npy + "x")), StatusIs(kInvalid, HasSubstr("b.npy")));
  EXPECT_THAT(ReadFile(folder.Write("b.npy.gz", Gzip(npy + "x"))),
              StatusIs(kInvalid, HasSubstr("more data than its header announces")));
  EXPECT_THAT(ReadFile(folder.Write("c.npy.gz", Gzip(npy) + "trailing")),
              StatusIs(kInvalid, HasSubstr("damaged")));
  EXPECT_THAT(ReadFile(folder.File("none.npy")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadFile(folder.Write("x.npz.gz", Gzip(npy))),
              StatusIs(kInvalid, HasSubstr("unpack it first")));
  EXPECT_THAT(ReadFile(folder.Write("a.txt", "1")), StatusIs(kInvalid, HasSubstr("unknown kind")));

  // A stored member with one byte changed: the checksum tells, when the end is reached.
  ASSERT_THAT(WriteNpz(folder.File("x.npz"), {{"x", Numbers(100)}}, NpzCompression::kStored),
              IsOk());
  std::string archive = test_support::ReadFileBytes(folder.File("x.npz"));
  archive[600] ^= 1;
  EXPECT_THAT(ReadFile(folder.Write("y.npz", archive)), StatusIs(kInvalid, HasSubstr("damaged")));
  ASSERT_THAT(WriteNpz(folder.File("z.npz"), {{"a", Numbers(1)}, {"b", Numbers(1)}}), IsOk());
  EXPECT_THAT(ReadFile(folder.File("z.npz")),
              StatusIs(kInvalid, HasSubstr("expected an array named x or inputs, found a, b")));
}

TEST(RowReaderTest, RefusesTextAndStandardInputWhereArraysAreWanted) {
  TempFolder folder;
  RowReaderOptions options;
  options.arrays_only = true;
  EXPECT_THAT(OpenRows(folder.Write("a.npy", *SerializeNpy(Numbers(1))), options), IsOk());
  for (const std::string& path :
       {folder.Write("a.csv", "1"), folder.Write("a.csv.gz", "1"), std::string("-")}) {
    EXPECT_THAT(OpenRows(path, options), StatusIs(kInvalid, HasSubstr("unknown kind of file")));
  }
}

TEST(RowReaderTest, TakesNoMoreMemoryThanOneBatchMay) {
  TempFolder folder;
  // A compressed file that announces one row of 4 TiB.
  const std::string huge = *SerializeNpyHeader(DType::kUint8, {1, int64_t{1} << 42});
  EXPECT_THAT(ReadFile(folder.Write("x.npy.gz", Gzip(huge))),
              StatusIs(kInvalid, HasSubstr("needs 4398046511104 bytes after the header, the file "
                                           "can hold at most")));
  // Zeros enough for a row of 512 MiB.
  const std::string wide = *SerializeNpyHeader(DType::kUint8, {1, 1 << 29});
  EXPECT_THAT(ReadFile(folder.Write("x.npy.gz", Gzip(wide + std::string(1 << 20, '\0')) +
                                                    std::string(1 << 20, '\0'))),
              StatusIs(kInvalid, HasSubstr("more than the 268435456 bytes")));
  RowReaderOptions options;
  options.max_batch_bytes = 24;
  auto reader = OpenRows(folder.Write("a.npy", *SerializeNpy(Numbers(4))), options);
  EXPECT_THAT((*reader)->Next(3), StatusIs(kInvalid, HasSubstr("3 rows of float32 [3]")));
  EXPECT_THAT((*reader)->Next(2), IsOk());
}

TEST(CsvRowsTest, LeavesOutNamesAndReadsEveryLineEnd) {
  const std::vector<float> expected = {1, -2.5f, 3e2f, 0.25f};
  for (const char* text :
       {"1,-2.5\n3e2,.25\n", "1,-2.5\r\n3e2,.25", "a,b\n 1 , -2.5\n300,0.25\n\n",
        ",\"b\"\r\n1,-2.5\r\n+3e2,.25\r\n\r\n \n", "\xEF\xBB\xBFx,y\n1,-2.5\n3e2,.25"}) {
    absl::StatusOr<Array> array = ReadText(text);
    ASSERT_THAT(array, IsOk()) << text;
    EXPECT_THAT(array->shape, ElementsAre(2, 2)) << text;
    EXPECT_EQ(Floats(*array), expected) << text;
  }
  EXPECT_EQ(ReadText("\xEF\xBB\xBF"
                     "1\n2\n")
                ->rows(),
            2);
}

TEST(CsvRowsTest, KeepsDoublesWhereTheyAreWanted) {
  TempFolder folder;
  RowReaderOptions options;
  options.text_dtype = DType::kFloat64;
  auto reader = OpenRows(folder.Write("x.csv", "0.1\n1e300\n"), options);
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ((*reader)->dtype(), DType::kFloat64);
  absl::StatusOr<Array> rows = (*reader)->Next(5);
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(rows->data<double>()[0], 0.1);
  EXPECT_EQ(rows->data<double>()[1], 1e300);
}

TEST(CsvRowsTest, KeepsBytesWhereTheyAreWanted) {
  TempFolder folder;
  RowReaderOptions options;
  options.text_dtype = DType::kUint8;
  auto reader = OpenRows(folder.Write("x.csv", "p,q\n0, 255\n7,8\n"), options);
  ASSERT_THAT(reader, IsOk());
  EXPECT_EQ((*reader)->dtype(), DType::kUint8);
  absl::StatusOr<Array> rows = (*reader)->Next(5);
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ(rows->bytes, std::string("\0\xFF\x07\x08", 4));
  for (const char* bad : {"256\n", "-1\n", "0.5\n", "1e2\n"}) {
    auto refused = OpenRows(folder.Write("bad.csv", bad), options);
    ASSERT_THAT(refused, IsOk());
    EXPECT_THAT((*refused)->Next(1), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("a whole number from 0 to 255")))
        << bad;
  }
}

TEST(CsvRowsTest, ErrorsNameLineAndColumn) {
  const std::pair<const char*, const char*> cases[] = {
      {"a,b\n1,2\n3,x\n", "x.csv: line 3, column 2: expected a finite number, got 'x'"},
      {"1,2\n3\n", "x.csv: line 2: expected 2 numbers as in line 1, got 1"},
      {"a,b\n1,2\n3,4,5\n", "line 3: expected 2 numbers as in line 2, got 3"},
      {"1,2\n3,nan\n", "line 2, column 2: expected a finite number, got 'nan'"},
      {"1,2\n1e999,3\n", "line 2, column 1: expected a finite number"},
      {"1,b\n2,3\n", "line 1, column 2: expected a finite number, got 'b'"},
      {"1,2\n,3\n", "line 2, column 1: expected a finite number, got ''"},
      {"1;2\n3;4\n", "column 1: expected a finite number, got '3;4'"},
      {"1,2\n\n3,4\n", "line 2 is blank, but rows follow in line 3"},
      {"\n1,2\n", "line 1 is blank, but rows follow in line 2"},
      {"a,b\n\n1,2\n", "line 2 is blank, but rows follow in line 3"},
      {"1,2\n3,\x01\n", "got '\\x01'"}};
  for (const auto& [text, message] : cases) {
    EXPECT_THAT(ReadText(text), StatusIs(kInvalid, HasSubstr(message))) << text;
  }
}

TEST(CsvRowsTest, AFileWithoutRowsHasNone) {
  for (const char* text : {"", "\n\n", "a,b\n", "a,b", "a,b\n\r\n"}) {
    absl::StatusOr<Array> array = ReadText(text);
    ASSERT_THAT(array, IsOk()) << text;
    EXPECT_EQ(array->rows(), 0) << text;
  }
}

TEST(CsvRowsTest, BoundsTheLengthOfALine) {
  TempFolder folder;
  const std::string path = folder.Write("x.csv.gz", Gzip(std::string(40 << 20, '1')));
  EXPECT_THAT(ReadFile(path), StatusIs(kInvalid, HasSubstr("line 1 has more than 33554432 bytes")));
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(RowReaderTest, TakesMemoryForWhatHasCome) {
  TempFolder folder;
  // 8 MB of zeros in a file that is long enough to hold the 1 GB that it announces.
  const std::string start =
      *SerializeNpyHeader(DType::kUint8, {1000, 1 << 20}) + std::string(8 << 20, '\0');
  std::string packed = Gzip(start);
  packed.resize(packed.size() - 8);  // without the checksum
  packed += std::string(2 << 20, '\xff');
  RowReaderOptions options;
  options.max_batch_bytes = int64_t{2} << 30;
  auto reader = OpenRows(folder.Write("a.npy.gz", packed), options);
  ASSERT_THAT(reader, IsOk());
  const int64_t before = PeakResidentBytes();
  EXPECT_THAT((*reader)->Next(1000), StatusIs(kInvalid, HasSubstr("damaged")));
  // AddressSanitizer writes an eighth of what is announced.
  EXPECT_LT(PeakResidentBytes() - before, 400 << 20);
}

TEST(RowReaderTest, ReadsALargeFileInConstantMemory) {
  TempFolder folder;
  // 300 MB of zeros that take no room on the disk.
  const int64_t rows = 300000;
  const std::string path =
      folder.Write("large.npy", *SerializeNpyHeader(DType::kUint8, {rows, 1000}));
  ASSERT_EQ(truncate(path.c_str(), 128 + rows * 1000), 0);
  auto reader = OpenRows(path);
  ASSERT_THAT(reader, IsOk());
  const int64_t before = ResidentBytes();
  int64_t highest = before, got = 0;
  for (;;) {
    absl::StatusOr<Array> batch = (*reader)->Next(250);
    ASSERT_THAT(batch, IsOk());
    if (batch->rows() == 0) break;
    got += batch->rows();
    highest = std::max(highest, ResidentBytes());
  }
  EXPECT_EQ(got, rows);
#ifndef __SANITIZE_ADDRESS__               // which keeps up to 256 MB of what was freed
  EXPECT_LT(highest - before, 100 << 20);  // a third of the file
#endif
}

}  // namespace
}  // namespace laplaced
