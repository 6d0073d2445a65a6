// Requests of laplace.v1 as options. The first byte chooses the message, the rest is its wire form.
#include <cmath>

#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/wire.h"

namespace laplaced::fuzz {
namespace {

namespace v1 = laplace::v1;

constexpr size_t kMaxBytes = 4096;
constexpr size_t kMostErrorBytes = 8 << 10;

void CheckError(const absl::Status& status) {
  RequireStatus(status, {absl::StatusCode::kInvalidArgument});
  const grpc::Status sent = ToGrpcStatus(status, "Method");
  Require(3 * sent.error_message().size() + 4 * sent.error_details().size() / 3 < kMostErrorBytes,
          "an error that is too long to be sent");
}

template <typename Message, typename Read>
void ReadAs(absl::string_view wire, Read read) {
  Message message;
  if (!ParseWire(wire, &message)) return;
  absl::Status status;
  {
    // The fixed part is protobuf's tables of enums, made at the first use.
    const HeapBound bound(wire.size(), 64, 256 << 10);
    status = read(message).status();
  }
  CheckError(status);
}

void Run(absl::string_view input) {
  if (input.empty()) return;
  const absl::string_view wire = input.substr(1);
  switch (static_cast<unsigned char>(input[0]) % 6) {
    case 0:
      return ReadAs<v1::PredictRequest>(wire, ToPredictOptions);
    case 1:
      return ReadAs<v1::ScoreRequest>(wire, ToScoreOptions);
    case 2:
      return ReadAs<v1::FitPosteriorRequest>(wire, ToFitRequest);
    case 3:
      return ReadAs<v1::UpdatePosteriorRequest>(wire, ToUpdateRequest);
    case 4:
      return ReadAs<v1::CalibrateOodRequest>(wire, ToCalibrateRequest);
    default:
      return ReadAs<v1::DatasetHeader>(wire, ToDatasetHeader);
  }
}

std::vector<std::string> Seeds() {
  v1::PredictRequest predict;
  predict.set_model("net");
  predict.set_link_approx(v1::LINK_APPROX_MC);
  predict.set_prior_precision(2.5);
  predict.add_ood_scores("energy");
  v1::ScoreRequest score;
  score.set_model("net");
  score.set_variance_mode(v1::VARIANCE_MODE_SAMPLED);
  score.set_samples(8);
  v1::FitPosteriorRequest fit;
  fit.set_model("net");
  fit.set_train_dataset_id("sha256-0");
  fit.mutable_options()->set_rank(20);
  v1::UpdatePosteriorRequest update;
  update.set_model("net");
  update.set_dataset_id("sha256-0");
  v1::CalibrateOodRequest calibrate;
  calibrate.set_model("net");
  calibrate.set_dataset_id("sha256-0");
  v1::DatasetHeader header;
  header.set_input_dtype(v1::DATA_TYPE_FLOAT32);
  for (const int64_t size : {1, 28, 28}) header.add_example_shape(size);
  header.set_target_dtype(v1::DATA_TYPE_INT64);
  header.set_n_rows(3);
  return {std::string(1, '\0') + predict.SerializeAsString(),
          "\1" + score.SerializeAsString(),
          "\2" + fit.SerializeAsString(),
          "\3" + update.SerializeAsString(),
          "\4" + calibrate.SerializeAsString(),
          "\5" + header.SerializeAsString()};
}

LAPLACED_FUZZ_TARGET(request, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
