// Every bad request gets the right code, a message that a person can act on, and leaves the server
// alive.
#include <cmath>
#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::Call;
using test_support::GoodPredictRequest;
using test_support::MakeTensor;
using test_support::TestServer;
using ::testing::HasSubstr;

struct BadRequest {
  std::string name;
  std::function<grpc::Status(TestServer&)> send;
  StatusCode code;
  std::string field;                   // of google.rpc.BadRequest; empty for none
  std::vector<std::string> fragments;  // of the message
};

void PrintTo(const BadRequest& bad, std::ostream* out) { *out << bad.name; }

template <typename Change>
std::function<grpc::Status(TestServer&)> Predict(Change change) {
  return [change](TestServer& server) {
    v1::PredictRequest request = GoodPredictRequest();
    change(request);
    v1::PredictResponse response;
    return Call(*server.predictions, &v1::PredictionService::Stub::Predict, request, &response);
  };
}

template <typename Change>
std::function<grpc::Status(TestServer&)> Score(Change change) {
  return [change](TestServer& server) {
    v1::ScoreRequest request;
    request.set_model("net");
    *request.mutable_inputs() = MakeTensor({1, 2}, {1, 2});
    change(request);
    v1::ScoreResponse response;
    return Call(*server.predictions, &v1::PredictionService::Stub::Score, request, &response);
  };
}

template <typename Change>
std::function<grpc::Status(TestServer&)> Fit(Change change) {
  return [change](TestServer& server) {
    v1::FitPosteriorRequest request;
    request.set_model("net");
    request.set_train_dataset_id("sha256-0");
    change(request);
    v1::FitPosteriorResponse response;
    return Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, &response);
  };
}

// A fit whose options are changed.
template <typename Change>
std::function<grpc::Status(TestServer&)> FitWith(Change change) {
  return Fit([change](v1::FitPosteriorRequest& request) { change(*request.mutable_options()); });
}

template <typename Change>
std::function<grpc::Status(TestServer&)> Update(Change change) {
  return [change](TestServer& server) {
    v1::UpdatePosteriorRequest request;
    request.set_model("net");
    request.set_dataset_id("sha256-0");
    change(request);
    v1::UpdatePosteriorResponse response;
    return Call(*server.posteriors, &v1::PosteriorService::Stub::UpdatePosterior, request,
                &response);
  };
}

template <typename Change>
std::function<grpc::Status(TestServer&)> Newton(Change change) {
  return [change](TestServer& server) {
    v1::NewtonStepRequest request;
    request.set_model("net");
    request.set_train_dataset_id("sha256-0");
    change(request);
    v1::NewtonStepResponse response;
    return Call(*server.posteriors, &v1::PosteriorService::Stub::NewtonStep, request, &response);
  };
}

template <typename Change>
std::function<grpc::Status(TestServer&)> Calibrate(Change change) {
  return [change](TestServer& server) {
    v1::CalibrateOodRequest request;
    request.set_model("net");
    request.set_dataset_id("sha256-0");
    change(request);
    v1::CalibrateOodResponse response;
    return Call(*server.posteriors, &v1::PosteriorService::Stub::CalibrateOod, request, &response);
  };
}

template <typename Stub, typename Request, typename Response>
grpc::Status CallAny(Stub& stub,
                     grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request) {
  Response response;
  return Call(stub, method, request, &response);
}

// Sends a request to a unary method of one of the server's stubs.
template <typename StubMember, typename Method, typename Request>
std::function<grpc::Status(TestServer&)> Send(StubMember stub, Method method, Request request) {
  return [=](TestServer& server) { return CallAny(*(server.*stub), method, request); };
}

template <typename Request>
Request Named(const std::string& name, int64_t version) {
  Request request;
  request.set_name(name);
  request.set_version(version);
  return request;
}

template <typename Request>
Request OfModel(const std::string& model, int64_t version, const std::string& posterior_id) {
  Request request;
  request.set_model(model);
  request.set_version(version);
  request.set_posterior_id(posterior_id);
  return request;
}

template <typename Request>
Request WithId(const std::string& id) {
  Request request;
  request.set_id(id);
  return request;
}

v1::Tensor RawTensor(v1::DataType dtype, const std::vector<int64_t>& shape, size_t bytes) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.set_raw_values(std::string(bytes, '\0'));
  return tensor;
}

grpc::Status Watch(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  const auto stream =
      server.operations->WatchOperation(&context, WithId<v1::WatchOperationRequest>(id));
  v1::WatchOperationResponse response;
  while (stream->Read(&response)) {
  }
  return stream->Finish();
}

