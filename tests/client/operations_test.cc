#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "tests/client/fake_server.h"

namespace laplace::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Operation Running(double fraction) {
  v1::Operation operation;
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  operation.set_description("fit digits/3");
  operation.set_phase("directions");
  operation.set_fraction(fraction);
  return operation;
}

v1::Operation Succeeded() {
  v1::Operation operation = Running(1);
  operation.set_state(v1::OPERATION_STATE_SUCCEEDED);
  operation.set_posterior_id("p-7");
  return operation;
}

v1::Operation Failed() {
  v1::Operation operation = Running(0.5);
  operation.set_state(v1::OPERATION_STATE_FAILED);
  operation.set_error_code(grpc::StatusCode::RESOURCE_EXHAUSTED);
  operation.set_error_message("no space left on the disk");
  return operation;
}

grpc::Status Dropped() { return {grpc::StatusCode::UNAVAILABLE, "connection reset"}; }

class Operations : public ::testing::Test {
 protected:
  Operations() {
    ClientOptions options;
    options.retry.initial_backoff = absl::Milliseconds(2);
    options.retry.max_backoff = absl::Milliseconds(500);
    client_ = *Client::Connect(server_.address(), options);
  }

  // Fits, keeping every fraction that was reported.
  absl::StatusOr<std::string> Fit() {
    return client_->Fit({"digits"}, [this](const Operation& operation) {
      fractions_.push_back(operation.fraction);
      return true;
    });
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
  std::vector<double> fractions_;
};

TEST_F(Operations, AFitReportsProgressAndReturnsThePosterior) {
  server_.SetOperationScript({Running(0.25), Running(0.5), Succeeded()});
  const auto id = Fit();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, "p-7");
  EXPECT_THAT(fractions_, ElementsAre(0.25, 0.5, 1));
}

TEST_F(Operations, AFitSendsItsOptions) {
  server_.SetOperationScript({Succeeded()});
  FitRequest request;
  request.model = "digits";
  request.train_dataset_id = "sha256-1";
  request.options.rank = 7;
  request.options.debiasing = Debiasing::kNone;
  request.options.prior_precision = 0.25;
  request.keep_inactive = true;
  ASSERT_TRUE(client_->Fit(request).ok());
  const v1::FitPosteriorRequest sent = server_.LastFit();
  EXPECT_EQ(sent.train_dataset_id(), "sha256-1");
  EXPECT_EQ(sent.options().rank(), 7);
  EXPECT_EQ(sent.options().debiasing(), v1::DEBIASING_STRATEGY_NONE);
  EXPECT_EQ(sent.options().prior_precision(), 0.25);
  EXPECT_FALSE(sent.options().has_ood_prior_precision());
  EXPECT_TRUE(sent.keep_inactive());
}

TEST_F(Operations, AnUpdateSendsItsRequestAndIsFollowedLikeAFit) {
  server_.SetOperationScript({Running(0.25), Running(0.5), Succeeded()});
  server_.DropNextWatch(1, Dropped());
  UpdateRequest request;
  request.model = "digits";
  request.version = 3;
  request.posterior_id = "p-1";
  request.dataset_id = "sha256-2";
  request.keep_inactive = true;
  std::vector<double> fractions;
  const auto id = client_->Update(request, [&fractions](const Operation& operation) {
    fractions.push_back(operation.fraction);
    return true;
  });
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, "p-7");
  EXPECT_THAT(fractions, ElementsAre(0.25, 0.5, 1));
  const v1::UpdatePosteriorRequest sent = server_.LastUpdate();
  EXPECT_EQ(sent.model(), "digits");
  EXPECT_EQ(sent.version(), 3);
  EXPECT_EQ(sent.posterior_id(), "p-1");
  EXPECT_EQ(sent.dataset_id(), "sha256-2");
  EXPECT_TRUE(sent.keep_inactive());
  EXPECT_EQ(server_.Calls("FitPosterior"), 0);
}

TEST_F(Operations, ACallbackThatReturnsFalseCancelsTheUpdate) {
  server_.SetOperationScript({Running(0.1)});
  server_.RunUntilCancelled();
  const auto id = client_->Update({"digits"}, [](const Operation&) { return false; });
  EXPECT_EQ(id.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(server_.Calls("CancelOperation"), 1);
}

TEST_F(Operations, AFitSurvivesDroppedWatches) {
  server_.SetOperationScript({Running(0.1), Running(0.2), Running(0.3), Succeeded()});
  server_.DropNextWatch(1, Dropped());
  server_.DropNextWatch(1, Dropped());
  server_.DropNextWatch(0, Dropped());
  server_.DropNextWatch(1, grpc::Status::OK);  // ended politely, but too early
  const auto id = Fit();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_THAT(fractions_, ElementsAre(0.1, 0.2, 0.3, 1));
  EXPECT_EQ(server_.Calls("FitPosterior"), 1);
  EXPECT_EQ(server_.Calls("WatchOperation"), 5);
}

TEST_F(Operations, AWatchThatNeverMovesIsGivenUp) {
  server_.SetOperationScript({Running(0.1), Succeeded()});
  for (int i = 0; i < 20; ++i) server_.DropNextWatch(0, Dropped());
  EXPECT_EQ(Fit().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_.Calls("WatchOperation"), 4);
}

TEST_F(Operations, ACallbackThatReturnsFalseCancelsTheFit) {
  server_.SetOperationScript({Running(0.1)});
  server_.RunUntilCancelled();
  int calls = 0;
  const auto id = client_->Fit({"digits"}, [&calls](const Operation&) { return ++calls < 3; });
  EXPECT_EQ(id.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(server_.Calls("CancelOperation"), 1);
}

TEST_F(Operations, AFailedFitKeepsItsCodeAndMessage) {
  server_.SetOperationScript({Running(0.5), Failed()});
  const absl::Status status = Fit().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no space left on the disk"));
}

TEST_F(Operations, AWatcherMayLookAwayWithoutCancelling) {
  server_.SetOperationScript({Running(0.1), Running(0.2), Succeeded()});
  const auto last = client_->WatchOperation("op-9", [](const Operation&) { return false; });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->id, "op-9");
  EXPECT_EQ(last->fraction, 0.1);
  EXPECT_EQ(server_.Calls("CancelOperation"), 0);
}

TEST_F(Operations, AreListedAndLookedUp) {
  const auto all = client_->ListOperations();
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), 1u);
  EXPECT_EQ((*all)[0].state, OperationState::kSucceeded);
  EXPECT_EQ(client_->GetOperation("op-3")->id, "op-3");
}

}  // namespace
}  // namespace laplace::client
