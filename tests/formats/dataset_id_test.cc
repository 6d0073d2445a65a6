#include "formats/dataset_id.h"

#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

const float kInputs[] = {0, 1, 2, 3, 4, 5};
const int64_t kTargets[] = {7, 8, 9};

DatasetHeader Header() {
  DatasetHeader header;
  header.example_shape = {1, 2};
  header.n_rows = 3;
  return header;
}

std::string IdOf(const DatasetHeader& header, const void* inputs, const void* targets) {
  DatasetHasher hasher(header);
  hasher.Update(inputs, sizeof kInputs, targets, sizeof kTargets);
  return hasher.Finish();
}

TEST(DatasetIdTest, FollowsItsDefinition) {
  // Computed with Python's hashlib from the text in the header file.
  EXPECT_EQ(IdOf(Header(), kInputs, kTargets),
            "sha256-071e1f3ffdfcc9fe32fd75e747b71ff911ad174da20d7f3419a652d086f3ca70");
}

TEST(DatasetIdTest, DoesNotDependOnChunks) {
  DatasetHasher hasher(Header());
  for (int row = 0; row < 3; ++row) {
    hasher.Update(kInputs + 2 * row, 2 * sizeof(float), kTargets + row, sizeof(int64_t));
    hasher.Update(nullptr, 0, nullptr, 0);
  }
  EXPECT_EQ(hasher.Finish(), IdOf(Header(), kInputs, kTargets));
}

TEST(DatasetIdTest, DependsOnEveryPartOfTheDescriptionAndOnEveryValue) {
  std::set<std::string> ids = {IdOf(Header(), kInputs, kTargets)};
  const std::vector<std::function<void(DatasetHeader&)>> changes = {
      [](DatasetHeader& header) { header.input_dtype = DType::kInt32; },
      [](DatasetHeader& header) { header.example_shape = {2}; },
      [](DatasetHeader& header) {
        header.example_shape = {2, 1};
      },
      [](DatasetHeader& header) { header.target_dtype = DType::kFloat64; },
      [](DatasetHeader& header) { header.target_shape = {1}; },
      [](DatasetHeader& header) { header.n_rows = 4; },
  };
  for (const auto& change : changes) {
    DatasetHeader header = Header();
    change(header);
    ids.insert(IdOf(header, kInputs, kTargets));
  }
  const float other_inputs[] = {0, 1, 2, 3, 4, 6};
  const int64_t other_targets[] = {7, 8, 10};
  ids.insert(IdOf(Header(), other_inputs, kTargets));
  ids.insert(IdOf(Header(), kInputs, other_targets));
  EXPECT_EQ(ids.size(), 1 + changes.size() + 2);
}

TEST(DatasetIdTest, RecognisesIds) {
  const std::string digits(64, 'a');
  EXPECT_TRUE(IsDatasetId(absl::StrCat("sha256-", digits)));
  EXPECT_FALSE(IsDatasetId(absl::StrCat("sha256-", digits, "0")));
  EXPECT_FALSE(IsDatasetId(absl::StrCat("sha256-", digits.substr(1))));
  EXPECT_FALSE(IsDatasetId(absl::StrCat("sha256-", std::string(64, 'A'))));
  EXPECT_FALSE(IsDatasetId(absl::StrCat("sha256-../", digits.substr(3))));
  EXPECT_FALSE(IsDatasetId(digits));
  EXPECT_FALSE(IsDatasetId(""));
}

}  // namespace
}  // namespace laplaced
