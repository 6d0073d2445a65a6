// Lanczos on several ranks, and from a checkpoint, against one rank that went through.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "server/laplace/lanczos_checkpoint.h"
#include "server/linalg/lanczos.h"
#include "tests/distributed/on_ranks.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using reference::MatrixOperator;
using ::testing::HasSubstr;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor Matrix() {
  constexpr int64_t kSize = 101;  // no multiple of the ranks
  const at::Tensor q = std::get<0>(at::linalg_qr(reference::RandomNormal({kSize, kSize}, 7)));
  const at::Tensor spectrum = 50 / (1 + at::arange(kSize, at::kDouble));
  return at::mm(q * spectrum, q.t());
}

LanczosOptions Options() {
  LanczosOptions options;
  options.rank = 6;
  options.max_basis = 10;  // with restarts
  options.tolerance = 1e-9;
  options.max_products = 400;
  options.seed = 3;
  return options;
}

EigenPairs Whole(const EigenPairs& mine, const Ranks& ranks) {
  EigenPairs pairs = mine;
  pairs.vectors = *ranks.Gather(mine.vectors.contiguous());
  return pairs;
}

TEST(LanczosRanksTest, FindTheSamePairsAsOne) {
  const at::Tensor matrix = Matrix();
  const EigenPairs alone = *Lanczos(MatrixOperator(matrix), Options());
  ASSERT_TRUE(alone.converged);
  const auto all = OnRanks<EigenPairs>(3, [&](const Ranks& ranks) {
    LanczosOptions options = Options();
    options.ranks = &ranks;
    const EigenPairs mine = *Lanczos(MatrixOperator(matrix), options);
    EXPECT_EQ(mine.vectors.size(0), ShareOf(101, ranks).size());
    return Whole(mine, ranks);
  });
  ASSERT_EQ(all.size(), 3u);
  for (const EigenPairs& pairs : all) {
    EXPECT_TRUE(pairs.converged);
    EXPECT_TRUE(at::equal(pairs.values, all[0].values));
    EXPECT_LT(Max(pairs.values - alone.values), 1e-9);
    // Each vector up to its sign.
    EXPECT_LT(Max((pairs.vectors * alone.vectors).sum(0).abs() - 1), 1e-9);
    EXPECT_LT(Max(at::mm(pairs.vectors.t(), pairs.vectors) - at::eye(6, at::kDouble)), 1e-12);
  }
}

TEST(LanczosRanksTest, ExhaustTheRankOfTheOperatorTogether) {
  const at::Tensor factor = reference::RandomNormal({101, 4}, 5);
  const at::Tensor matrix = at::mm(factor, factor.t());
  const auto found = OnRanks<int64_t>(4, [&](const Ranks& ranks) {
    LanczosOptions options = Options();
    options.ranks = &ranks;
    const auto pairs = Lanczos(MatrixOperator(matrix), options);
    EXPECT_TRUE(pairs.ok()) << pairs.status();
    EXPECT_TRUE(pairs->rank_exhausted);
    return pairs->values.size(0);
  });
  EXPECT_THAT(found, ::testing::ElementsAre(4, 4, 4, 4));
}

class CheckpointTest : public ::testing::Test {
 protected:
  LanczosCheckpoint Checkpoint(bool resume, const std::string& fingerprint = "a fit") {
    LanczosCheckpoint::Options options;
    options.folder = folder_.path() + "/checkpoint";
    options.fingerprint = fingerprint;
    options.interval = std::chrono::seconds(0);
    options.resume = resume;
    options.tell = [this](const std::string& message) { told_.push_back(message); };
    return LanczosCheckpoint(std::move(options));
  }

  // A run that keeps its states and ends with an error after `products`, if that is not 0.
  absl::StatusOr<EigenPairs> Run(LanczosCheckpoint checkpoint, const Ranks& ranks,
                                 int64_t products = 0, int64_t max_basis = Options().max_basis) {
    LanczosOptions options = Options();
    options.max_basis = max_basis;
    options.ranks = &ranks;
    auto start = checkpoint.Find(0, ranks);
    if (!start.ok()) return start.status();
    options.start = *std::move(start);
    options.on_state = [&](const LanczosState& state) { return checkpoint.Keep(0, state, ranks); };
    options.on_product = [products](int64_t done, int64_t) {
      return done == products ? absl::CancelledError("power cut") : absl::OkStatus();
    };
    auto pairs = Lanczos(MatrixOperator(matrix_), options);
    if (pairs.ok()) *pairs = Whole(*pairs, ranks);
    return pairs;
  }

  test_support::TempFolder folder_;
  at::Tensor matrix_ = Matrix();
  std::vector<std::string> told_;
};

