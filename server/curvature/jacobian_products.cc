#include "server/curvature/jacobian_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <map>
#include <utility>

#include "server/model/jacobian_sums.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Examples [first, first + forward.batch) of a batch, on their way through the network and back.
struct Block {
  const Network& network;
  const JacobianOptions& options;
  JacobianSink& sink;
  const CapturedForward& forward;
  int64_t first;
  int64_t rows;  // R
};

// How many nodes each parameter's gradient comes from.
std::vector<int64_t> CountUses(const CapturedForward& forward) {
  std::vector<int64_t> count(forward.captured.size(), 0);
  for (const CapturedForward::Node& node : forward.nodes) {
    for (const auto& use : node.uses) ++count[use.first];
  }
  return count;
}

// A parameter that several nodes use: its Jacobian [b, R, numel] so far, and how many are to come.
struct SharedJacobian {
  at::Tensor sum;
  int64_t missing = 0;
};

void AddUse(const Block& block, size_t parameter, const ParameterUse& use,
            const at::Tensor& grads) {
  const int64_t count = block.forward.batch;
  if (block.sink.AddUse(parameter, {block.first, 0, count}, use, grads)) return;
  const int64_t example_bytes =
      block.rows * block.network.parameters()[parameter].value.numel() * grads.element_size();
  const int64_t tile = std::clamp<int64_t>(block.options.tile_bytes / example_bytes, 1, count);
  for (int64_t begin = 0; begin < count; begin += tile) {
    const int64_t n = std::min(tile, count - begin);
    block.sink.Add(parameter, block.first + begin,
                   use.Jacobian(grads.narrow(0, begin, n), begin, n).contiguous());
  }
}

void AddCaptured(const Block& block, const at::Tensor& seeds) {
  const std::vector<int64_t> n_uses = CountUses(block.forward);
  std::map<size_t, SharedJacobian> shared;
  const auto finish = [&](size_t parameter, const SharedJacobian& jacobian) {
    if (jacobian.sum.defined()) block.sink.Add(parameter, block.first, jacobian.sum.contiguous());
  };
  const int64_t batch = block.forward.batch;
  block.forward.Sweep(seeds, [&](size_t n, const at::Tensor& grads) {
    for (const auto& [parameter, use] : block.forward.nodes[n].uses) {
      if (n_uses[parameter] == 1) {
        AddUse(block, parameter, *use, grads);
        continue;
      }
      SharedJacobian& jacobian = shared[parameter];
      if (jacobian.missing == 0) jacobian.missing = n_uses[parameter];
      const at::Tensor part = use->Jacobian(grads, 0, batch);
      jacobian.sum = jacobian.sum.defined() ? jacobian.sum + part : part;
      if (--jacobian.missing > 0) continue;
      finish(parameter, jacobian);
      shared.erase(parameter);
    }
  });
  // Some of their nodes got no gradient.
  for (const auto& [parameter, jacobian] : shared) finish(parameter, jacobian);
}

// Parameters that are wanted and were not captured.
void AddGeneric(const Block& block, const at::Tensor& x, const at::Tensor& seeds) {
  std::vector<bool> done = block.forward.captured;
  for (size_t i = 0; i < block.options.parameters.size(); ++i) {
    if (!block.options.parameters[i]) done[i] = true;
  }
  if (std::all_of(done.begin(), done.end(), [](bool d) { return d; })) return;
  for (int64_t n = 0; n < x.size(0); ++n) {
    const at::Tensor jacobian = GenericJacobian(block.network, x.narrow(0, n, 1), done,
                                                seeds.defined() ? seeds[n] : at::Tensor())
                                    .unsqueeze(0);
    int64_t column = 0;
    for (size_t i = 0; i < done.size(); ++i) {
      if (done[i]) continue;
      const int64_t numel = block.network.parameters()[i].value.numel();
      block.sink.Add(i, block.first + n, jacobian.narrow(2, column, numel).contiguous());
      column += numel;
    }
  }
}

// Examples that one thread works on at a time: few, so that their gradients stay in cache, and
// enough blocks for all threads.
int64_t BlockSize(const CapturePlan& plan, const JacobianOptions& options, int64_t rows,
                  int64_t batch, int64_t element_size) {
  const int64_t bytes = std::max<int64_t>(1, plan.largest_gradient) * rows * element_size;
  const int64_t most = std::clamp<int64_t>(options.gradient_bytes / bytes, 1, batch);
  const int64_t threads = at::get_num_threads();
  const int64_t blocks = ((batch + most - 1) / most + threads - 1) / threads * threads;
  return (batch + blocks - 1) / blocks;
}

// Sums T and G by groups of parameters.
class ProductSink : public JacobianSink {
 public:
  ProductSink(const Network& network, const at::Tensor& directions,
              const std::vector<int64_t>& group_of, int64_t n_groups, int64_t rows)
      : network_(network),
        directions_(directions.contiguous()),
        group_of_(group_of),
        n_groups_(n_groups),
        rows_(rows) {}

