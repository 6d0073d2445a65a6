#include "server/laplace/joint_covariance.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Puts every parameter's Jacobian where it belongs among those of the batch, [B, C, P]; examples
// beyond them are padding.
class CollectingSink : public JacobianSink {
 public:
  CollectingSink(const Network& network, const at::Tensor& jacobian)
      : network_(network), jacobian_(jacobian) {}

  void Add(size_t parameter, int64_t begin, const at::Tensor& piece) override {
    const Parameter& p = network_.parameters()[parameter];
    const int64_t count = std::min(piece.size(0), jacobian_.size(0) - begin);
    if (count <= 0) return;
    jacobian_.narrow(0, begin, count)
        .narrow(2, p.offset, piece.size(2))
        .copy_(piece.narrow(0, 0, count));
  }

 private:
  const Network& network_;
  const at::Tensor jacobian_;
};

}  // namespace

double JointJacobianBytes(const Network& network, int64_t batch) {
  return static_cast<double>(batch) * static_cast<double>(network.n_outputs()) *
         static_cast<double>(network.n_parameters()) *
         static_cast<double>(c10::elementSize(network.dtype()));
}

absl::Status CheckJointCovariance(const std::string& field, const Network& network, int64_t batch) {
  const double bytes = JointJacobianBytes(network, batch);
  if (bytes <= static_cast<double>(kJointJacobianBytes)) return absl::OkStatus();
  const double most = static_cast<double>(kJointJacobianBytes) / JointJacobianBytes(network, 1);
  return FieldError(
      field, absl::StrFormat(
                 "expected a batch whose Jacobian takes at most %d MiB, got %.0f MiB (%d "
                 "examples, %d outputs, %d parameters): %s",
                 kJointJacobianBytes >> 20, bytes / (1 << 20), batch, network.n_outputs(),
                 network.n_parameters(),
                 most >= 1 ? absl::StrFormat("send at most %d examples", static_cast<int64_t>(most))
                           : "ask for function samples in its place, which need no Jacobian"));
}

absl::StatusOr<at::Tensor> JointCovariance(const Structure& structure, const Network& network,
                                           const CapturePlan& plan,
                                           const std::vector<at::Tensor>& blocks, int64_t batch,
                                           const Precisions& at,
                                           const std::vector<bool>& parameters) {
  return CatchTorch("joint covariance", [&]() -> absl::StatusOr<at::Tensor> {
    JacobianOptions options;
    options.parameters = parameters;
    const at::Tensor jacobian = at::zeros({batch, network.n_outputs(), network.n_parameters()},
                                          at::TensorOptions(network.dtype()));
    int64_t begin = 0;
    for (const at::Tensor& x : blocks) {
      const int64_t count = std::min(x.size(0), batch - begin);
      CollectingSink sink(network, jacobian.narrow(0, begin, count));
      LAPLACED_RETURN_IF_ERROR(ForEachJacobian(network, plan, x, options, sink));
      begin += count;
    }
    return structure.RowCovariance(at, jacobian.flatten(0, 1));
  });
}

}  // namespace laplaced
