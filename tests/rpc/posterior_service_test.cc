#include "server/rpc/posterior_service.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::BadFieldOf;
using test_support::Call;
using test_support::DetailOf;
using test_support::MakeTensor;
using test_support::TestServer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using PosteriorStub = v1::PosteriorService::Stub;

// Three rows of two floats with labels.
v1::UploadDatasetRequest Header(int64_t rows = 3) {
  v1::UploadDatasetRequest request;
  v1::DatasetHeader& header = *request.mutable_header();
  header.set_input_dtype(v1::DATA_TYPE_FLOAT32);
  header.add_example_shape(2);
  header.set_target_dtype(v1::DATA_TYPE_INT64);
  header.set_n_rows(rows);
  return request;
}

v1::UploadDatasetRequest Chunk(const std::vector<float>& values) {
  v1::UploadDatasetRequest request;
  const int64_t rows = static_cast<int64_t>(values.size()) / 2;
  *request.mutable_chunk()->mutable_inputs() = MakeTensor({rows, 2}, values);
  v1::Tensor& targets = *request.mutable_chunk()->mutable_targets();
  targets.set_dtype(v1::DATA_TYPE_INT64);
  targets.add_shape(rows);
  targets.set_raw_values(std::string(static_cast<size_t>(rows) * 8, '\1'));
  return request;
}

grpc::Status Upload(TestServer& server, const std::vector<v1::UploadDatasetRequest>& messages,
                    v1::Dataset* dataset = nullptr) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::UploadDatasetResponse response;
  const auto stream = server.posteriors->UploadDataset(&context, &response);
  for (const v1::UploadDatasetRequest& message : messages) {
    if (!stream->Write(message)) break;
  }
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  if (dataset != nullptr) *dataset = response.dataset();
  return status;
}

size_t StoredDatasets(const TestServer& server) {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(server.registry() + "/datasets", error)) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(UploadDatasetTest, StoresRowsAndNamesThemByContent) {
  TestServer server;
  v1::Dataset whole, chunked;
  grpc::Status status = Upload(server, {Header(), Chunk({1, 2, 3, 4, 5, 6})}, &whole);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(whole.id(), StartsWith("sha256-"));
  EXPECT_EQ(whole.n_rows(), 3);
  EXPECT_EQ(whole.input_dtype(), v1::DATA_TYPE_FLOAT32);
  EXPECT_THAT(whole.example_shape(), ElementsAre(2));
  ASSERT_TRUE(Upload(server, {Header(), Chunk({1, 2}), Chunk({3, 4, 5, 6})}, &chunked).ok());
  EXPECT_EQ(chunked.id(), whole.id());
  EXPECT_EQ(StoredDatasets(server), 1u);

  v1::GetDatasetRequest request;
  request.set_id(whole.id());
  v1::GetDatasetResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::GetDataset, request, &response).ok());
  EXPECT_EQ(response.dataset().SerializeAsString(), whole.SerializeAsString());
}

struct BadUpload {
  std::string name;
  std::vector<v1::UploadDatasetRequest> messages;
  StatusCode code;
  std::string field;
  std::vector<std::string> fragments;
};

v1::UploadDatasetRequest Changed(v1::UploadDatasetRequest request,
                                 const std::function<void(v1::UploadDatasetRequest&)>& change) {
  change(request);
  return request;
}