std::vector<BadRequest> BadTensors() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto kBig = int64_t{1} << 40;
  using R = v1::PredictRequest;
  return {
      {"NoInputs",
       Predict([](R& r) { r.clear_inputs(); }),
       kInvalid,
       "inputs.dtype",
       {"DATA_TYPE_FLOAT32", "got DATA_TYPE_UNSPECIFIED"}},
      {"UnknownDtype",
       Predict([](R& r) { r.mutable_inputs()->set_dtype(static_cast<v1::DataType>(99)); }),
       kInvalid,
       "inputs.dtype",
       {"unknown number 99"}},
      {"NegativeSize",
       Predict([](R& r) { r.mutable_inputs()->set_shape(0, -1); }),
       kInvalid,
       "inputs.shape[0]",
       {"at least 1", "got -1"}},
      {"SmallestSize",
       Predict([](R& r) { r.mutable_inputs()->set_shape(1, std::numeric_limits<int64_t>::min()); }),
       kInvalid,
       "inputs.shape[1]",
       {"at least 1", "got -9223372036854775808"}},
      {"ZeroSize",
       Predict([](R& r) { r.mutable_inputs()->set_shape(0, 0); }),
       kInvalid,
       "inputs.shape[0]",
       {"at least 1", "got 0"}},
      {"OverflowOfElements",
       Predict([=](R& r) {
         *r.mutable_inputs() = MakeTensor({kBig, kBig}, {1});
       }),
       kInvalid,
       "inputs.shape",
       {"can be counted", "1099511627776"}},
      {"OverflowOfBytes",
       Predict([](R& r) {
         *r.mutable_inputs() = RawTensor(v1::DATA_TYPE_FLOAT64, {int64_t{1} << 61}, 8);
       }),
       kInvalid,
       "inputs.shape",
       {"can be counted"}},
      {"HugeShapeLittleData",
       Predict([=](R& r) {
         *r.mutable_inputs() = MakeTensor({kBig, 2}, {1, 2});
       }),
       kInvalid,
       "inputs.float32_values",
       {"expected 2199023255552 values", "got 2"}},
      {"TooManyDimensions",
       Predict([](R& r) { *r.mutable_inputs() = MakeTensor(std::vector<int64_t>(17, 1), {1}); }),
       kInvalid,
       "inputs.shape",
       {"at most 16 dimensions", "got 17"}},
      {"ThousandsOfDimensions",
       Predict([](R& r) { *r.mutable_inputs() = MakeTensor(std::vector<int64_t>(5000, 1), {1}); }),
       kInvalid,
       "inputs.shape",
       {"at most 16 dimensions", "got 5000"}},
      {"BothValueFields",
       Predict([](R& r) { r.mutable_inputs()->set_raw_values("1234"); }),
       kInvalid,
       "inputs",
       {"either float32_values or raw_values", "4 values and 4 bytes"}},
      {"NoValues",
       Predict([](R& r) { r.mutable_inputs()->clear_float32_values(); }),
       kInvalid,
       "inputs",
       {"expected 4 values", "got none"}},
      {"TooFewValues",
       Predict([](R& r) { r.mutable_inputs()->mutable_float32_values()->RemoveLast(); }),
       kInvalid,
       "inputs.float32_values",
       {"expected 4 values for shape [2, 2]", "got 3"}},
      {"TooManyValues",
       Predict([](R& r) { r.mutable_inputs()->add_float32_values(5); }),
       kInvalid,
       "inputs.float32_values",
       {"expected 4 values", "got 5"}},
      {"RawBytesShort",
       Predict([](R& r) {
         *r.mutable_inputs() = RawTensor(v1::DATA_TYPE_FLOAT32, {2, 2}, 15);
       }),
       kInvalid,
       "inputs.raw_values",
       {"expected 16 bytes", "got 15"}},
      {"RawBytesLong",
       Predict([](R& r) {
         *r.mutable_inputs() = RawTensor(v1::DATA_TYPE_UINT8, {2, 2}, 5);
       }),
       kInvalid,
       "inputs.raw_values",
       {"expected 4 bytes", "got 5"}},
      {"FloatsForAnotherType",
       Predict([](R& r) { r.mutable_inputs()->set_dtype(v1::DATA_TYPE_INT64); }),
       kInvalid,
       "inputs.float32_values",
       {"expected raw_values", "int64"}},
      {"TypeTheModelDoesNotTake",
       Predict([](R& r) {
         *r.mutable_inputs() = RawTensor(v1::DATA_TYPE_INT64, {2, 2}, 32);
       }),
       kInvalid,
       "inputs.dtype",
       {"expected float32", "got int64"}},
      {"ShapeTheModelDoesNotTake",
       Predict([](R& r) {
         *r.mutable_inputs() = MakeTensor({4}, {1, 2, 3, 4});
       }),
       kInvalid,
       "inputs.shape",
       {"expected [B, 2]", "got [4]"}},
      {"ScalarInput",
       Predict([](R& r) { *r.mutable_inputs() = MakeTensor({}, {1}); }),
       kInvalid,
       "inputs.shape",
       {"expected [B, 2]", "got []"}},
      {"NotANumber",
       Predict([](R& r) { r.mutable_inputs()->set_float32_values(3, std::nanf("")); }),
       kInvalid,
       "inputs",
       {"finite", "example 1"}},
      {"Infinite",
       Predict([](R& r) { r.mutable_inputs()->set_float32_values(0, INFINITY); }),
       kInvalid,
       "inputs",
       {"finite", "inf", "example 0"}},
      {"BatchTooLarge",
       Predict([](R& r) {
         *r.mutable_inputs() = MakeTensor({1025, 2}, std::vector<float>(2050, 0));
       }),
       kInvalid,
       "inputs.shape[0]",
       {"at most 1024", "got 1025"}},
  };
}

