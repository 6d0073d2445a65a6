// What ranks send each other: every field of a request arrives, or they would fit different things.
// And when they wait for each other.
#include "server/serving/fit_crew.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "server/distributed/gloo_ranks.h"
#include "server/serving/fit_end.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::HasSubstr;

TEST(FitCrewTest, EveryFieldOfARequestArrives) {
  FitRequest r;
  r.model = "net";
  r.version = 3;
  r.train_dataset_id = "train";
  r.validation_dataset_id = "validation";
  r.keep_inactive = true;
  r.rank = 4;
  r.direction_batch_size = 5;
  r.curvature_batch_size = 6;
  r.debiasing = "cross_fit";
  r.residual = "diagonal";
  r.seed = UINT64_MAX;
  r.prior_precision = 0.1;
  r.ood_prior_precision = 7.5;
  r.lanczos_tolerance = 1e-7;
  r.max_products = 8;
  r.target_id_rate = 0.01;
  r.max_validation_examples = 9;
  r.structure = "kfac";
  r.curvature = "mc_fisher";
  r.parameters = {"head.*", "b"};
  r.kfac_eigenvalues = "factors";
  r.prior_method = "given";
  r.temperature = 0.5;
  r.noise_method = "data";
  r.sigma_noise = 0.3;
  r.target_relative_standard_error = 0.2;
  r.variance_correction = true;
  r.memory_limit_bytes = 10;
  r.fisher_samples = 11;
  r.feature_layer = "fc";
  const std::string text = EncodeFitRequest(r);
  const auto back = DecodeFitRequest(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeFitRequest(*back), text);
  EXPECT_EQ(back->seed, UINT64_MAX);
  EXPECT_EQ(back->prior_precision, r.prior_precision);
  EXPECT_EQ(back->ood_prior_precision, r.ood_prior_precision);
  EXPECT_EQ(back->sigma_noise, r.sigma_noise);
  EXPECT_EQ(back->parameters, r.parameters);
  // Nothing that was set above is sent as its default, and all of it is sent.
  const auto sent = nlohmann::json::parse(text);
  const auto usual = nlohmann::json::parse(EncodeFitRequest(FitRequest()));
  ASSERT_EQ(sent.size(), 30u);
  for (const auto& [name, value] : sent.items()) EXPECT_NE(value, usual[name]) << name;
}

TEST(FitCrewTest, WhatIsNoRequestIsDataLoss) {
  for (const char* text : {"", "[]", "{}", "{\"model\": 3}"}) {
    EXPECT_EQ(DecodeFitRequest(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST(FitCrewTest, ARankThatIsLateLeavesOutFitsThatHaveEnded) {
  const test_support::TempFolder root;
  const Repository repository = *Repository::Open(root.path());
  const DatasetStore datasets(repository.DatasetsFolder(), 1 << 20);
  const MeetingPoint first = MeetingPoint::InProcess(nullptr, 0, 2);
  for (const int64_t number : {1, 2, 3}) {
    const std::string request = EncodeFitRequest(FitRequest());
    ASSERT_THAT(first.Post("fit-" + std::to_string(number), request), IsOk());
    if (number < 3) PostFitEnd(first, number, absl::CancelledError("the fit was cancelled"));
  }
  FitCrew late(std::make_unique<MeetingPoint>(MeetingPoint::InProcess(&first, 1, 2)),
               {seconds(30), seconds(30)});
  std::atomic<bool> stop{false};
  std::thread thread([&] { EXPECT_THAT(late.Work(repository, datasets, stop), IsOk()); });
  auto ranks = first.Join("fit-3/", seconds(15), seconds(30));
  EXPECT_THAT(ranks, IsOk());
  stop = true;
  if (ranks.ok()) (*ranks)->GiveUp(absl::CancelledError("the fit was cancelled"));
  thread.join();
}

TEST(FitEndWatchTest, TellsOfFitsThatRank0HasGivenUp) {
  const MeetingPoint meeting = MeetingPoint::InProcess(nullptr, 0, 2);
  const auto good = FitEndWatch::Start(meeting, 1), bad = FitEndWatch::Start(meeting, 2);
  ASSERT_THAT(good, IsOk());
  ASSERT_THAT(bad, IsOk());
  EXPECT_FALSE(HasFitEnded(meeting, 2));
  EXPECT_THAT((*bad)->status(), IsOk());
  PostFitEnd(meeting, 1, absl::OkStatus());
  PostFitEnd(meeting, 2, absl::CancelledError("the fit was cancelled"));
  EXPECT_TRUE(HasFitEnded(meeting, 1));
  EXPECT_TRUE(HasFitEnded(meeting, 2));
  for (int i = 0; i < 1000 && (*bad)->status().ok(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_THAT((*bad)->status(), StatusIs(absl::StatusCode::kUnavailable,
                                         HasSubstr("rank 0 ended the fit: the fit was cancelled")));
  EXPECT_THAT((*good)->status(), IsOk());
}

}  // namespace
}  // namespace laplaced
