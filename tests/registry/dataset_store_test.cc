#include "server/registry/dataset_store.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "formats/npy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/field_error.h"
#include "server/registry/repository.h"
#include "tests/support/python.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::laplaced::test_support::WriteFileBytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kRows = 4;
constexpr int64_t kBytes = kRows * (2 * 3 * 4 + 8);

DatasetHeader Header() {
  DatasetHeader header;
  header.example_shape = {2, 3};
  header.n_rows = kRows;
  return header;
}

struct Values {
  std::vector<float> inputs;
  std::vector<int64_t> targets;
};

Values Numbers() {
  Values values;
  for (int i = 0; i < kRows * 6; ++i) values.inputs.push_back(0.5f * static_cast<float>(i));
  for (int i = 0; i < kRows; ++i) values.targets.push_back(100 + i);
  return values;
}

ArrayView Inputs(const Values& values, int64_t first, int64_t rows) {
  return {DType::kFloat32, {rows, 2, 3}, values.inputs.data() + 6 * first};
}

ArrayView Targets(const Values& values, int64_t first, int64_t rows) {
  return {DType::kInt64, {rows}, values.targets.data() + first};
}

absl::Status AppendRows(DatasetWriter& writer, const Values& values, int64_t first, int64_t rows) {
  return writer.Append(Inputs(values, first, rows), Targets(values, first, rows));
}

class DatasetStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<DatasetWriter> NewWriter() {
    absl::StatusOr<std::unique_ptr<DatasetWriter>> writer = store_.NewWriter(Header());
    EXPECT_THAT(writer, IsOk());
    return *std::move(writer);
  }

  std::string StoreAll(int64_t chunk = kRows) {
    const Values values = Numbers();
    std::unique_ptr<DatasetWriter> writer = NewWriter();
    for (int64_t row = 0; row < kRows; row += chunk) {
      EXPECT_THAT(AppendRows(*writer, values, row, std::min(chunk, kRows - row)), IsOk());
    }
    absl::StatusOr<DatasetInfo> info = writer->Commit();
    EXPECT_THAT(info, IsOk());
    return info.ok() ? info->id : "";
  }

  TempFolder root_;
  const std::string folder_ = root_.File("datasets");
  const DatasetStore store_{folder_, kBytes};
};

TEST_F(DatasetStoreTest, StoresUnderTheIdThatTheClientComputes) {
  const Values values = Numbers();
  DatasetHasher hasher(Header());
  hasher.Update(values.inputs.data(), values.inputs.size() * 4, values.targets.data(),
                values.targets.size() * 8);
  const std::string id = StoreAll();
  EXPECT_EQ(id, hasher.Finish());
  absl::StatusOr<DatasetFiles> files = store_.Find(id);
  ASSERT_THAT(files, IsOk());
  EXPECT_EQ(files->info.id, id);
  EXPECT_EQ(files->info.header.input_dtype, DType::kFloat32);
  EXPECT_EQ(files->info.header.target_dtype, DType::kInt64);
  EXPECT_THAT(files->info.header.example_shape, ElementsAre(2, 3));
  EXPECT_THAT(files->info.header.target_shape, ElementsAre());
  EXPECT_EQ(files->info.header.n_rows, kRows);
  absl::StatusOr<Array> inputs = ReadNpy(files->inputs_path);
  absl::StatusOr<Array> targets = ReadNpy(files->targets_path);
  ASSERT_THAT(inputs, IsOk());
  ASSERT_THAT(targets, IsOk());
  EXPECT_THAT(inputs->shape, ElementsAre(kRows, 2, 3));
  EXPECT_THAT(targets->shape, ElementsAre(kRows));
  EXPECT_EQ(std::memcmp(inputs->bytes.data(), values.inputs.data(), inputs->bytes.size()), 0);
  EXPECT_EQ(std::memcmp(targets->bytes.data(), values.targets.data(), targets->bytes.size()), 0);
}

TEST_F(DatasetStoreTest, StoresEqualDataOnceWhateverTheChunks) {
  const std::string id = StoreAll();
  EXPECT_EQ(StoreAll(1), id);
  EXPECT_EQ(StoreAll(3), id);
  EXPECT_THAT(NamesIn(folder_), ElementsAre(id));
}