TEST_F(CheckpointTest, ARunThatGoesOnEndsWithTheSameBits) {
  const EigenPairs through = *Run(Checkpoint(false), OneRank());
  for (const int64_t cut : {1, 5, 17, 28}) {  // also right before and after restarts
    ASSERT_LT(cut, through.products);
    EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), OneRank(), cut).status()));
    told_.clear();
    const EigenPairs resumed = *Run(Checkpoint(true), OneRank());
    EXPECT_TRUE(at::equal(resumed.values, through.values)) << cut;
    EXPECT_TRUE(at::equal(resumed.vectors, through.vectors)) << cut;
    EXPECT_EQ(resumed.products, through.products);
    if (cut > 1) {
      ASSERT_EQ(told_.size(), 1u) << "a state was there";
      EXPECT_THAT(told_[0], HasSubstr("going on after"));
    }
  }
}

TEST_F(CheckpointTest, GoesOnWithAnotherNumberOfRanks) {
  const EigenPairs through = *Run(Checkpoint(false), OneRank());
  OnRanks<int>(3, [&](const Ranks& ranks) {
    EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), ranks, 12).status()));
    return 0;
  });
  const auto on_two =
      OnRanks<EigenPairs>(2, [&](const Ranks& ranks) { return *Run(Checkpoint(true), ranks); });
  ASSERT_EQ(on_two.size(), 2u);
  EXPECT_THAT(told_, ::testing::ElementsAre(HasSubstr("going on after 11 curvature products")));
  EXPECT_LT(Max(on_two[0].values - through.values), 1e-9);
  EXPECT_LT(Max((on_two[1].vectors * through.vectors).sum(0).abs() - 1), 1e-9);
}

TEST_F(CheckpointTest, GoesOnWithFewerVectorsThanItHas) {
  const EigenPairs through = *Run(Checkpoint(false), OneRank());
  OnRanks<int>(4, [&](const Ranks& ranks) {
    EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), ranks, 18, 20).status()));
    const auto state = Checkpoint(true).Find(0, ranks);
    EXPECT_TRUE(state.ok() && *state);
    if (state.ok() && *state) {
      EXPECT_EQ((*state)->basis.size(0), 18);
      EXPECT_EQ((*state)->max_basis, 20);
    }
    return 0;
  });
  const auto on_two = OnRanks<EigenPairs>(2, [&](const Ranks& ranks) {
    const auto pairs = Run(Checkpoint(true), ranks);
    EXPECT_TRUE(pairs.ok()) << pairs.status();
    return pairs.ok() ? *pairs : EigenPairs();
  });
  ASSERT_EQ(on_two.size(), 2u);
  ASSERT_TRUE(on_two[0].converged && on_two[1].converged);
  EXPECT_GT(on_two[0].products, 17);
  EXPECT_TRUE(at::equal(on_two[0].values, on_two[1].values));
  EXPECT_LT(Max(on_two[0].values - through.values), 1e-9);
  EXPECT_LT(Max((on_two[0].vectors * through.vectors).sum(0).abs() - 1), 1e-9);
}

TEST_F(CheckpointTest, KeepsOneWholeStep) {
  EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), OneRank(), 9).status()));
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path() + "/checkpoint")) {
    names.push_back(entry.path().filename());
  }
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("lanczos-0.json", "lanczos-0-8"));
}

TEST_F(CheckpointTest, RefusesAnotherFitsState) {
  EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), OneRank(), 9).status()));
  const auto other = Run(Checkpoint(true, "another fit"), OneRank());
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()),
              HasSubstr("belongs to another fit, of a fit; this one is of another fit"));
}

TEST_F(CheckpointTest, StartsAnewWhereThereIsNoState) {
  EXPECT_TRUE(Run(Checkpoint(true), OneRank()).ok());
  EXPECT_TRUE(told_.empty());
}

TEST_F(CheckpointTest, DamageIsDataLoss) {
  EXPECT_TRUE(absl::IsCancelled(Run(Checkpoint(false), OneRank(), 9).status()));
  const std::string file = folder_.path() + "/checkpoint/lanczos-0-8/basis-0.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
  EXPECT_EQ(Run(Checkpoint(true), OneRank()).status().code(), absl::StatusCode::kDataLoss);
  std::ofstream(folder_.path() + "/checkpoint/lanczos-0.json") << "{\"products\": \"many\"}";
  EXPECT_EQ(Run(Checkpoint(true), OneRank()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CheckpointTest, AStepThatCannotBeWrittenDoesNotEndTheFit) {
  std::ofstream(folder_.path() + "/checkpoint") << "a file where the folder should be";
  EXPECT_TRUE(Run(Checkpoint(false), OneRank()).ok());
  ASSERT_FALSE(told_.empty());
  EXPECT_THAT(told_[0], HasSubstr("no checkpoint was written, the fit goes on"));
}

}  // namespace
}  // namespace laplaced