std::vector<BadRequest> BadPredictions() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using R = v1::PredictRequest;
  return {
      {"NoModel",
       Predict([](R& r) { r.clear_model(); }),
       kInvalid,
       "model",
       {"name of a model", "empty"}},
      {"ModelIsAPath",
       Predict([](R& r) { r.set_model("../../etc/passwd"); }),
       kInvalid,
       "model",
       {"model"}},
      {"ModelNameTooLong",
       Predict([](R& r) { r.set_model(std::string(5000, 'm')); }),
       kInvalid,
       "model",
       {"model", "128"}},
      {"UnknownModel",
       Predict([](R& r) { r.set_model("nosuch"); }),
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
      {"UnknownVersion",
       Predict([](R& r) { r.set_version(7); }),
       StatusCode::NOT_FOUND,
       "",
       {"net/7"}},
      {"NegativeVersion",
       Predict([](R& r) { r.set_version(-1); }),
       kInvalid,
       "version",
       {"positive", "got -1"}},
      {"NoActivePosterior",
       Predict([](R& r) { r.set_model("bare"); }),
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no active posterior"}},
      {"ZeroPrecision",
       Predict([](R& r) { r.set_prior_precision(0); }),
       kInvalid,
       "prior_precision",
       {"above 0", "got 0"}},
      {"NegativePrecision",
       Predict([](R& r) { r.set_prior_precision(-2); }),
       kInvalid,
       "prior_precision",
       {"above 0", "got -2"}},
      {"PrecisionNotANumber",
       Predict([](R& r) { r.set_prior_precision(std::nan("")); }),
       kInvalid,
       "prior_precision",
       {"finite", "nan"}},
      {"UnknownLink",
       Predict([](R& r) { r.set_link_approx(static_cast<v1::LinkApprox>(7)); }),
       kInvalid,
       "link_approx",
       {"LINK_APPROX_PROBIT", "unknown number 7"}},
      {"UnknownMode",
       Predict([](R& r) { r.set_variance_mode(static_cast<v1::VarianceMode>(9)); }),
       kInvalid,
       "variance_mode",
       {"VARIANCE_MODE_AUTO", "VARIANCE_MODE_LAST_LAYER", "unknown number 9"}},
      {"TemperatureZero",
       Predict([](R& r) { r.set_temperature(0); }),
       kInvalid,
       "temperature",
       {"above 0", "got 0"}},
      {"SamplesOfAnotherMode",
       Predict([](R& r) { r.set_samples(8); }),
       kInvalid,
       "samples",
       {"VARIANCE_MODE_SAMPLED", "means nothing"}},
      {"TooManySamples",
       Predict([](R& r) {
         r.set_variance_mode(v1::VARIANCE_MODE_SAMPLED);
         r.set_samples(10001);
       }),
       kInvalid,
       "samples",
       {"at most 10000", "got 10001"}},
      {"TooManyFunctions",
       Predict([](R& r) { r.set_return_samples(10001); }),
       kInvalid,
       "return_samples",
       {"at most 10000"}},
      {"TopClassesOfAnotherMode",
       Predict([](R& r) { r.set_top_classes(2); }),
       kInvalid,
       "top_classes",
       {"VARIANCE_MODE_TOP_CLASSES"}},
      {"NegativeTopClasses",
       Predict([](R& r) {
         r.set_variance_mode(v1::VARIANCE_MODE_TOP_CLASSES);
         r.set_top_classes(-1);
       }),
       kInvalid,
       "top_classes",
       {"got -1"}},
      {"SeedWithoutDraws",
       Predict([](R& r) {
         r.set_variance_mode(v1::VARIANCE_MODE_EXACT);
         r.set_seed(3);
       }),
       kInvalid,
       "seed",
       {"VARIANCE_MODE_SAMPLED or return_samples"}},
      {"ScoreUnknownMode",
       Score([](v1::ScoreRequest& r) { r.set_variance_mode(static_cast<v1::VarianceMode>(-1)); }),
       kInvalid,
       "variance_mode",
       {"unknown number -1"}},
      {"UnknownScore",
       Predict([](R& r) { r.add_ood_scores("entropie"); }),
       kInvalid,
       "ood_scores",
       {"energy", "got 'entropie'"}},
      {"ScoreTwice",
       Predict([](R& r) {
         for (const char* name : {"energy", "msp", "energy"}) r.add_ood_scores(name);
       }),
       kInvalid,
       "ood_scores[2]",
       {"every score once", "'energy' again"}},
      {"ScoresWithoutEnd",
       Score([](v1::ScoreRequest& r) {
         for (int i = 0; i < 100000; ++i) r.add_ood_scores("energy");
       }),
       kInvalid,
       "ood_scores",
       {"at most 64", "got 100000"}},
      {"ScoreWithoutModel",
       Score([](v1::ScoreRequest& r) { r.clear_model(); }),
       kInvalid,
       "model",
       {"name of a model"}},
      {"ScoreUnknownScore",
       Score([](v1::ScoreRequest& r) { r.add_ood_scores("x"); }),
       kInvalid,
       "ood_scores",
       {"got 'x'"}},
      {"ScoreWithoutValues",
       Score([](v1::ScoreRequest& r) { r.mutable_inputs()->clear_float32_values(); }),
       kInvalid,
       "inputs",
       {"got none"}},
      {"ScoreNegativeVersion",
       Score([](v1::ScoreRequest& r) { r.set_version(-5); }),
       kInvalid,
       "version",
       {"got -5"}},
      {"ScoreWithoutPosterior",
       Score([](v1::ScoreRequest& r) { r.set_model("bare"); }),
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no active posterior"}},
  };
}

std::vector<BadRequest> BadFits() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using R = v1::FitPosteriorRequest;
  return {
      {"FitNoModel", Fit([](R& r) { r.clear_model(); }), kInvalid, "model", {"name of a model"}},
      {"FitUnknownModel",
       Fit([](R& r) { r.set_model("nosuch"); }),
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
      {"FitNegativeVersion", Fit([](R& r) { r.set_version(-1); }), kInvalid, "version", {"got -1"}},
      {"FitNoData",
       Fit([](R& r) { r.clear_train_dataset_id(); }),
       kInvalid,
       "train_dataset_id",
       {"uploaded data set", "empty"}},
      {"FitLongValidationId",
       Fit([](R& r) { r.set_validation_dataset_id(std::string(500, 'x')); }),
       kInvalid,
       "validation_dataset_id",
       {"at most 128", "got 500"}},
      {"FitNegativeRank",
       Fit([](R& r) { r.mutable_options()->set_rank(-1); }),
       kInvalid,
       "options.rank",
       {"positive", "got -1"}},
      {"FitNegativeDirectionBatch",
       Fit([](R& r) { r.mutable_options()->set_direction_batch_size(-3); }),
       kInvalid,
       "options.direction_batch_size",
       {"got -3"}},
      {"FitNegativeCurvatureBatch",
       Fit([](R& r) { r.mutable_options()->set_curvature_batch_size(-4); }),
       kInvalid,
       "options.curvature_batch_size",
       {"got -4"}},
      {"FitNegativeProducts",
       Fit([](R& r) { r.mutable_options()->set_max_products(-5); }),
       kInvalid,
       "options.max_products",
       {"got -5"}},
      {"FitNegativeValidation",
       Fit([](R& r) { r.mutable_options()->set_max_validation_examples(-6); }),
       kInvalid,
       "options.max_validation_examples",
       {"got -6"}},
      {"FitCurvatureBatchWithoutDebiasing",
       Fit([](R& r) {
         r.mutable_options()->set_debiasing(v1::DEBIASING_STRATEGY_NONE);
         r.mutable_options()->set_curvature_batch_size(10);
       }),
       kInvalid,
       "options.curvature_batch_size",
       {"expected 0", "got 10"}},
      {"FitUnknownDebiasing",
       Fit([](R& r) { r.mutable_options()->set_debiasing(static_cast<v1::DebiasingStrategy>(9)); }),
       kInvalid,
       "options.debiasing",
       {"TWO_BATCH", "unknown number 9"}},
      {"FitUnknownResidual",
       Fit([](R& r) { r.mutable_options()->set_residual(static_cast<v1::ResidualKind>(-2)); }),
       kInvalid,
       "options.residual",
       {"ISOTROPIC", "unknown number -2"}},
      {"FitZeroPrecision",
       Fit([](R& r) { r.mutable_options()->set_prior_precision(0); }),
       kInvalid,
       "options.prior_precision",
       {"above 0"}},
      {"FitInfiniteOodPrecision",
       Fit([](R& r) { r.mutable_options()->set_ood_prior_precision(INFINITY); }),
       kInvalid,
       "options.ood_prior_precision",
       {"finite", "got inf"}},
      {"FitTolerance",
       Fit([](R& r) { r.mutable_options()->set_lanczos_tolerance(1.5); }),
       kInvalid,
       "options.lanczos_tolerance",
       {"below 1", "got 1.5"}},
      {"FitRate",
       Fit([](R& r) { r.mutable_options()->set_target_id_rate(1); }),
       kInvalid,
       "options.target_id_rate",
       {"below 1", "got 1"}},
      {"FitRateNotANumber",
       Fit([](R& r) { r.mutable_options()->set_target_id_rate(std::nan("")); }),
       kInvalid,
       "options.target_id_rate",
       {"got nan"}},
  };
}

// Options that are wrong by themselves.
std::vector<BadRequest> BadFitOptions() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using O = v1::FitOptions;
  return {
      {"UnknownStructure",
       FitWith([](O& o) { o.set_structure(static_cast<v1::PosteriorStructure>(4)); }),
       kInvalid,
       "options.structure",
       {"POSTERIOR_STRUCTURE_LOW_RANK, POSTERIOR_STRUCTURE_KFAC or POSTERIOR_STRUCTURE_LAST_LAYER",
        "unknown number 4"}},
      {"UnknownCurvature",
       FitWith([](O& o) { o.set_curvature(static_cast<v1::CurvatureKind>(-1)); }),
       kInvalid,
       "options.curvature",
       {"CURVATURE_KIND_HESSIAN", "unknown number -1"}},
      {"UnknownKfacEigenvalues",
       FitWith([](O& o) { o.set_kfac_eigenvalues(static_cast<v1::KfacEigenvalues>(3)); }),
       kInvalid,
       "options.kfac_eigenvalues",
       {"KFAC_EIGENVALUES_FACTORS or KFAC_EIGENVALUES_EXACT", "unknown number 3"}},
      {"UnknownPriorMethod",
       FitWith([](O& o) { o.set_prior_method(static_cast<v1::PriorMethod>(99)); }),
       kInvalid,
       "options.prior_method",
       {"PRIOR_METHOD_EVIDENCE", "unknown number 99"}},
      {"UnknownNoiseMethod",
       FitWith([](O& o) { o.set_noise_method(static_cast<v1::NoiseMethod>(5)); }),
       kInvalid,
       "options.noise_method",
       {"NOISE_METHOD_MANIFEST", "unknown number 5"}},
      {"NegativeMemoryLimit",
       FitWith([](O& o) { o.set_memory_limit_bytes(-1); }),
       kInvalid,
       "options.memory_limit_bytes",
       {"got -1"}},
      {"NegativeFisherSamples",
       FitWith([](O& o) {
         o.set_curvature(v1::CURVATURE_KIND_MC_FISHER);
         o.set_fisher_samples(-2);
       }),
       kInvalid,
       "options.fisher_samples",
       {"got -2"}},
      {"NegativeTemperature",
       FitWith([](O& o) { o.set_temperature(-0.5); }),
       kInvalid,
       "options.temperature",
       {"finite number above 0", "got -0.5"}},
      {"InfiniteTemperature",
       FitWith([](O& o) { o.set_temperature(INFINITY); }),
       kInvalid,
       "options.temperature",
       {"finite", "got inf"}},
      {"TemperatureNotANumber",
       FitWith([](O& o) { o.set_temperature(std::nan("")); }),
       kInvalid,
       "options.temperature",
       {"got nan"}},
      {"ZeroNoise",
       FitWith([](O& o) { o.set_sigma_noise(0); }),
       kInvalid,
       "options.sigma_noise",
       {"above 0", "got 0"}},
      {"InfiniteNoise",
       FitWith([](O& o) { o.set_sigma_noise(INFINITY); }),
       kInvalid,
       "options.sigma_noise",
       {"finite", "got inf"}},
      {"NegativeStandardError",
       FitWith([](O& o) { o.set_target_relative_standard_error(-0.1); }),
       kInvalid,
       "options.target_relative_standard_error",
       {"got -0.1"}},
      {"WholeStandardError",
       FitWith([](O& o) { o.set_target_relative_standard_error(1); }),
       kInvalid,
       "options.target_relative_standard_error",
       {"below 1", "got 1"}},
      {"EmptyPattern",
       FitWith([](O& o) {
         o.add_parameters("head.*");
         o.add_parameters("fc.weight");
         o.add_parameters("");
       }),
       kInvalid,
       "options.parameters[2]",
       {"pattern", "empty text"}},
  };
}

// Options that do not go together.
std::vector<BadRequest> BadCombinations() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using O = v1::FitOptions;
  return {
      {"CurvatureBatchWithFullPass",
       FitWith([](O& o) {
         o.set_debiasing(v1::DEBIASING_STRATEGY_FULL_PASS);
         o.set_curvature_batch_size(10);
       }),
       kInvalid,
       "options.curvature_batch_size",
       {"expected 0", "FULL_PASS", "got 10"}},
      {"StandardErrorWithoutDebiasing",
       FitWith([](O& o) {
         o.set_debiasing(v1::DEBIASING_STRATEGY_NONE);
         o.set_target_relative_standard_error(0.1);
       }),
       kInvalid,
       "options.target_relative_standard_error",
       {"expected 0 with DEBIASING_STRATEGY_NONE", "TWO_BATCH", "got 0.1"}},
      {"StandardErrorWithCrossFit",
       FitWith([](O& o) {
         o.set_debiasing(v1::DEBIASING_STRATEGY_CROSS_FIT);
         o.set_target_relative_standard_error(0.1);
       }),
       kInvalid,
       "options.target_relative_standard_error",
       {"expected 0 with DEBIASING_STRATEGY_CROSS_FIT"}},
      {"KfacEigenvaluesOfLowRank",
       FitWith([](O& o) { o.set_kfac_eigenvalues(v1::KFAC_EIGENVALUES_EXACT); }),
       kInvalid,
       "options.kfac_eigenvalues",
       {"KFAC_EIGENVALUES_EXACT with POSTERIOR_STRUCTURE_LOW_RANK (the default)"}},
      {"KfacEigenvaluesOfLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.set_kfac_eigenvalues(v1::KFAC_EIGENVALUES_FACTORS);
       }),
       kInvalid,
       "options.kfac_eigenvalues",
       {"KFAC_EIGENVALUES_FACTORS with POSTERIOR_STRUCTURE_LAST_LAYER"}},
      {"ParametersWithLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.add_parameters("head.*");
       }),
       kInvalid,
       "options.parameters",
       {"expected none with POSTERIOR_STRUCTURE_LAST_LAYER", "got 1"}},
      {"PriorGivenWithoutOne",
       FitWith([](O& o) { o.set_prior_method(v1::PRIOR_METHOD_GIVEN); }),
       kInvalid,
       "options.prior_precision",
       {"PRIOR_METHOD_GIVEN", "got none"}},
      {"PriorGivenTwice",
       FitWith([](O& o) {
         o.set_prior_method(v1::PRIOR_METHOD_EVIDENCE);
         o.set_prior_precision(2);
       }),
       kInvalid,
       "options.prior_method",
       {"PRIOR_METHOD_GIVEN or nothing with options.prior_precision", "got PRIOR_METHOD_EVIDENCE"}},
      {"PriorFromNoValidationData",
       FitWith([](O& o) { o.set_prior_method(v1::PRIOR_METHOD_VALIDATION); }),
       kInvalid,
       "validation_dataset_id",
       {"PRIOR_METHOD_VALIDATION", "got none"}},
      {"NoiseGivenWithoutOne",
       FitWith([](O& o) { o.set_noise_method(v1::NOISE_METHOD_GIVEN); }),
       kInvalid,
       "options.sigma_noise",
       {"NOISE_METHOD_GIVEN", "got none"}},
      {"NoiseGivenTwice",
       FitWith([](O& o) {
         o.set_noise_method(v1::NOISE_METHOD_DATA);
         o.set_sigma_noise(0.1);
       }),
       kInvalid,
       "options.noise_method",
       {"NOISE_METHOD_GIVEN or nothing with options.sigma_noise", "got NOISE_METHOD_DATA"}},
      {"VarianceCorrectionOfKfac",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
         o.set_variance_correction(true);
       }),
       kInvalid,
       "options.variance_correction",
       {"only with POSTERIOR_STRUCTURE_LOW_RANK", "POSTERIOR_STRUCTURE_KFAC"}},
      {"HessianOfLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.set_curvature(v1::CURVATURE_KIND_HESSIAN);
       }),
       kInvalid,
       "options.curvature",
       {"HESSIAN only with POSTERIOR_STRUCTURE_LOW_RANK", "POSTERIOR_STRUCTURE_LAST_LAYER"}},
      {"FisherSamplesOfTheDefault",
       FitWith([](O& o) { o.set_fisher_samples(3); }),
       kInvalid,
       "options.fisher_samples",
       {"CURVATURE_KIND_MC_FISHER", "got 3 with CURVATURE_KIND_GGN (the default)"}},
      {"FisherSamplesOfTheEmpiricalFisher",
       FitWith([](O& o) {
         o.set_curvature(v1::CURVATURE_KIND_EMPIRICAL_FISHER);
         o.set_fisher_samples(3);
       }),
       kInvalid,
       "options.fisher_samples",
       {"got 3 with CURVATURE_KIND_EMPIRICAL_FISHER"}},
      {"ResidualOfKfac",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
         o.set_residual(v1::RESIDUAL_KIND_NONE);
       }),
       kInvalid,
       "options.residual",
       {"expected nothing with POSTERIOR_STRUCTURE_KFAC", "got RESIDUAL_KIND_NONE"}},
      {"ResidualOfLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.set_residual(v1::RESIDUAL_KIND_LAYERWISE);
       }),
       kInvalid,
       "options.residual",
       {"got RESIDUAL_KIND_LAYERWISE"}},
      {"CrossFitOfKfac",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
         o.set_debiasing(v1::DEBIASING_STRATEGY_CROSS_FIT);
       }),
       kInvalid,
       "options.debiasing",
       {"NONE or DEBIASING_STRATEGY_TWO_BATCH with POSTERIOR_STRUCTURE_KFAC",
        "got DEBIASING_STRATEGY_CROSS_FIT"}},
      {"FullPassOfLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.set_debiasing(v1::DEBIASING_STRATEGY_FULL_PASS);
       }),
       kInvalid,
       "options.debiasing",
       {"got DEBIASING_STRATEGY_FULL_PASS"}},
      {"RankOfKfac",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
         o.set_rank(10);
       }),
       kInvalid,
       "options.rank",
       {"has no meaning with POSTERIOR_STRUCTURE_KFAC", "leave it out"}},
      {"MemoryOfKfac",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
         o.set_memory_limit_bytes(1 << 20);
       }),
       kInvalid,
       "options.memory_limit_bytes",
       {"has no meaning"}},
      {"BatchOfLastLayer",
       FitWith([](O& o) {
         o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
         o.set_direction_batch_size(100);
       }),
       kInvalid,
       "options.direction_batch_size",
       {"uses all training data"}},
  };
}

