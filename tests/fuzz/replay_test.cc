// Every fuzz target on its seeds, on what once failed, and on some thousand mutations: the short
// form of `make fuzz`, for builds without libFuzzer.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/mutation.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"

namespace laplaced::fuzz {
namespace {

using test_support::NamesIn;
using test_support::ReadFileBytes;

constexpr int kMutations = 2000;

std::string FailuresOf(const Target& target) {
  return std::string(LAPLACED_FUZZ_FOLDER) + "/failures/" + target.name;
}

class ReplayTest : public ::testing::TestWithParam<Target> {};

TEST_P(ReplayTest, Seeds) {
  const std::vector<std::string> seeds = GetParam().seeds();
  EXPECT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) {
    EXPECT_LE(seed.size(), GetParam().max_bytes);
    GetParam().run(seed);
  }
}

TEST_P(ReplayTest, WhatOnceFailed) {
  const std::string folder = FailuresOf(GetParam());
  if (!std::filesystem::exists(folder)) return;
  for (const std::string& name : NamesIn(folder)) {
    std::fprintf(stderr, "%s/%s\n", folder.c_str(), name.c_str());
    GetParam().run(ReadFileBytes(folder + "/" + name));
  }
}

TEST_P(ReplayTest, Mutations) {
  const std::vector<std::string> seeds = GetParam().seeds();
  std::mt19937_64 random(1);
  for (int i = 0; i < kMutations; ++i) {
    const std::string input =
        Mutated(seeds[static_cast<size_t>(i) % seeds.size()], GetParam().max_bytes, random);
    // Of its own size, so that AddressSanitizer sees what lies behind it.
    const std::unique_ptr<char[]> exact(new char[input.size()]);
    std::copy(input.begin(), input.end(), exact.get());
    GetParam().run({exact.get(), input.size()});
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReplayTest, ::testing::ValuesIn(Targets()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(FuzzFolderTest, FailuresBelongToTargets) {
  const std::string folder = std::string(LAPLACED_FUZZ_FOLDER) + "/failures";
  if (!std::filesystem::exists(folder)) return;
  std::set<std::string> names;
  for (const Target& target : Targets()) names.insert(target.name);
  for (const std::string& name : NamesIn(folder)) EXPECT_EQ(names.count(name), 1) << name;
}

TEST(HeapBoundTest, CountsWhatIsHeldAtOnce) {
  {
    const HeapBound bound(10, 1000, 1000);
    for (int i = 0; i < 10; ++i) std::string(5000, 'x').clear();
  }
  EXPECT_GE(LastHeapPeak(), 5000);
  EXPECT_LT(LastHeapPeak(), 10000);
}

TEST(HeapBoundTest, EndsTheProcessAboveTheBound) {
  EXPECT_DEATH(
      {
        const HeapBound bound(10, 100, 1000);
        const std::string text(5000, 'x');
      },
      "for an input of 10 bytes, at most 2000 are allowed");
}

TEST(RequireStatusTest, EndsTheProcessOnACodeThatIsNotPromised) {
  RequireStatus(absl::InvalidArgumentError("x"), {absl::StatusCode::kInvalidArgument});
  EXPECT_DEATH(RequireStatus(absl::InternalError("x"), {absl::StatusCode::kInvalidArgument}),
               "not among those that are promised: INTERNAL: x");
  EXPECT_DEATH(RequireStatus(absl::DataLossError(""), {absl::StatusCode::kDataLoss}),
               "without a message");
}

}  // namespace
}  // namespace laplaced::fuzz