  void Start(const at::Tensor& f) override {
    products_.f = f;
    const int64_t b = f.size(0);
    products_.t = at::zeros({n_groups_, b, rows_, directions_.size(1)}, at::kDouble);
    products_.g = at::zeros({n_groups_, b, rows_, rows_}, at::kDouble);
  }

  bool AddUse(size_t parameter, const ExampleRange& range, const ParameterUse& use,
              const at::Tensor& grads) override {
    return use.AddProducts(grads, range.in_block, range.count, Rows(parameter),
                           T(parameter, range.begin, range.count),
                           G(parameter, range.begin, range.count));
  }

  void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) override {
    const int64_t count = jacobian.size(0);
    AddJacobian(jacobian, Rows(parameter), T(parameter, begin, count), G(parameter, begin, count));
  }

  JacobianProducts Take() { return std::move(products_); }

 private:
  at::Tensor Rows(size_t parameter) const {
    const Parameter& p = network_.parameters()[parameter];
    return directions_.narrow(0, p.offset, p.value.numel());
  }
  at::Tensor T(size_t parameter, int64_t begin, int64_t count) const {
    return products_.t[group_of_[parameter]].narrow(0, begin, count);
  }
  at::Tensor G(size_t parameter, int64_t begin, int64_t count) const {
    return products_.g[group_of_[parameter]].narrow(0, begin, count);
  }

  const Network& network_;
  const at::Tensor directions_;
  const std::vector<int64_t>& group_of_;
  const int64_t n_groups_, rows_;
  JacobianProducts products_;
};

int64_t RowCount(const Network& network, const JacobianOptions& options) {
  return options.output_factor ? options.columns : network.n_outputs();
}

}  // namespace

int64_t ExamplesPerStep(const Network& network) {
  constexpr int64_t kMost = 64, kJacobianElements = int64_t{1} << 28;
  return std::clamp<int64_t>(kJacobianElements / (network.n_outputs() * network.n_parameters()), 1,
                             kMost);
}

absl::Status ForEachJacobian(const Network& network, const CapturePlan& plan, const at::Tensor& x,
                             const JacobianOptions& options, JacobianSink& sink) {
  return CatchTorch("per-example Jacobians", [&]() -> absl::Status {
    const int64_t rows = RowCount(network, options), batch = x.size(0);
    const int64_t size = BlockSize(plan, options, rows, batch, x.element_size());
    const int64_t blocks = (batch + size - 1) / size;
    CapturePlan wanted = plan;
    for (size_t i = 0; i < options.parameters.size(); ++i) {
      wanted.captured[i] = plan.captured[i] && options.parameters[i];
    }
    const at::Tensor f = at::empty({batch, network.n_outputs()}, x.options());
    sink.Start(f);
    const auto run = [&](int64_t first, int64_t last) {
      at::NoGradGuard no_grad;  // kept per thread
      for (int64_t i = first; i < last; ++i) {
        const int64_t begin = i * size, count = std::min(size, batch - begin);
        const at::Tensor part = x.narrow(0, begin, count);
        const CapturedForward forward = ForwardCaptured(network, part, wanted);
        const at::Tensor outputs = f.narrow(0, begin, count).copy_(forward.outputs.detach());
        at::Tensor seeds;
        if (options.output_factor) {
          seeds = options.output_factor(outputs, begin).to(x.scalar_type());
        }
        const Block block{network, options, sink, forward, begin, rows};
        AddCaptured(block, seeds);
        AddGeneric(block, part, seeds);
      }
    };
    if (blocks == 1) {
      run(0, 1);
    } else {
      at::parallel_for(0, blocks, 1, run);
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<JacobianProducts> ComputeGroupedProducts(
    const Network& network, const CapturePlan& plan, const at::Tensor& x,
    const at::Tensor& directions, const std::vector<int64_t>& group_of, int64_t n_groups,
    const JacobianOptions& options) {
  ProductSink sink(network, directions, group_of, n_groups, RowCount(network, options));
  LAPLACED_RETURN_IF_ERROR(ForEachJacobian(network, plan, x, options, sink));
  return sink.Take();
}

absl::StatusOr<JacobianProducts> ComputeJacobianProducts(const Network& network,
                                                         const CapturePlan& plan,
                                                         const at::Tensor& x,
                                                         const at::Tensor& directions,
                                                         const JacobianOptions& options) {
  const std::vector<int64_t> one_group(network.parameters().size(), 0);
  LAPLACED_ASSIGN_OR_RETURN(
      JacobianProducts products,
      ComputeGroupedProducts(network, plan, x, directions, one_group, 1, options));
  products.t = products.t[0];
  products.g = products.g[0];
  return products;
}

}  // namespace laplaced
