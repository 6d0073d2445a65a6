#include "server/rpc/prediction_service.h"

#include <utility>

#include "server/rpc/predict_stream_reactor.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kPredict[] = "PredictionService.Predict";
constexpr char kScore[] = "PredictionService.Score";

// A request that passed every check, ready to compute. `inputs` aliases the request.
template <typename Options>
struct Prepared {
  std::shared_ptr<const ServedModel> model;
  ArrayView inputs;
  Options options;
};

template <typename Request, typename Options>
absl::StatusOr<Prepared<Options>> Prepare(const PredictionParts& parts, const Request& request,
                                          absl::StatusOr<Options> options) {
  const absl::Status named = CheckModel("model", request.model(), request.version());
  if (!named.ok()) return named;
  if (!options.ok()) return options.status();
  absl::StatusOr<ArrayView> inputs = ViewTensor(request.inputs(), "inputs");
  if (!inputs.ok()) return inputs.status();
  auto model = parts.host.Pin(request.model(), request.version());
  if (!model.ok()) return model.status();
  const absl::Status valid = CheckAnswerable(parts, **model, *inputs, *options);
  if (!valid.ok()) return valid;
  return Prepared<Options>{*std::move(model), *std::move(inputs), *std::move(options)};
}

template <typename Options, typename Response>
grpc::ServerUnaryReactor* Run(const PredictionParts& parts, grpc::CallbackServerContext* call,
                              const char* method, absl::StatusOr<Prepared<Options>> job,
                              Response* response) {
  if (!job.ok()) return FinishNow(call, method, job.status());
  return RunOnQueue(parts.queue, call, method,
                    [&parts, job = *std::move(job), response](const ComputeContext& context,
                                                              double queue_seconds) {
                      return Answer(parts, *job.model, job.inputs, job.options, context,
                                    queue_seconds, response)
                          .status();
                    });
}

}  // namespace

PredictionService::PredictionService(const PredictionParts& parts) : parts_(parts) {}

grpc::ServerUnaryReactor* PredictionService::Predict(grpc::CallbackServerContext* call,
                                                     const v1::PredictRequest* request,
                                                     v1::PredictResponse* response) {
  return Run(parts_, call, kPredict, Prepare(parts_, *request, ToPredictOptions(*request)),
             response);
}

grpc::ServerUnaryReactor* PredictionService::Score(grpc::CallbackServerContext* call,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  return Run(parts_, call, kScore, Prepare(parts_, *request, ToScoreOptions(*request)), response);
}

grpc::ServerBidiReactor<v1::PredictStreamRequest, v1::PredictStreamResponse>*
PredictionService::PredictStream(grpc::CallbackServerContext* call) {
  return PredictStreamReactor::Start(parts_, call);
}

}  // namespace laplaced
