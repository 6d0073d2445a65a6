#include "server/curvature/jacobian_products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <map>

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Adds the share of some parameters: jacobian [b, C, p], their rows of U [p, K]; t and g are the
// slices of b examples.
void Accumulate(const at::Tensor& jacobian, const at::Tensor& directions, const at::Tensor& t,
                const at::Tensor& g) {
  const int64_t b = jacobian.size(0), c = jacobian.size(1), p = jacobian.size(2);
  g.add_(at::bmm(jacobian, jacobian.transpose(1, 2)));
  if (directions.size(1) > 0) {
    t.add_(at::mm(jacobian.reshape({b * c, p}), directions).view({b, c, directions.size(1)}));
  }
}

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

// The whole share of a group for examples [begin, begin + count).
void AddTile(const Network& network, const std::vector<Contribution>& group,
             const std::vector<NodeGradients>& grads, const at::Tensor& directions, int64_t begin,
             int64_t count, const JacobianProducts& products) {
  const at::Tensor t = products.t.narrow(0, begin, count), g = products.g.narrow(0, begin, count);
  std::map<size_t, at::Tensor> tiles;  // by node
  for (const Contribution& contribution : group) {
    const Parameter& parameter = network.parameters()[contribution.parameter];
    const at::Tensor u = directions.narrow(0, parameter.offset, parameter.value.numel());
    at::Tensor jacobian;
    bool done = false;
    for (const auto& [node, use] : contribution.uses) {
      at::Tensor& tile = tiles[node];
      if (!tile.defined()) tile = grads[node].Tile(begin, count);
      done = contribution.uses.size() == 1 && use->AddProducts(tile, begin, count, u, t, g);
      if (done) break;
      const at::Tensor part = use->Jacobian(tile, begin, count);
      jacobian = jacobian.defined() ? jacobian + part : part;
    }
    if (!done) Accumulate(jacobian, u, t, g);
  }
}

void AddCaptured(const Network& network, const CapturedForward& forward,
                 const at::Tensor& directions, const JacobianOptions& options,
                 const JacobianProducts& products) {
  const std::vector<NodeGradients> grads = forward.OutputGradients();
  const int64_t batch = products.f.size(0), c = products.f.size(1);
  for (const auto& item : GroupByNode(forward, grads)) {
    const std::vector<Contribution>& group = item.second;
    int64_t largest = 1;
    for (const Contribution& contribution : group) {
      largest = std::max(largest, network.parameters()[contribution.parameter].value.numel());
    }
    const int64_t bytes = c * largest * products.f.element_size();
    // Enough tiles for all threads, none larger than a tile may be.
    const int64_t share = (batch + at::get_num_threads() - 1) / at::get_num_threads();
    const int64_t tile = std::clamp<int64_t>(options.tile_bytes / bytes, 1, share);
    const int64_t tiles = (batch + tile - 1) / tile;
    const auto run = [&](int64_t first, int64_t last) {
      at::NoGradGuard no_grad;  // kept per thread
      for (int64_t i = first; i < last; ++i) {
        AddTile(network, group, grads, directions, i * tile, std::min(tile, batch - i * tile),
                products);
      }
    };
    if (tiles == 1) {
      run(0, 1);
    } else {
      at::parallel_for(0, tiles, 1, run);
    }
  }
}

void AddGeneric(const Network& network, const std::vector<bool>& captured, const at::Tensor& x,
                const at::Tensor& directions, const JacobianProducts& products) {
  std::vector<at::Tensor> rows;
  for (size_t i = 0; i < captured.size(); ++i) {
    const Parameter& parameter = network.parameters()[i];
    if (!captured[i])
      rows.push_back(directions.narrow(0, parameter.offset, parameter.value.numel()));
  }
  if (rows.empty()) return;
  const at::Tensor u = at::cat(rows);
  for (int64_t n = 0; n < x.size(0); ++n) {
    const at::Tensor jacobian = GenericJacobian(network, x.narrow(0, n, 1), captured).unsqueeze(0);
    Accumulate(jacobian, u, products.t.narrow(0, n, 1), products.g.narrow(0, n, 1));
  }
}

JacobianProducts ComputeBlock(const Network& network, const CapturePlan& plan, const at::Tensor& x,
                              const at::Tensor& directions, const JacobianOptions& options) {
  const int64_t b = x.size(0), c = network.n_outputs();
  const CapturedForward forward = ForwardCaptured(network, x, plan, b * c <= options.repeat_limit);
  JacobianProducts products;
  products.f = forward.Outputs();
  products.t = at::zeros({b, c, directions.size(1)}, at::kDouble);
  products.g = at::zeros({b, c, c}, at::kDouble);
  AddCaptured(network, forward, directions, options, products);
  AddGeneric(network, forward.captured, x, directions, products);
  return products;
}

}  // namespace

int64_t ExamplesPerStep(const Network& network) {
  constexpr int64_t kMost = 64, kJacobianElements = int64_t{1} << 28;
  return std::clamp<int64_t>(kJacobianElements / (network.n_outputs() * network.n_parameters()), 1,
                             kMost);
}

absl::StatusOr<JacobianProducts> ComputeJacobianProducts(const Network& network,
                                                         const CapturePlan& plan,
                                                         const at::Tensor& x,
                                                         const at::Tensor& directions,
                                                         const JacobianOptions& options) {
  return CatchTorch("functional variance", [&]() -> absl::StatusOr<JacobianProducts> {
    at::NoGradGuard no_grad;
    const int64_t per_example = plan.gradient_numel * network.n_outputs() * x.element_size();
    const int64_t block = std::clamp<int64_t>(
        options.gradient_bytes / std::max<int64_t>(1, per_example), 1, x.size(0));
    if (block == x.size(0)) return ComputeBlock(network, plan, x, directions, options);
    std::vector<at::Tensor> f, t, g;
    for (int64_t begin = 0; begin < x.size(0); begin += block) {
      const int64_t count = std::min(block, x.size(0) - begin);
      const JacobianProducts part =
          ComputeBlock(network, plan, x.narrow(0, begin, count), directions, options);
      f.push_back(part.f);
      t.push_back(part.t);
      g.push_back(part.g);
    }
    return JacobianProducts{at::cat(f), at::cat(t), at::cat(g)};
  });
}

}  // namespace laplaced