std::vector<BadUpload> BadUploads() {
  using R = v1::UploadDatasetRequest;
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto good = Chunk({1, 2, 3, 4, 5, 6});
  return {
      {"Nothing", {}, kInvalid, "header", {"empty stream"}},
      {"EmptyMessage", {R()}, kInvalid, "part", {"header or a chunk"}},
      {"ChunkFirst", {good}, kInvalid, "header", {"first message", "got a chunk"}},
      {"SecondHeader", {Header(), Chunk({1, 2}), Header()}, kInvalid, "header", {"after 1 chunk"}},
      {"NoRows", {Header(0)}, kInvalid, "header.n_rows", {"at least 1", "got 0"}},
      {"NegativeRows", {Header(-3)}, kInvalid, "header.n_rows", {"got -3"}},
      {"NoInputType",
       {Changed(Header(), [](R& r) { r.mutable_header()->clear_input_dtype(); })},
       kInvalid,
       "header.input_dtype",
       {"UNSPECIFIED"}},
      {"UnknownTargetType",
       {Changed(Header(),
                [](R& r) { r.mutable_header()->set_target_dtype(static_cast<v1::DataType>(77)); })},
       kInvalid,
       "header.target_dtype",
       {"unknown number 77"}},
      {"LabelsOfBytes",
       {Changed(Header(), [](R& r) { r.mutable_header()->set_target_dtype(v1::DATA_TYPE_UINT8); })},
       kInvalid,
       "header.target_dtype",
       {}},
      {"NegativeExampleSize",
       {Changed(Header(), [](R& r) { r.mutable_header()->set_example_shape(0, -2); })},
       kInvalid,
       "header.example_shape[0]",
       {"got -2"}},
      {"Overflow",
       {Changed(Header(int64_t{1} << 40),
                [](R& r) { r.mutable_header()->set_example_shape(0, int64_t{1} << 40); })},
       kInvalid,
       "header.example_shape",
       {}},
      {"TooLarge", {Header(int64_t{1} << 40)}, StatusCode::RESOURCE_EXHAUSTED, "", {}},
      {"WrongWidth",
       {Header(),
        Changed(good,
                [](R& r) {
                  *r.mutable_chunk()->mutable_inputs() = MakeTensor({2, 3}, {1, 2, 3, 4, 5, 6});
                })},
       kInvalid,
       "chunk.inputs",
       {"[2, 3]", "chunk 0"}},
      {"WrongType",
       {Header(), Changed(good,
                          [](R& r) {
                            v1::Tensor& inputs = *r.mutable_chunk()->mutable_inputs();
                            inputs.clear_float32_values();
                            inputs.set_dtype(v1::DATA_TYPE_UINT8);
                            inputs.set_raw_values("123456");
                          })},
       kInvalid,
       "chunk.inputs",
       {"uint8"}},
      {"TargetsMissing",
       {Header(), Chunk({1, 2}),
        Changed(Chunk({3, 4}), [](R& r) { r.mutable_chunk()->clear_targets(); })},
       kInvalid,
       "chunk.targets.dtype",
       {"in chunk 1, which begins with row 1"}},
      {"FewerTargets",
       {Header(), Changed(good,
                          [](R& r) {
                            v1::Tensor& targets = *r.mutable_chunk()->mutable_targets();
                            targets.set_shape(0, 2);
                            targets.set_raw_values(std::string(16, '\0'));
                          })},
       kInvalid,
       "chunk.targets",
       {"3", "got 2"}},
      {"NotFinite",
       {Header(), Chunk({1, 2}), Chunk({3, 4, 5, INFINITY})},
       kInvalid,
       "chunk.inputs",
       {"row 2", "chunk 1"}},
      {"TooManyRows", {Header(), good, Chunk({7, 8})}, kInvalid, "chunk.inputs", {"1 more"}},
      {"TooFewRows", {Header(), Chunk({1, 2})}, kInvalid, "header.n_rows", {"3", "got 1"}},
  };
}

TEST(UploadDatasetTest, RefusesBadStreamsAndKeepsNothingOfThem) {
  TestServer server;
  for (const BadUpload& bad : BadUploads()) {
    SCOPED_TRACE(bad.name);
    const grpc::Status status = Upload(server, bad.messages);
    EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
    EXPECT_EQ(BadFieldOf(status), bad.field) << status.error_message();
    for (const std::string& fragment : bad.fragments) {
      EXPECT_THAT(status.error_message(), HasSubstr(fragment));
    }
  }
  EXPECT_EQ(StoredDatasets(server), 0u);
  EXPECT_TRUE(Upload(server, {Header(), Chunk({1, 2, 3, 4, 5, 6})}).ok());
}