TEST_F(DatasetStoreTest, AcceptsEveryPairOfTypes) {
  for (DType input : {DType::kFloat32, DType::kFloat64, DType::kUint8}) {
    for (DType target : {DType::kInt64, DType::kFloat32, DType::kFloat64}) {
      DatasetHeader header;
      header.input_dtype = input;
      header.target_dtype = target;
      header.target_shape = {2};
      header.n_rows = 2;
      const std::string zeros(64, '\0');
      absl::StatusOr<std::unique_ptr<DatasetWriter>> writer = store_.NewWriter(header);
      ASSERT_THAT(writer, IsOk());
      ASSERT_THAT((*writer)->Append({input, {2}, zeros.data()}, {target, {2, 2}, zeros.data()}),
                  IsOk());
      absl::StatusOr<DatasetInfo> info = (*writer)->Commit();
      ASSERT_THAT(info, IsOk());
      EXPECT_THAT(store_.Find(info->id), IsOk());
    }
  }
}

TEST_F(DatasetStoreTest, RefusesImpossibleHeaders) {
  const std::pair<const char*, std::function<void(DatasetHeader&)>> cases[] = {
      {"header.n_rows", [](DatasetHeader& header) { header.n_rows = 0; }},
      {"header.n_rows", [](DatasetHeader& header) { header.n_rows = -1; }},
      {"header.input_dtype", [](DatasetHeader& header) { header.input_dtype = DType::kInt64; }},
      {"header.input_dtype", [](DatasetHeader& header) { header.input_dtype = DType::kInt32; }},
      {"header.target_dtype", [](DatasetHeader& header) { header.target_dtype = DType::kUint8; }},
      {"header.target_dtype", [](DatasetHeader& header) { header.target_dtype = DType::kInt32; }},
      {"header.example_shape",
       [](DatasetHeader& header) {
         header.example_shape = {2, 0};
       }},
      {"header.example_shape", [](DatasetHeader& header) { header.example_shape = {-2}; }},
      {"header.example_shape",
       [](DatasetHeader& header) { header.example_shape = std::vector<int64_t>(32, 1); }},
      {"header.example_shape", [](DatasetHeader& header) { header.example_shape = {INT64_MAX}; }},
      {"header.example_shape", [](DatasetHeader& header) { header.n_rows = INT64_MAX; }},
      {"header.target_shape", [](DatasetHeader& header) { header.target_shape = {0}; }},
      {"header.target_shape",
       [](DatasetHeader& header) {
         header.target_shape = {INT64_MAX, 2};
       }},
  };
  for (const auto& [field, change] : cases) {
    DatasetHeader header = Header();
    change(header);
    const absl::Status status = store_.NewWriter(header).status();
    EXPECT_THAT(status, StatusIs(kInvalid));
    EXPECT_EQ(FieldOf(status), field);
  }
  EXPECT_FALSE(std::filesystem::exists(folder_));
}

