#include "server/rpc/prediction_service.h"

#include <utility>

#include "server/rpc/call_observer.h"
#include "server/rpc/predict_stream_reactor.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kPredict[] = "PredictionService.Predict";
constexpr char kScore[] = "PredictionService.Score";

// Checks the request and queues its computation, whose end ends the call.
template <typename Answer, typename Request, typename Options, typename Response>
absl::Status Submit(const PredictionParts& parts, const grpc::CallbackServerContext& call,
                    const char* method, const Request& request, absl::StatusOr<Options> options,
                    JobReactor* reactor, Response* response) {
  const absl::StatusOr<Caller> caller = parts.guard.Admit(call, Role::kPredict);
  if (!caller.ok()) return caller.status();
  const absl::Status named = CheckModel("model", request.model(), request.version());
  if (!named.ok()) return named;
  if (!options.ok()) return options.status();
  const absl::StatusOr<Priority> priority = ToPriority(request.priority(), Priority::kInteractive);
  if (!priority.ok()) return priority.status();
  // Refusing has to be cheap, or an overloaded server would be busy with it.
  const absl::Status room = parts.batcher.CheckRoom(*priority, caller->client);
  if (!room.ok()) return room;
  absl::StatusOr<ArrayView> inputs = ViewTensor(request.inputs(), "inputs");
  if (!inputs.ok()) return inputs.status();
  const auto model = parts.host.PinToAnswer(request.model(), request.version());
  if (!model.ok()) return model.status();
  const absl::Status valid = CheckAnswerable(parts, **model, *inputs, *options);
  if (!valid.ok()) return valid;
  return parts.batcher.Submit({*model, *inputs, reactor->context(), *priority, caller->client},
                              *std::move(options),
                              [&parts, model = *model, method, reactor, response](
                                  const absl::StatusOr<Answer>& answer, const BatchTiming& timing) {
                                if (answer.ok())
                                  FillAnswer(parts, *model, *answer, timing, response);
                                reactor->End(ToGrpcStatus(answer.status(), method), *response);
                              });
}

template <typename Answer, typename Request, typename Options, typename Response>
grpc::ServerUnaryReactor* Run(const PredictionParts& parts, const CallMetrics::Series& series,
                              grpc::CallbackServerContext* call, const char* method,
                              const Request& request, absl::StatusOr<Options> options,
                              Response* response) {
  auto* reactor = new JobReactor(parts.ledger, series, call, request);
  // Once submitted, the reactor may be gone at any moment after this function has returned it.
  const absl::Status submitted =
      Submit<Answer>(parts, *call, method, request, std::move(options), reactor, response);
  if (!submitted.ok()) reactor->End(ToGrpcStatus(submitted, method), *response);
  return reactor;
}

}  // namespace

PredictionService::PredictionService(const PredictionParts& parts)
    : parts_(parts),
      predict_series_(*parts.ledger.metrics().Find(kPredictPath)),
      score_series_(*parts.ledger.metrics().Find(kScorePath)) {}

grpc::ServerUnaryReactor* PredictionService::Predict(grpc::CallbackServerContext* call,
                                                     const v1::PredictRequest* request,
                                                     v1::PredictResponse* response) {
  return Run<Prediction>(parts_, predict_series_, call, kPredict, *request,
                         ToPredictOptions(*request), response);
}

grpc::ServerUnaryReactor* PredictionService::Score(grpc::CallbackServerContext* call,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  return Run<Scores>(parts_, score_series_, call, kScore, *request, ToScoreOptions(*request),
                     response);
}

grpc::ServerBidiReactor<v1::PredictStreamRequest, v1::PredictStreamResponse>*
PredictionService::PredictStream(grpc::CallbackServerContext* call) {
  return PredictStreamReactor::Start(parts_, call);
}

}  // namespace laplaced
