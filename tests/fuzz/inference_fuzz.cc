// Requests of the Open Inference Protocol. The input is an inference.ModelInferRequest on the wire.
#include <laplace/v1/prediction.pb.h>

#include "server/rpc/inference_request.h"
#include "server/rpc/status_mapping.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/wire.h"

namespace laplaced::fuzz {
namespace {

using inference::ModelInferRequest;

constexpr size_t kMaxBytes = 4096;
// What gRPC lets through in the trailers of an answer.
constexpr size_t kMostErrorBytes = 8 << 10;

void CheckError(const absl::Status& status) {
  RequireStatus(status, {absl::StatusCode::kInvalidArgument});
  const grpc::Status sent = ToGrpcStatus(status, "ModelInfer");
  Require(3 * sent.error_message().size() + 4 * sent.error_details().size() / 3 < kMostErrorBytes,
          "an error that is too long to be sent");
}

// Touches every byte, so that a sanitizer sees a view that lies outside.
void Touch(const ArrayView& view) {
  const auto bytes = static_cast<size_t>(NumBytes(view.dtype, view.shape).value());
  const std::string copy(static_cast<const char*>(view.data), bytes);
  Require(copy.size() == bytes, "no copy");
}

void Run(absl::string_view input) {
  laplace::v1::PredictRequest::descriptor();  // as in ParseWire
  ModelInferRequest message;
  if (!ParseWire(input, &message)) return;
  absl::StatusOr<InferenceRequest> request;
  absl::Status status;
  {
    // UINT8 elements are copied, at most one for a byte of the message, and names of outputs.
    const HeapBound bound(input.size(), 64, 64 << 10);
    request = ReadInferenceRequest(message);
    if (request.ok()) status = ReadInferenceInputs(message, *request);
  }
  CheckError(request.status());
  if (!request.ok()) return;
  CheckError(status);
  if (status.ok()) Touch(request->inputs);
}

ModelInferRequest Request(const std::string& datatype, std::initializer_list<int64_t> shape) {
  ModelInferRequest request;
  request.set_model_name("net");
  request.set_model_version("1");
  auto* input = request.add_inputs();
  input->set_name("x");
  input->set_datatype(datatype);
  for (const int64_t size : shape) input->add_shape(size);
  return request;
}

std::vector<std::string> Seeds() {
  ModelInferRequest raw = Request("FP32", {1, 2});
  raw.add_raw_input_contents("12345678");
  ModelInferRequest typed = Request("FP32", {2, 1});
  for (const float value : {1.0f, 2.0f}) {
    typed.mutable_inputs(0)->mutable_contents()->add_fp32_contents(value);
  }
  ModelInferRequest pixels = Request("UINT8", {2});
  for (const uint32_t value : {1u, 255u}) {
    pixels.mutable_inputs(0)->mutable_contents()->add_uint_contents(value);
  }
  for (const char* name : {"mean", "variance", "epistemic", "aleatoric", "variance_outputs"}) {
    pixels.add_outputs()->set_name(name);
  }
  ModelInferRequest score = raw;
  for (const char* name : {"instance_score", "is_outlier"}) score.add_outputs()->set_name(name);
  auto& parameters = *score.mutable_parameters();
  parameters["ood_score"].set_string_param("energy");
  parameters["variance_mode"].set_string_param("sampled");
  parameters["samples"].set_int64_param(8);
  parameters["seed"].set_uint64_param(7);
  parameters["priority"].set_string_param("bulk");
  parameters["timeout"].set_int64_param(1000);
  ModelInferRequest tuned = raw;
  auto& options = *tuned.mutable_parameters();
  options["prior_precision"].set_double_param(2.5);
  options["temperature"].set_string_param("1.5");
  options["link_approx"].set_string_param("mc");
  return {raw.SerializeAsString(), typed.SerializeAsString(), pixels.SerializeAsString(),
          score.SerializeAsString(), tuned.SerializeAsString()};
}

LAPLACED_FUZZ_TARGET(inference, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