TEST(UploadDatasetTest, AnswersTheFirstErrorWhileTheClientStillSends) {
  TestServer server;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::UploadDatasetResponse response;
  const auto stream = server.posteriors->UploadDataset(&context, &response);
  ASSERT_TRUE(stream->Write(Chunk({1, 2})));
  // Never half-closes: only the server can end this stream, and writes fail once it has.
  while (stream->Write(Chunk({1, 2}))) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST(UploadDatasetTest, CancelledUploadsLeaveNothingBehind) {
  TestServer server;
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    v1::UploadDatasetResponse response;
    const auto stream = server.posteriors->UploadDataset(&context, &response);
    stream->Write(Header());
    if (i % 2 == 0) stream->Write(Chunk({1, 2}));
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  }
  // Stop waits for every call, so everything that a call leaves is there now.
  server.server->Stop();
  EXPECT_EQ(StoredDatasets(server), 0u);
}

TEST(UploadDatasetTest, ConcurrentUploadsDoNotMix) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&server, t] {
      const float base = static_cast<float>(10 * t);
      v1::Dataset first, second;
      ASSERT_TRUE(Upload(server, {Header(2), Chunk({base, 1}), Chunk({base, 2})}, &first).ok());
      ASSERT_TRUE(Upload(server, {Header(2), Chunk({base, 1, base, 2})}, &second).ok());
      EXPECT_EQ(first.id(), second.id());
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(StoredDatasets(server), 4u);
}

TEST(PosteriorServiceTest, FitPassesTheRequestOnAndMarksDefaultsAsAbsent) {
  TestServer server;
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::FitPosterior, request, &response).ok());
  FitRequest plain = server.fits->last_request();
  EXPECT_EQ(plain.debiasing, "");
  EXPECT_EQ(plain.residual, "");
  EXPECT_EQ(plain.structure, "");
  EXPECT_EQ(plain.curvature, "");
  EXPECT_EQ(plain.prior_method, "");
  EXPECT_EQ(plain.noise_method, "");
  EXPECT_EQ(plain.kfac_eigenvalues, "");
  EXPECT_EQ(plain.temperature, 0);
  EXPECT_FALSE(plain.prior_precision.has_value());
  EXPECT_FALSE(plain.sigma_noise.has_value());
  EXPECT_FALSE(plain.keep_inactive);

  request.set_version(1);
  request.set_validation_dataset_id("sha256-1");
  request.set_keep_inactive(true);
  request.mutable_options()->set_rank(7);
  grpc::Status status;
  do {  // the first fit may still be ending
    status = Call(*server.posteriors, &PosteriorStub::FitPosterior, request, &response);
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const FitRequest full = server.fits->last_request();
  EXPECT_EQ(full.version, 1);
  EXPECT_EQ(full.validation_dataset_id, "sha256-1");
  EXPECT_TRUE(full.keep_inactive);
  EXPECT_EQ(full.rank, 7);
}

TEST(PosteriorServiceTest, UpdatePassesTheRequestOn) {
  TestServer server;
  v1::UpdatePosteriorRequest request;
  request.set_model("net");
  request.set_dataset_id("sha256-0");
  v1::UpdatePosteriorResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::UpdatePosterior, request, &response).ok());
  EXPECT_EQ(response.operation().description(), "update p-1");
  EXPECT_FALSE(response.operation().id().empty());
  const UpdateRequest plain = server.fits->last_update();
  EXPECT_EQ(plain.model, "net");
  EXPECT_EQ(plain.version, 0);
  EXPECT_EQ(plain.posterior_id, "");
  EXPECT_EQ(plain.dataset_id, "sha256-0");
  EXPECT_FALSE(plain.keep_inactive);

  request.set_version(1);
  request.set_posterior_id("p-2");
  request.set_keep_inactive(true);
  grpc::Status status;
  do {  // the first update may still be ending
    status = Call(*server.posteriors, &PosteriorStub::UpdatePosterior, request, &response);
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(server.fits->last_update().version, 1);
  EXPECT_EQ(server.fits->last_update().posterior_id, "p-2");
  EXPECT_TRUE(server.fits->last_update().keep_inactive);
}

