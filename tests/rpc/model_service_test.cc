#include "server/rpc/model_service.h"

#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::Call;
using test_support::Event;
using test_support::GoodPredictRequest;
using test_support::TestServer;
using ::testing::ElementsAre;

using ModelStub = v1::ModelService::Stub;

TEST(ModelServiceTest, ListsAndShowsModels) {
  TestServer server;
  v1::ListModelsResponse list;
  ASSERT_TRUE(Call(*server.models, &ModelStub::ListModels, v1::ListModelsRequest(), &list).ok());
  ASSERT_EQ(list.models_size(), 2);
  EXPECT_EQ(list.models(0).name(), "bare");
  v1::GetModelRequest request;
  request.set_name("net");
  v1::GetModelResponse response;
  ASSERT_TRUE(Call(*server.models, &ModelStub::GetModel, request, &response).ok());
  EXPECT_EQ(response.model().state(), v1::MODEL_STATE_READY);
  EXPECT_EQ(response.model().likelihood(), v1::LIKELIHOOD_CATEGORICAL);
  EXPECT_EQ(response.model().input_dtype(), v1::DATA_TYPE_FLOAT32);
  EXPECT_THAT(response.model().input_shape(), ElementsAre(2));
  EXPECT_EQ(response.model().active_posterior_id(), "p-1");
}

TEST(ModelServiceTest, FailedLoadSaysWhyAndLeavesOthersServed) {
  TestServer server;
  server.host->SetLoadHook([](const std::string&) {
    return absl::FailedPreconditionError("model.pt: parameter fc.weight is not finite");
  });
  v1::LoadModelRequest request;
  request.set_name("net");
  v1::LoadModelResponse response;
  const grpc::Status status = Call(*server.models, &ModelStub::LoadModel, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "model.pt: parameter fc.weight is not finite");
  v1::PredictResponse prediction;
  EXPECT_TRUE(Call(*server.predictions, &v1::PredictionService::Stub::Predict, GoodPredictRequest(),
                   &prediction)
                  .ok());
}

TEST(ModelServiceTest, LoadThatTakesLongDoesNotHoldUpPredictions) {
  TestServer server;
  Event loading;
  Event go_on;
  server.host->SetLoadHook([&](const std::string&) {
    loading.Set();
    EXPECT_TRUE(go_on.Wait());
    return absl::OkStatus();
  });
  std::thread client([&server] {
    v1::LoadModelRequest request;
    request.set_name("net");
    v1::LoadModelResponse response;
    EXPECT_TRUE(Call(*server.models, &ModelStub::LoadModel, request, &response).ok());
  });
  EXPECT_TRUE(loading.Wait());
  for (int i = 0; i < 20; ++i) {
    v1::PredictResponse prediction;
    EXPECT_TRUE(Call(*server.predictions, &v1::PredictionService::Stub::Predict,
                     GoodPredictRequest(), &prediction)
                    .ok());
  }
  go_on.Set();
  client.join();
}

}  // namespace
}  // namespace laplaced