TEST_F(DatasetStoreTest, RefusesWhatIsTooLargeBeforeWriting) {
  EXPECT_THAT(DatasetStore(folder_, kBytes).NewWriter(Header()), IsOk());
  EXPECT_THAT(DatasetStore(folder_, kBytes - 1).NewWriter(Header()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(absl::StrCat(kBytes - 1))));
  DatasetHeader huge = Header();
  huge.n_rows = int64_t{1} << 50;
  EXPECT_THAT(store_.NewWriter(huge), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(NamesIn(folder_), ElementsAre());
}

TEST_F(DatasetStoreTest, AllDataSetsTogetherStayWithinTheirLimit) {
  const DatasetStore store(folder_, kBytes, 2 * kBytes + kBytes / 2);
  auto first = store.NewWriter(Header()), second = store.NewWriter(Header());
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  // Those that are written count, in copies of the store too.
  const DatasetStore copy = store;
  EXPECT_THAT(copy.NewWriter(Header()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_datasets_bytes")));
  second->reset();
  EXPECT_THAT(store.NewWriter(Header()), IsOk());
  // And those that are stored, also by others.
  ASSERT_THAT(AppendRows(**first, Numbers(), 0, kRows), IsOk());
  ASSERT_THAT((*first)->Commit(), IsOk());
  first->reset();
  int64_t stored = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
    if (entry.path().extension() == ".npy") stored += static_cast<int64_t>(entry.file_size());
  }
  ASSERT_GT(stored, kBytes);
  EXPECT_THAT(DatasetStore(folder_, kBytes, stored + kBytes - 1).NewWriter(Header()),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(DatasetStore(folder_, kBytes, stored + kBytes).NewWriter(Header()), IsOk());
}

TEST_F(DatasetStoreTest, RefusesChunksThatDoNotFitAndStaysUsable) {
  const Values values = Numbers();
  std::unique_ptr<DatasetWriter> writer = NewWriter();
  ASSERT_THAT(AppendRows(*writer, values, 0, 3), IsOk());
  const ArrayView inputs = Inputs(values, 3, 1);
  const ArrayView targets = Targets(values, 3, 1);
  struct Case {
    ArrayView inputs;
    ArrayView targets;
    const char* field;
  };
  const Case cases[] = {
      {{DType::kFloat64, {1, 2, 3}, inputs.data}, targets, "inputs"},
      {{DType::kFloat32, {1, 3, 2}, inputs.data}, targets, "inputs"},
      {{DType::kFloat32, {1, 6}, inputs.data}, targets, "inputs"},
      {{DType::kFloat32, {2, 3}, inputs.data}, targets, "inputs"},
      {{DType::kFloat32, {}, inputs.data}, targets, "inputs"},
      {{DType::kFloat32, {-1, 2, 3}, inputs.data}, targets, "inputs"},
      {inputs, {DType::kFloat32, {1}, targets.data}, "targets"},
      {inputs, {DType::kInt64, {1, 1}, targets.data}, "targets"},
      {inputs, {DType::kInt64, {}, targets.data}, "targets"},
      {inputs, {DType::kInt64, {0}, targets.data}, "targets"},
      {Inputs(values, 0, 2), Targets(values, 0, 2), "inputs"},
      {{DType::kFloat32, {INT64_MAX, 2, 3}, inputs.data},
       {DType::kInt64, {INT64_MAX}, targets.data},
       "inputs"},
  };
  for (const Case& bad : cases) {
    const absl::Status status = writer->Append(bad.inputs, bad.targets);
    EXPECT_THAT(status, StatusIs(kInvalid));
    EXPECT_EQ(FieldOf(status), bad.field) << status;
  }
  ASSERT_THAT(writer->Append(inputs, targets), IsOk());
  absl::StatusOr<DatasetInfo> info = writer->Commit();
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->id, StoreAll());
}

TEST_F(DatasetStoreTest, NamesTheRowOfANumberThatIsNotFinite) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    Values values = Numbers();
    values.inputs[6 * 3 + 5] = bad;
    std::unique_ptr<DatasetWriter> writer = NewWriter();
    ASSERT_THAT(AppendRows(*writer, values, 0, 2), IsOk());
    EXPECT_THAT(AppendRows(*writer, values, 2, 2),
                StatusIs(kInvalid, AllOf(HasSubstr("inputs: row 3 "), HasSubstr("position 5"))));
    ASSERT_THAT(AppendRows(*writer, Numbers(), 2, 2), IsOk());
    EXPECT_THAT(writer->Commit(), IsOk());
  }
  DatasetHeader header;
  header.target_dtype = DType::kFloat64;
  header.n_rows = 2;
  const float inputs[] = {1, 2};
  const double targets[] = {1, std::numeric_limits<double>::quiet_NaN()};
  absl::StatusOr<std::unique_ptr<DatasetWriter>> writer = store_.NewWriter(header);
  ASSERT_THAT(writer, IsOk());
  EXPECT_THAT((*writer)->Append({DType::kFloat32, {2}, inputs}, {DType::kFloat64, {2}, targets}),
              StatusIs(kInvalid, HasSubstr("targets: row 1 ")));
}

TEST_F(DatasetStoreTest, AcceptsDataAtAnyAlignment) {
  const Values values = Numbers();
  std::string shifted(1 + 24 * kRows, '\0');
  std::memcpy(shifted.data() + 1, values.inputs.data(), static_cast<size_t>(24 * kRows));
  std::unique_ptr<DatasetWriter> writer = NewWriter();
  ASSERT_THAT(writer->Append({DType::kFloat32, {kRows, 2, 3}, shifted.data() + 1},
                             Targets(values, 0, kRows)),
              IsOk());
  EXPECT_EQ(writer->Commit()->id, StoreAll());
}