TEST(PosteriorServiceTest, CalibratePassesTheRequestOn) {
  TestServer server;
  v1::CalibrateOodRequest request;
  request.set_model("net");
  request.set_dataset_id("sha256-0");
  v1::CalibrateOodResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::CalibrateOod, request, &response).ok());
  EXPECT_EQ(response.operation().description(), "calibrate p-1");
  EXPECT_FALSE(response.operation().id().empty());
  const CalibrateRequest plain = server.fits->last_calibrate();
  EXPECT_EQ(plain.model, "net");
  EXPECT_EQ(plain.version, 0);
  EXPECT_EQ(plain.posterior_id, "");
  EXPECT_EQ(plain.dataset_id, "sha256-0");
  EXPECT_EQ(plain.target_id_rate, 0);
  EXPECT_EQ(plain.default_ood_score, "");
  EXPECT_FALSE(plain.keep_inactive);

  request.set_version(1);
  request.set_posterior_id("p-2");
  request.set_target_id_rate(0.25);
  request.set_default_ood_score("knn");
  request.set_keep_inactive(true);
  grpc::Status status;
  do {  // the first one may still be ending
    status = Call(*server.posteriors, &PosteriorStub::CalibrateOod, request, &response);
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const CalibrateRequest full = server.fits->last_calibrate();
  EXPECT_EQ(full.version, 1);
  EXPECT_EQ(full.posterior_id, "p-2");
  EXPECT_EQ(full.target_id_rate, 0.25);
  EXPECT_EQ(full.default_ood_score, "knn");
  EXPECT_TRUE(full.keep_inactive);
}

TEST(PosteriorServiceTest, NewtonStepPassesTheRequestOnAndShowsTheNewVersion) {
  TestServer server;
  v1::NewtonStepRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::NewtonStepResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::NewtonStep, request, &response).ok());
  EXPECT_EQ(response.operation().description(), "newton step net/1");
  const NewtonRequest plain = server.fits->last_newton();
  EXPECT_EQ(plain.model, "net");
  EXPECT_EQ(plain.train_dataset_id, "sha256-0");
  EXPECT_EQ(plain.held_out_dataset_id, "");
  EXPECT_EQ(plain.variant, "");
  EXPECT_EQ(plain.curvature, "");
  EXPECT_FALSE(plain.damping.has_value());
  EXPECT_FALSE(plain.keep_worse);

  v1::GetOperationRequest get;
  get.set_id(response.operation().id());
  v1::GetOperationResponse shown;
  do {
    ASSERT_TRUE(
        Call(*server.operations, &v1::OperationService::Stub::GetOperation, get, &shown).ok());
  } while (shown.operation().state() == v1::OPERATION_STATE_RUNNING);
  EXPECT_EQ(shown.operation().state(), v1::OPERATION_STATE_SUCCEEDED);
  EXPECT_EQ(shown.operation().model_version(), 2);
  EXPECT_EQ(shown.operation().result(), "held-out loss 0.5 -> 0.4 nats");
  EXPECT_EQ(shown.operation().posterior_id(), "");

  request.set_version(1);
  request.set_held_out_dataset_id("sha256-1");
  request.set_keep_worse(true);
  v1::NewtonStepOptions& options = *request.mutable_options();
  options.set_variant(v1::NEWTON_VARIANT_EQUAL_BUDGET);
  options.set_curvature(v1::CURVATURE_KIND_HESSIAN);
  options.set_direction_batch_size(3);
  options.set_curvature_batch_size(4);
  options.set_held_out_size(5);
  options.set_damping(0);
  options.set_max_steps(6);
  options.set_tolerance(0.5);
  options.set_seed(7);
  grpc::Status status;
  do {  // the first one may still be ending
    status = Call(*server.posteriors, &PosteriorStub::NewtonStep, request, &response);
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const NewtonRequest full = server.fits->last_newton();
  EXPECT_EQ(full.version, 1);
  EXPECT_EQ(full.held_out_dataset_id, "sha256-1");
  EXPECT_TRUE(full.keep_worse);
  EXPECT_EQ(full.variant, "equal_budget");
  EXPECT_EQ(full.curvature, "hessian");
  EXPECT_EQ(full.direction_batch_size, 3);
  EXPECT_EQ(full.curvature_batch_size, 4);
  EXPECT_EQ(full.held_out_size, 5);
  EXPECT_EQ(full.damping, 0.0);
  EXPECT_EQ(full.max_steps, 6);
  EXPECT_EQ(full.tolerance, 0.5);
  EXPECT_EQ(full.seed, 7u);
}

