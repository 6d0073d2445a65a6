#include "server/rpc/record_codec.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

using ::testing::ElementsAre;

TEST(FillScoreTest, FlagsWhatIsAboveTheThresholdAndWhatIsNoNumber) {
  const double infinity = std::numeric_limits<double>::infinity();
  ScoreValues values;
  values.name = "energy";
  values.threshold = 0.5;
  values.values = {0.4, 0.5, 0.6, std::nan(""), infinity, -infinity};
  laplace::v1::OodScore score;
  FillScore(values, &score);
  EXPECT_THAT(score.is_ood(), ElementsAre(false, false, true, true, true, false));
}

TEST(FillScoreTest, FlagsNothingWithoutAThreshold) {
  ScoreValues values;
  values.name = "energy";
  values.values = {1.0, std::nan("")};
  laplace::v1::OodScore score;
  FillScore(values, &score);
  EXPECT_EQ(score.values_size(), 2);
  EXPECT_EQ(score.is_ood_size(), 0);
  EXPECT_FALSE(score.has_threshold());
}

}  // namespace
}  // namespace laplaced
