// What ranks send each other: every field of a request arrives, or they would fit different things.
#include "server/serving/fit_crew.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace laplaced {
namespace {

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

}  // namespace
}  // namespace laplaced