TEST_F(DatasetStoreTest, CommitNeedsEveryRowAndHappensOnce) {
  const Values values = Numbers();
  std::unique_ptr<DatasetWriter> writer = NewWriter();
  ASSERT_THAT(AppendRows(*writer, values, 0, 3), IsOk());
  EXPECT_THAT(writer->Commit(), StatusIs(kInvalid, HasSubstr("expected 4 rows")));
  ASSERT_THAT(AppendRows(*writer, values, 3, 1), IsOk());
  EXPECT_THAT(writer->Commit(), IsOk());
  EXPECT_THAT(writer->Commit(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(AppendRows(*writer, values, 0, 1), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(DatasetStoreTest, DroppedWriterLeavesNothing) {
  std::unique_ptr<DatasetWriter> writer = NewWriter();
  ASSERT_THAT(AppendRows(*writer, Numbers(), 0, 2), IsOk());
  EXPECT_EQ(NamesIn(folder_).size(), 1u);
  writer.reset();
  EXPECT_THAT(NamesIn(folder_), ElementsAre());
}

TEST_F(DatasetStoreTest, LeftoversOfAKilledProcessAreInvisibleAndRemoved) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::unique_ptr<DatasetWriter> writer = NewWriter();
    const bool ok = AppendRows(*writer, Numbers(), 0, kRows).ok();
    _exit(ok ? 0 : 1);  // no destructor runs
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  ASSERT_EQ(NamesIn(folder_).size(), 1u);
  const std::string id = StoreAll();
  ASSERT_THAT(Repository::Open(root_.path()), IsOk());
  EXPECT_THAT(NamesIn(folder_), ElementsAre(id));
  EXPECT_THAT(store_.Find(id), IsOk());
}

TEST_F(DatasetStoreTest, RefusesMalformedAndUnknownIds) {
  StoreAll();
  for (const char* id : {"", "..", "sha256-", "sha256-../../../../etc"}) {
    EXPECT_THAT(store_.Find(id), StatusIs(kInvalid));
  }
  EXPECT_THAT(store_.Find(absl::StrCat("sha256-", std::string(64, '0'))),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(DatasetStoreTest, NoticesDamageAndIsRepairedByTheSameUpload) {
  const std::string id = StoreAll();
  const std::string folder = folder_ + "/" + id;
  for (const char* name : {"inputs.npy", "targets.npy", "dataset.json"}) {
    const std::string good = ReadFileBytes(folder + "/" + name);
    for (const std::string& bad : {good.substr(0, good.size() - 1), good + "x", std::string()}) {
      WriteFileBytes(folder + "/" + name, bad);
      EXPECT_THAT(store_.Find(id), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)));
    }
    std::filesystem::remove(folder + "/" + name);
    EXPECT_THAT(store_.Find(id), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)));
    EXPECT_EQ(StoreAll(), id);
    EXPECT_THAT(store_.Find(id), IsOk());
    EXPECT_EQ(ReadFileBytes(folder + "/" + name), good);
    EXPECT_THAT(NamesIn(folder_), ElementsAre(id));
  }
}

TEST_F(DatasetStoreTest, RefusesADatasetUnderAnotherId) {
  const std::string id = StoreAll();
  const std::string other = absl::StrCat("sha256-", std::string(64, '0'));
  std::filesystem::rename(folder_ + "/" + id, folder_ + "/" + other);
  EXPECT_THAT(store_.Find(other), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another id")));
}

TEST_F(DatasetStoreTest, IsReadByNumpy) {
  const std::string python = test_support::FindPython("numpy");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy";
  const absl::StatusOr<DatasetFiles> files = store_.Find(StoreAll(3));
  ASSERT_THAT(files, IsOk());
  const char kProgram[] = R"(
import sys, numpy as np
inputs = np.load(sys.argv[1], mmap_mode='r'); targets = np.load(sys.argv[2])
assert inputs.dtype == np.float32 and inputs.shape == (4, 2, 3), inputs
assert (inputs.ravel() == 0.5 * np.arange(24)).all(), inputs
assert targets.dtype == np.int64 and targets.tolist() == [100, 101, 102, 103], targets
)";
  const test_support::PythonResult result =
      test_support::RunPython(python, kProgram, {files->inputs_path, files->targets_path});
  EXPECT_EQ(result.exit_status, 0) << result.output;
}

}  // namespace
}  // namespace laplaced