std::vector<BadRequest> BadUpdates() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using R = v1::UpdatePosteriorRequest;
  return {
      {"NoModel", Update([](R& r) { r.clear_model(); }), kInvalid, "model", {"name of a model"}},
      {"UnknownModel",
       Update([](R& r) { r.set_model("nosuch"); }),
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
      {"NegativeVersion", Update([](R& r) { r.set_version(-1); }), kInvalid, "version", {"got -1"}},
      {"NoData",
       Update([](R& r) { r.clear_dataset_id(); }),
       kInvalid,
       "dataset_id",
       {"uploaded data set", "empty"}},
      {"LongDataId",
       Update([](R& r) { r.set_dataset_id(std::string(500, 'x')); }),
       kInvalid,
       "dataset_id",
       {"at most 128", "got 500"}},
      {"LongPosteriorId",
       Update([](R& r) { r.set_posterior_id(std::string(129, 'p')); }),
       kInvalid,
       "posterior_id",
       {"at most 128", "got 129"}},
      {"UnknownPosterior",
       Update([](R& r) { r.set_posterior_id("q"); }),
       StatusCode::NOT_FOUND,
       "",
       {"'q'"}},
      {"NoneActive",
       Update([](R& r) { r.set_model("bare"); }),
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no posterior"}},
  };
}

std::vector<BadRequest> BadNewtonSteps() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using R = v1::NewtonStepRequest;
  return {
      {"NoModel", Newton([](R& r) { r.clear_model(); }), kInvalid, "model", {"name of a model"}},
      {"UnknownModel",
       Newton([](R& r) { r.set_model("nosuch"); }),
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
      {"NoData",
       Newton([](R& r) { r.clear_train_dataset_id(); }),
       kInvalid,
       "train_dataset_id",
       {"uploaded data set", "empty"}},
      {"LongHeldOutId",
       Newton([](R& r) { r.set_held_out_dataset_id(std::string(500, 'x')); }),
       kInvalid,
       "held_out_dataset_id",
       {"at most 128", "got 500"}},
      {"UnknownVariant",
       Newton([](R& r) { r.mutable_options()->set_variant(static_cast<v1::NewtonVariant>(9)); }),
       kInvalid,
       "options.variant",
       {"NEWTON_VARIANT_DEBIASED", "9"}},
      {"FisherCurvature",
       Newton([](R& r) { r.mutable_options()->set_curvature(v1::CURVATURE_KIND_MC_FISHER); }),
       kInvalid,
       "options.curvature",
       {"CURVATURE_KIND_HESSIAN"}},
      {"NegativeBatch",
       Newton([](R& r) { r.mutable_options()->set_direction_batch_size(-1); }),
       kInvalid,
       "options.direction_batch_size",
       {"got -1"}},
      {"NegativeSecondBatch",
       Newton([](R& r) { r.mutable_options()->set_curvature_batch_size(-2); }),
       kInvalid,
       "options.curvature_batch_size",
       {"got -2"}},
      {"NegativeHeldOut",
       Newton([](R& r) { r.mutable_options()->set_held_out_size(-1); }),
       kInvalid,
       "options.held_out_size",
       {"got -1"}},
      {"NegativeSteps",
       Newton([](R& r) { r.mutable_options()->set_max_steps(-1); }),
       kInvalid,
       "options.max_steps",
       {"got -1"}},
      {"NegativeDamping",
       Newton([](R& r) { r.mutable_options()->set_damping(-1); }),
       kInvalid,
       "options.damping",
       {"got -1"}},
      {"DampingNotANumber",
       Newton([](R& r) { r.mutable_options()->set_damping(std::nan("")); }),
       kInvalid,
       "options.damping",
       {"got nan"}},
      {"ToleranceOfOne",
       Newton([](R& r) { r.mutable_options()->set_tolerance(1); }),
       kInvalid,
       "options.tolerance",
       {"got 1"}},
  };
}

std::vector<BadRequest> BadCalibrations() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  using R = v1::CalibrateOodRequest;
  return {
      {"NoModel", Calibrate([](R& r) { r.clear_model(); }), kInvalid, "model", {"name of a model"}},
      {"UnknownModel",
       Calibrate([](R& r) { r.set_model("nosuch"); }),
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
      {"NegativeVersion",
       Calibrate([](R& r) { r.set_version(-1); }),
       kInvalid,
       "version",
       {"got -1"}},
      {"NoData",
       Calibrate([](R& r) { r.clear_dataset_id(); }),
       kInvalid,
       "dataset_id",
       {"uploaded data set", "empty"}},
      {"LongDataId",
       Calibrate([](R& r) { r.set_dataset_id(std::string(500, 'x')); }),
       kInvalid,
       "dataset_id",
       {"at most 128", "got 500"}},
      {"LongPosteriorId",
       Calibrate([](R& r) { r.set_posterior_id(std::string(129, 'p')); }),
       kInvalid,
       "posterior_id",
       {"at most 128", "got 129"}},
      {"UnknownPosterior",
       Calibrate([](R& r) { r.set_posterior_id("q"); }),
       StatusCode::NOT_FOUND,
       "",
       {"'q'"}},
      {"NoneActive",
       Calibrate([](R& r) { r.set_model("bare"); }),
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no posterior"}},
      {"NegativeRate",
       Calibrate([](R& r) { r.set_target_id_rate(-0.1); }),
       kInvalid,
       "target_id_rate",
       {"above 0 and below 1", "got -0.1"}},
      {"RateOfOne",
       Calibrate([](R& r) { r.set_target_id_rate(1); }),
       kInvalid,
       "target_id_rate",
       {"below 1", "got 1"}},
      {"RateNotANumber",
       Calibrate([](R& r) { r.set_target_id_rate(std::nan("")); }),
       kInvalid,
       "target_id_rate",
       {"got nan"}},
      {"LongScore",
       Calibrate([](R& r) { r.set_default_ood_score(std::string(129, 's')); }),
       kInvalid,
       "default_ood_score",
       {"at most 128", "got 129"}},
  };
}

std::vector<BadRequest> BadNames() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto kNotFound = StatusCode::NOT_FOUND;
  using M = v1::ModelService::Stub;
  using P = v1::PosteriorService::Stub;
  using O = v1::OperationService::Stub;
  const auto models = &TestServer::models;
  const auto posteriors = &TestServer::posteriors;
  const auto operations = &TestServer::operations;
  return {
      {"GetNoName",
       Send(models, &M::GetModel, Named<v1::GetModelRequest>("", 0)),
       kInvalid,
       "name",
       {"name of a model"}},
      {"GetBadName",
       Send(models, &M::GetModel, Named<v1::GetModelRequest>(".hidden", 0)),
       kInvalid,
       "name",
       {"name"}},
      {"GetNegativeVersion",
       Send(models, &M::GetModel, Named<v1::GetModelRequest>("net", -1)),
       kInvalid,
       "version",
       {"got -1"}},
      {"GetUnknown",
       Send(models, &M::GetModel, Named<v1::GetModelRequest>("nosuch", 0)),
       kNotFound,
       "",
       {"nosuch"}},
      {"LoadBadName",
       Send(models, &M::LoadModel, Named<v1::LoadModelRequest>("a/b", 0)),
       kInvalid,
       "name",
       {"name"}},
      {"LoadUnknown",
       Send(models, &M::LoadModel, Named<v1::LoadModelRequest>("nosuch", 0)),
       kNotFound,
       "",
       {"nosuch"}},
      {"UnloadUnknown",
       Send(models, &M::UnloadModel, Named<v1::UnloadModelRequest>("nosuch", 0)),
       kNotFound,
       "",
       {"nosuch"}},
      {"UnloadNegative",
       Send(models, &M::UnloadModel, Named<v1::UnloadModelRequest>("net", -9)),
       kInvalid,
       "version",
       {"got -9"}},
      {"ListPosteriorsNoModel",
       [](TestServer& s) {
         return CallAny(*s.posteriors, &P::ListPosteriors, v1::ListPosteriorsRequest());
       },
       kInvalid,
       "model",
       {"name of a model"}},
      {"GetPosteriorNegative",
       Send(posteriors, &P::GetPosterior, OfModel<v1::GetPosteriorRequest>("net", -1, "p-1")),
       kInvalid,
       "version",
       {"got -1"}},
      {"GetPosteriorUnknown",
       Send(posteriors, &P::GetPosterior, OfModel<v1::GetPosteriorRequest>("net", 0, "q")),
       kNotFound,
       "",
       {"'q'"}},
      {"GetPosteriorLongId",
       Send(posteriors, &P::GetPosterior,
            OfModel<v1::GetPosteriorRequest>("net", 0, std::string(129, 'p'))),
       kInvalid,
       "posterior_id",
       {"at most 128", "got 129"}},
      {"GetPosteriorNoneActive",
       Send(posteriors, &P::GetPosterior, OfModel<v1::GetPosteriorRequest>("bare", 0, "")),
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no posterior"}},
      {"ActivateNoId",
       Send(posteriors, &P::ActivatePosterior, OfModel<v1::ActivatePosteriorRequest>("net", 0, "")),
       kInvalid,
       "posterior_id",
       {"id of a posterior"}},
      {"ActivateUnknown",
       Send(posteriors, &P::ActivatePosterior,
            OfModel<v1::ActivatePosteriorRequest>("net", 0, "q")),
       kNotFound,
       "",
       {"'q'"}},
      {"DeleteNoId",
       Send(posteriors, &P::DeletePosterior, OfModel<v1::DeletePosteriorRequest>("net", 0, "")),
       kInvalid,
       "posterior_id",
       {"id of a posterior"}},
      {"DeleteUnknown",
       Send(posteriors, &P::DeletePosterior, OfModel<v1::DeletePosteriorRequest>("net", 0, "q")),
       kNotFound,
       "",
       {"'q'"}},
      {"GetDatasetNoId",
       Send(posteriors, &P::GetDataset, WithId<v1::GetDatasetRequest>("")),
       kInvalid,
       "id",
       {"uploaded data set"}},
      {"GetDatasetBadId",
       Send(posteriors, &P::GetDataset, WithId<v1::GetDatasetRequest>("../models")),
       kInvalid,
       "id",
       {}},
      {"GetDatasetUnknown",
       Send(posteriors, &P::GetDataset,
            WithId<v1::GetDatasetRequest>("sha256-" + std::string(64, '0'))),
       kNotFound,
       "",
       {"sha256-"}},
      {"GetOperationNoId",
       Send(operations, &O::GetOperation, WithId<v1::GetOperationRequest>("")),
       kInvalid,
       "id",
       {"id of an operation"}},
      {"GetOperationUnknown",
       Send(operations, &O::GetOperation, WithId<v1::GetOperationRequest>("op-x")),
       kNotFound,
       "",
       {"'op-x'"}},
      {"CancelUnknown",
       Send(operations, &O::CancelOperation, WithId<v1::CancelOperationRequest>("op-x")),
       kNotFound,
       "",
       {"'op-x'"}},
      {"WatchNoId",
       [](TestServer& s) { return Watch(s, ""); },
       kInvalid,
       "id",
       {"id of an operation"}},
      {"WatchUnknown", [](TestServer& s) { return Watch(s, "op-x"); }, kNotFound, "", {"'op-x'"}},
  };
}

// One server for the whole table: each request must leave it alive for the next.
TestServer& SharedServer() {
  static auto* server = new TestServer;
  return *server;
}

class BadRequestTest : public ::testing::TestWithParam<BadRequest> {};

TEST_P(BadRequestTest, IsRefusedAndLeavesTheServerAlive) {
  TestServer& server = SharedServer();
  const BadRequest& bad = GetParam();
  const grpc::Status status = bad.send(server);
  EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
  EXPECT_EQ(test_support::BadFieldOf(status), bad.field);
  for (const std::string& fragment : bad.fragments) {
    EXPECT_THAT(status.error_message(), HasSubstr(fragment));
  }
  EXPECT_LT(status.error_message().size(), 1000u);

  v1::PredictResponse response;
  const grpc::Status alive = Call(*server.predictions, &v1::PredictionService::Stub::Predict,
                                  GoodPredictRequest(), &response);
  EXPECT_TRUE(alive.ok()) << alive.error_message();
}

std::string NameOf(const ::testing::TestParamInfo<BadRequest>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Tensors, BadRequestTest, ::testing::ValuesIn(BadTensors()), NameOf);
INSTANTIATE_TEST_SUITE_P(Predictions, BadRequestTest, ::testing::ValuesIn(BadPredictions()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Fits, BadRequestTest, ::testing::ValuesIn(BadFits()), NameOf);
INSTANTIATE_TEST_SUITE_P(FitOptions, BadRequestTest, ::testing::ValuesIn(BadFitOptions()), NameOf);
INSTANTIATE_TEST_SUITE_P(Combinations, BadRequestTest, ::testing::ValuesIn(BadCombinations()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Updates, BadRequestTest, ::testing::ValuesIn(BadUpdates()), NameOf);
INSTANTIATE_TEST_SUITE_P(NewtonSteps, BadRequestTest, ::testing::ValuesIn(BadNewtonSteps()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Calibrations, BadRequestTest, ::testing::ValuesIn(BadCalibrations()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Names, BadRequestTest, ::testing::ValuesIn(BadNames()), NameOf);

}  // namespace
}  // namespace laplaced
