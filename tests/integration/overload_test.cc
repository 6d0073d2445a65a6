// Much traffic at once: every caller gets its own answer or a refusal that says when to come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "client/cpp/errors.h"
#include "tests/integration/world.h"
#include "tests/support/event.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
using test_support::IsOk;

constexpr int64_t kInputs = 4;

// Rows [begin, begin + count) of float32 rows.
Array RowsOf(const Array& all, int64_t begin, int64_t count) {
  Array rows = all;
  rows.shape[0] = count;
  rows.bytes = all.bytes.substr(static_cast<size_t>(begin * kInputs) * sizeof(float),
                                static_cast<size_t>(count * kInputs) * sizeof(float));
  return rows;
}

class OverloadTest : public ::testing::Test {
 protected:
  void Start(const laplace::v1::ServerConfig& changes) {
    world_.Start(changes);
    client_ = world_.Connect();
    world_.Fit(*client_);
  }

  client::PredictRequest Request(double prior_precision) const {
    client::PredictRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    request.prior_precision = prior_precision;
    return request;
  }

  World world_;
  std::unique_ptr<client::Client> client_;
};

// Number of values of rows [begin, begin + count) that are not those of the whole.
int Wrong(const std::vector<float>& part, const std::vector<float>& whole, int64_t begin,
          int64_t count, int64_t batch) {
  const auto stride = static_cast<int64_t>(whole.size()) / batch;
  if (static_cast<int64_t>(part.size()) != count * stride) return 1;
  int wrong = 0;
  for (int64_t i = 0; i < count * stride; ++i) {
    const float expected = whole[static_cast<size_t>(begin * stride + i)];
    const float got = part[static_cast<size_t>(i)];
    wrong += std::abs(got - expected) <= 1e-6f * std::max(1.0f, std::abs(expected)) ? 0 : 1;
  }
  return wrong;
}

TEST_F(OverloadTest, MixedTrafficGetsItsOwnAnswers) {
  Start({});
  const double precisions[] = {0.5, 5, 50};
  std::vector<client::Prediction> alone;
  for (const double precision : precisions) {
    auto answer = client_->Predict(Request(precision));
    ASSERT_THAT(answer, IsOk());
    alone.push_back(*std::move(answer));
  }
  ASSERT_NE(alone[0].mean, alone[2].mean);
  std::atomic<int> wrong{0}, failed{0};
  const auto worker = [&](unsigned seed) {
    std::mt19937 random(seed);
    const auto mine = world_.Connect();
    for (int i = 0; i < 100; ++i) {
      const size_t which = random() % 3;
      const int64_t begin = random() % 40;
      const int64_t count = 1 + random() % static_cast<unsigned>(40 - begin);
      client::PredictRequest request = Request(precisions[which]);
      request.inputs = RowsOf(world_.test_inputs(), begin, count);
      if (random() % 2 == 0) request.priority = client::Priority::kBulk;
      const auto answer = mine->Predict(request);
      if (!answer.ok()) {
        ++failed;
        continue;
      }
      const client::Prediction& whole = alone[which];
      wrong += Wrong(answer->mean, whole.mean, begin, count, 40);
      wrong += Wrong(answer->functional_variance, whole.functional_variance, begin, count, 40);
      wrong += Wrong(answer->epistemic, whole.epistemic, begin, count, 40);
      wrong += answer->ood_scores.at(0).is_ood.size() == static_cast<size_t>(count) ? 0 : 1;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 8; ++seed) threads.emplace_back(worker, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(wrong, 0);
}

TEST_F(OverloadTest, RefusalsSayWhenToComeBackAndHarmNobody) {
  laplace::v1::ServerConfig changes;
  changes.set_max_queue(2);
  Start(changes);
  const auto alone = client_->Predict(Request(5));
  ASSERT_THAT(alone, IsOk());
  std::atomic<int> wrong{0}, refused{0}, served{0};
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  const auto worker = [&] {
    const auto mine = world_.Connect();
    while ((refused < 20 || served < 20) && std::chrono::steady_clock::now() < give_up) {
      const auto answer = mine->Predict(Request(5));
      if (answer.ok()) {
        ++served;
        wrong += Wrong(answer->mean, alone->mean, 0, 40, 40);
        continue;
      }
      ++refused;
      const bool right = absl::IsResourceExhausted(answer.status()) &&
                         client::RetryDelay(answer.status()).has_value();
      wrong += right ? 0 : 1;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) threads.emplace_back(worker);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(refused, 20);
  EXPECT_GE(served, 20);
  EXPECT_THAT(client_->Predict(Request(5)), IsOk());
  const auto health = client_->Health();
  ASSERT_THAT(health, IsOk());
  EXPECT_EQ(*health, client::HealthState::kServing);
}

// A client that waits as long as it is told gets its answer in the end.
TEST_F(OverloadTest, ClientsThatRetryAreAllServed) {
  laplace::v1::ServerConfig changes;
  changes.set_max_queue(2);
  Start(changes);
  std::atomic<int> failed{0};
  const auto worker = [&] {
    client::ClientOptions options;
    options.retry.max_attempts = 1000;
    const auto mine = client::Client::Connect(world_.address(), options);
    for (int i = 0; i < 10; ++i) failed += (*mine)->Predict(Request(5)).ok() ? 0 : 1;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back(worker);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

}  // namespace
}  // namespace laplaced::integration
