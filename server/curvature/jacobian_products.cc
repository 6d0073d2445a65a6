#include "server/curvature/jacobian_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <map>
#include <utility>

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// One parameter with everything that adds to its gradient.
struct Contribution {
  size_t parameter = 0;
  std::vector<std::pair<size_t, const ParameterUse*>> uses;  // (node, use)
};

// Parameters that read the same node's gradients (weight and bias, say) stand together, so that
// each tile of gradients is put together once.
using ContributionGroups = std::map<size_t, std::vector<Contribution>>;

ContributionGroups GroupByNode(const CapturedForward& forward,
                               const std::vector<NodeGradients>& grads) {
  std::map<size_t, Contribution> by_parameter;
  for (size_t n = 0; n < forward.nodes.size(); ++n) {
    if (!grads[n].defined()) continue;
    for (const auto& [parameter, use] : forward.nodes[n].uses) {
      by_parameter[parameter].parameter = parameter;
      by_parameter[parameter].uses.emplace_back(n, use.get());
    }
  }
  ContributionGroups groups;
  for (auto& item : by_parameter)
    groups[item.second.uses[0].first].push_back(std::move(item.second));
  return groups;
}

// One block of a batch: examples [first, first + size) of it.
struct Block {
  const Network& network;
  const CapturePlan& plan;
  const at::Tensor x;
  int64_t first;
  const JacobianOptions& options;
  JacobianSink& sink;
};

// The whole share of a group for examples [begin, begin + count) of a block.
void AddTile(const Block& block, const std::vector<Contribution>& group,
             const std::vector<NodeGradients>& grads, int64_t begin, int64_t count) {
  std::map<size_t, at::Tensor> tiles;  // by node
  for (const Contribution& contribution : group) {
    at::Tensor jacobian;
    bool done = false;
    for (const auto& [node, use] : contribution.uses) {
      at::Tensor& tile = tiles[node];
      if (!tile.defined()) tile = grads[node].Tile(begin, count);
      done = contribution.uses.size() == 1 &&
             block.sink.AddUse(contribution.parameter, {block.first + begin, begin, count}, *use,
                               tile);
      if (done) break;
      const at::Tensor part = use->Jacobian(tile, begin, count);
      jacobian = jacobian.defined() ? jacobian + part : part;
    }
    if (!done) block.sink.Add(contribution.parameter, block.first + begin, jacobian);
  }
}

void AddCaptured(const Block& block, const CapturedForward& forward, const at::Tensor& seeds) {
  const std::vector<NodeGradients> grads = forward.OutputGradients(seeds);
  const int64_t batch = forward.batch;
  const int64_t rows = seeds.defined() ? seeds.size(2) : block.network.n_outputs();
  for (const auto& item : GroupByNode(forward, grads)) {
    const std::vector<Contribution>& group = item.second;
    int64_t largest = 1;
    for (const Contribution& contribution : group) {
      largest = std::max(largest, block.network.parameters()[contribution.parameter].value.numel());
    }
    const int64_t bytes = rows * largest * block.x.element_size();
    // Enough tiles for all threads, none larger than a tile may be.
    const int64_t share = (batch + at::get_num_threads() - 1) / at::get_num_threads();
    const int64_t tile = std::clamp<int64_t>(block.options.tile_bytes / bytes, 1, share);
    const int64_t tiles = (batch + tile - 1) / tile;
    const auto run = [&](int64_t first, int64_t last) {
      at::NoGradGuard no_grad;  // kept per thread
      for (int64_t i = first; i < last; ++i) {
        AddTile(block, group, grads, i * tile, std::min(tile, batch - i * tile));
      }
    };
    if (tiles == 1) {
      run(0, 1);
    } else {
      at::parallel_for(0, tiles, 1, run);
    }
  }
}

void AddGeneric(const Block& block, const std::vector<bool>& captured, const at::Tensor& seeds) {
  if (std::all_of(captured.begin(), captured.end(), [](bool c) { return c; })) return;
  for (int64_t n = 0; n < block.x.size(0); ++n) {
    const at::Tensor jacobian = GenericJacobian(block.network, block.x.narrow(0, n, 1), captured,
                                                seeds.defined() ? seeds[n] : at::Tensor())
                                    .unsqueeze(0);
    int64_t column = 0;
    for (size_t i = 0; i < captured.size(); ++i) {
      if (captured[i]) continue;
      const int64_t numel = block.network.parameters()[i].value.numel();
      block.sink.Add(i, block.first + n, jacobian.narrow(2, column, numel));
      column += numel;
    }
  }
}

// Sums T and G by groups of parameters.
class ProductSink : public JacobianSink {
 public:
  ProductSink(const Network& network, const at::Tensor& directions,
              const std::vector<int64_t>& group_of, int64_t n_groups, int64_t rows)
      : network_(network),
        directions_(directions),
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
    const int64_t b = jacobian.size(0), r = jacobian.size(1), p = jacobian.size(2);
    G(parameter, begin, b).add_(at::bmm(jacobian, jacobian.transpose(1, 2)));
    const at::Tensor u = Rows(parameter);
    if (u.size(1) > 0) {
      T(parameter, begin, b).add_(at::mm(jacobian.reshape({b * r, p}), u).view({b, r, u.size(1)}));
    }
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
    at::NoGradGuard no_grad;
    const int64_t rows = RowCount(network, options), batch = x.size(0);
    const int64_t per_example = plan.gradient_numel * rows * x.element_size();
    const int64_t size =
        std::clamp<int64_t>(options.gradient_bytes / std::max<int64_t>(1, per_example), 1, batch);
    if (size < batch) sink.Start(network.Forward(x));
    for (int64_t begin = 0; begin < batch; begin += size) {
      const int64_t count = std::min(size, batch - begin);
      const Block block{network, plan, x.narrow(0, begin, count), begin, options, sink};
      const bool repeat = rows > 1 && count * rows <= options.repeat_limit;
      const CapturedForward forward = ForwardCaptured(network, block.x, plan, repeat ? rows : 1);
      const at::Tensor f = forward.Outputs();
      if (size == batch) sink.Start(f);
      at::Tensor seeds;
      if (options.output_factor) seeds = options.output_factor(f, begin).to(x.scalar_type());
      AddCaptured(block, forward, seeds);
      AddGeneric(block, forward.captured, seeds);
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