TEST(PosteriorServiceTest, OperationsWithoutRoomSayWhenToTryAgain) {
  v1::ServerConfig config;
  TestServer server(config);
  server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::UpdatePosteriorRequest update;
  update.set_model("net");
  update.set_dataset_id("sha256-0");
  v1::UpdatePosteriorResponse updated;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::UpdatePosterior, update, &updated).ok());
  v1::FitPosteriorRequest fit;
  fit.set_model("net");
  fit.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse fitted;
  v1::CalibrateOodRequest calibrate;
  calibrate.set_model("net");
  calibrate.set_dataset_id("sha256-0");
  v1::CalibrateOodResponse calibrated;
  for (const grpc::Status& status :
       {Call(*server.posteriors, &PosteriorStub::UpdatePosterior, update, &updated),
        Call(*server.posteriors, &PosteriorStub::CalibrateOod, calibrate, &calibrated),
        Call(*server.posteriors, &PosteriorStub::FitPosterior, fit, &fitted)}) {
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
    EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status).retry_delay().seconds(), 30);
  }
}

TEST(PosteriorServiceTest, GetShowsTheActiveOneByDefault) {
  TestServer server;
  v1::GetPosteriorRequest request;
  request.set_model("net");
  v1::GetPosteriorResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::GetPosterior, request, &response).ok());
  const v1::Posterior& posterior = response.posterior();
  EXPECT_EQ(posterior.id(), "p-1");
  EXPECT_TRUE(posterior.active());
  EXPECT_EQ(posterior.options().debiasing(), v1::DEBIASING_STRATEGY_NONE);
  EXPECT_EQ(posterior.options().residual(), v1::RESIDUAL_KIND_ISOTROPIC);
  EXPECT_THAT(posterior.eigenvalues(), ElementsAre(2, 1));
  EXPECT_EQ(posterior.prior_candidates(0).validation_nll(), 1.25);
  EXPECT_EQ(posterior.prior_candidates(0).log_marginal_likelihood(), -3.5);
  EXPECT_EQ(posterior.ood_thresholds(0).count(), 100);
  EXPECT_THAT(posterior.ood_thresholds(0).id_quantiles(), ElementsAre(-1, 0, 0.5));
  EXPECT_THAT(posterior.warnings(), ElementsAre("rank exhausted"));
}

TEST(PosteriorServiceTest, ActivateSwitchesAndShowsTheNewOne) {
  TestServer server;
  v1::ActivatePosteriorRequest request;
  request.set_model("net");
  request.set_posterior_id("p-2");
  v1::ActivatePosteriorResponse response;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::ActivatePosterior, request, &response).ok());
  EXPECT_EQ(response.posterior().id(), "p-2");
  EXPECT_TRUE(response.posterior().active());
  v1::ListPosteriorsRequest list;
  list.set_model("net");
  v1::ListPosteriorsResponse listed;
  ASSERT_TRUE(Call(*server.posteriors, &PosteriorStub::ListPosteriors, list, &listed).ok());
  ASSERT_EQ(listed.posteriors_size(), 1);
  EXPECT_FALSE(listed.posteriors(0).active());
}

TEST(PosteriorServiceTest, DeletesAPosteriorOnceAndNeverTheActiveOne) {
  TestServer server;
  v1::DeletePosteriorRequest request;
  request.set_model("net");
  request.set_posterior_id("p-2");
  v1::DeletePosteriorResponse response;
  const auto call = [&] {
    return Call(*server.posteriors, &PosteriorStub::DeletePosterior, request, &response)
        .error_code();
  };
  EXPECT_EQ(call(), grpc::StatusCode::OK);
  EXPECT_EQ(call(), grpc::StatusCode::NOT_FOUND);
  request.set_posterior_id("p-1");
  EXPECT_EQ(call(), grpc::StatusCode::FAILED_PRECONDITION);
}

}  // namespace
}  // namespace laplaced
