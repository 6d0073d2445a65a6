#include "client/cpp/load_generator.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <utility>

#include "client/cpp/convert.h"
#include "client/cpp/load_run.h"
#include "laplace/v1/prediction.pb.h"

namespace laplace::client {
namespace {

template <typename Response>
ServerSeconds TimingOf(grpc::ByteBuffer& answer) {
  Response response;
  const grpc::Status parsed = grpc::SerializationTraits<Response>::Deserialize(&answer, &response);
  if (!parsed.ok()) return {};
  return {response.timing().queue_seconds(), response.timing().compute_seconds()};
}

template <typename Response, typename Request>
absl::StatusOr<LoadResult> Generate(const std::string& target, const ClientOptions& connection,
                                    const char* path, const std::vector<Request>& requests,
                                    const LoadOptions& options) {
  if (requests.empty()) return absl::InvalidArgumentError("expected at least one request");
  LoadMethod method;
  method.path = path;
  method.server_seconds = TimingOf<Response>;
  for (const Request& request : requests) {
    auto message = ToProto(request);
    if (!message.ok()) return message.status();
    grpc::Slice bytes(message->SerializeAsString());
    method.requests.emplace_back(&bytes, 1);
  }
  return RunLoad(target, connection, method, options);
}

}  // namespace

absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const std::vector<PredictRequest>& requests,
                                        const LoadOptions& options) {
  return Generate<v1::PredictResponse>(target, connection, "/laplace.v1.PredictionService/Predict",
                                       requests, options);
}

absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const std::vector<ScoreRequest>& requests,
                                        const LoadOptions& options) {
  return Generate<v1::ScoreResponse>(target, connection, "/laplace.v1.PredictionService/Score",
                                     requests, options);
}

}  // namespace laplace::client
