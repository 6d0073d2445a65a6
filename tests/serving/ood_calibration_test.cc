// Data whose scores are all equal, from which the score combined cannot be made.
#include "server/serving/ood_calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/ood/threshold.h"
#include "server/serving/fit_start.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using test_support::IsOk;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A threshold whose median and 95 % quantile are these.
OodThresholdRecord Threshold(const std::string& score, double median, double upper) {
  OodThresholdRecord threshold;
  threshold.score = score;
  for (const double q : kIdQuantiles) threshold.id_quantiles.push_back(q < .95 ? median : upper);
  return threshold;
}

std::vector<OodThresholdRecord> Parts(double knn, double react, double energy) {
  return {Threshold("knn", .25, .25 + knn), Threshold("react", -3, -3 + react),
          Threshold("moderated_energy", -40, -40 + energy)};
}

TEST(CombinedScalesTest, NeedAPartThatSpreads) {
  const auto scales = CombinedScales(Parts(.5, 2, 8));
  ASSERT_EQ(scales.size(), 3u);
  EXPECT_EQ(scales[1].score, "react");
  EXPECT_EQ(scales[1].median, -3);
  EXPECT_EQ(scales[2].spread, 8);
  EXPECT_EQ(CombinedScales(Parts(0, 2, 0)).size(), 3u);
  EXPECT_THAT(CombinedScales(Parts(0, 0, 0)), IsEmpty());
  // Rounding errors of equal examples.
  EXPECT_THAT(CombinedScales(Parts(1e-7, 1e-6, 1e-5)), IsEmpty());
  std::vector<OodThresholdRecord> two = Parts(.5, 2, 8);
  two.pop_back();
  EXPECT_THAT(CombinedScales(two), IsEmpty());
}

TEST(CombinedScalesTest, StayWhereAReleaseBeforeMadeCombined) {
  std::vector<OodThresholdRecord> thresholds = Parts(0, 0, 0);
  thresholds.push_back(Threshold("combined", .5, .5));
  EXPECT_EQ(CombinedScales(thresholds).size(), 3u);
}

class Handle : public OperationHandle {
 public:
  bool cancelled() const override { return false; }
  void Report(const std::string&, int64_t, int64_t, double) override {}
};

class EqualExamplesTest : public ::testing::Test {
 protected:
  EqualExamplesTest() {
    const std::string folder = root_.path() + "/models/net/1";
    std::filesystem::create_directories(folder);
    reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                          "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                          "  return torch.linear(h, self.w2, self.b2)\n",
                          at::kFloat)
        .save(folder + "/model.pt");
    test_support::WriteFileBytes(folder + "/model.json",
                                 R"({"likelihood": "categorical", "input": {"shape": [4]},
                                     "n_outputs": 3, "n_data": 120, "weight_decay": 0.01})");
    model_ = *LoadModel(*Repository::Open(root_.path()), {"net", 1});
  }

  static Dataset Data(const at::Tensor& inputs) {
    return {inputs, at::arange(inputs.size(0), at::kLong).remainder(3)};
  }
  std::string Folder(const std::string& id) const { return root_.path() + "/" + id; }

  PosteriorRecord Fit(const at::Tensor& validation) {
    FitRequest request;
    request.model = "net";
    request.rank = 5;
    request.direction_batch_size = 40;
    request.curvature_batch_size = 60;
    const auto job =
        PrepareFit(model_, request, Data(RandomNormal({120, 4}, 1, at::kFloat)), Data(validation));
    EXPECT_THAT(job, IsOk());
    EXPECT_THAT(RunFitJob(*job, Folder(job->record.id), handle_), IsOk());
    return *ReadPosteriorRecord(Folder(job->record.id));
  }

  PosteriorRecord Calibrate(const PosteriorRecord& old, const at::Tensor& inputs) {
    CalibrationJob job;
    job.model = model_;
    job.before = *LoadPosterior(Folder(old.id), *model_);
    job.data = Data(inputs);
    job.record = old;
    job.record.id = old.id + "-again";
    job.record.ood_thresholds.clear();
    EXPECT_THAT(RunCalibrationJob(job, Folder(job.record.id), handle_), IsOk());
    return *ReadPosteriorRecord(Folder(job.record.id));
  }

  void ExpectCombined(const PosteriorRecord& record, bool expected) const {
    const auto loaded = LoadPosterior(Folder(record.id), *model_);
    ASSERT_THAT(loaded, IsOk());
    EXPECT_EQ((*loaded)->ood.knowledge.combined.size(), expected ? 3u : 0u);
    std::vector<std::string> calibrated;
    for (const OodThresholdRecord& threshold : record.ood_thresholds) {
      calibrated.push_back(threshold.score);
    }
    EXPECT_EQ(calibrated, record.available_ood_scores);
    if (expected) {
      EXPECT_THAT(calibrated, Contains("combined"));
      EXPECT_THAT(record.warnings, Not(Contains(HasSubstr("combined"))));
    } else {
      EXPECT_THAT(calibrated, Not(Contains("combined")));
      EXPECT_THAT(record.warnings, Contains(HasSubstr("no OOD score combined")));
    }
  }

  test_support::TempFolder root_;
  std::shared_ptr<const LoadedModel> model_;
  Handle handle_;
};

TEST_F(EqualExamplesTest, LeaveTheDefaultToTheModeratedEnergy) {
  for (const int64_t rows : {1, 7}) {
    const PosteriorRecord record = Fit(RandomNormal({1, 4}, 2, at::kFloat).repeat({rows, 1}));
    ExpectCombined(record, false);
    EXPECT_EQ(record.default_ood_score, "moderated_energy");
  }
}

TEST_F(EqualExamplesTest, ACalibrationTakesCombinedAwayAndBringsItBack) {
  const PosteriorRecord fitted = Fit(RandomNormal({30, 4}, 2, at::kFloat));
  ExpectCombined(fitted, true);
  EXPECT_EQ(fitted.default_ood_score, "combined");
  const PosteriorRecord one = Calibrate(fitted, RandomNormal({1, 4}, 3, at::kFloat));
  ExpectCombined(one, false);
  EXPECT_EQ(one.default_ood_score, "moderated_energy");
  const PosteriorRecord many = Calibrate(one, RandomNormal({30, 4}, 4, at::kFloat));
  ExpectCombined(many, true);
  EXPECT_EQ(many.default_ood_score, "moderated_energy") << "stays until another is asked for";
}

}  // namespace
}  // namespace laplaced
