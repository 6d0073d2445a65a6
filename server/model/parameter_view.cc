#include "server/model/parameter_view.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace laplaced {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;

enum class ViewKind { kNone, kReshape, kTranspose, kOther, kExpand };

ViewKind KindOf(const std::string& name) {
  static const auto* kKinds = new std::unordered_map<std::string, ViewKind>{
      {"AliasBackward0", ViewKind::kReshape},        {"CloneBackward0", ViewKind::kReshape},
      {"ReshapeAliasBackward0", ViewKind::kReshape}, {"SqueezeBackward0", ViewKind::kReshape},
      {"SqueezeBackward1", ViewKind::kReshape},      {"UnsafeViewBackward0", ViewKind::kReshape},
      {"UnsqueezeBackward0", ViewKind::kReshape},    {"ViewBackward0", ViewKind::kReshape},
      {"TBackward0", ViewKind::kTranspose},          {"PermuteBackward0", ViewKind::kTranspose},
      {"TransposeBackward0", ViewKind::kTranspose},  {"SelectBackward0", ViewKind::kOther},
      {"SliceBackward0", ViewKind::kOther},          {"SplitBackward0", ViewKind::kOther},
      {"SplitWithSizesBackward0", ViewKind::kOther}, {"UnbindBackward0", ViewKind::kOther},
      {"ExpandBackward0", ViewKind::kExpand}};
  const auto it = kKinds->find(name);
  return it == kKinds->end() ? ViewKind::kNone : it->second;
}

struct Step {
  Edge edge;
  ViewKind kind;
};

// Sends the number of every element of the view back through the views: the engine's own formulas
// say where they come from.
at::Tensor Positions(const std::vector<Step>& steps, at::IntArrayRef shape) {
  const int64_t numel = c10::multiply_integers(shape);
  // In double precision, exact, because some views mix the numbers with zeros of the parameter's
  // type.
  at::Tensor numbers = at::arange(1, numel + 1, at::kDouble).view(shape);
  for (const Step& step : steps) {
    torch::autograd::variable_list grads(step.edge.function->num_inputs());
    grads[step.edge.input_nr] = numbers;
    numbers = (*step.edge.function)(std::move(grads))[0];
  }
  const at::Tensor element = numbers.flatten().to(at::kLong);
  const at::Tensor present = element.nonzero().squeeze(1);
  return at::empty({numel}, at::kLong)
      .index_copy_(0, element.index_select(0, present) - 1, present);
}

// How many of `steps` repeat a matrix along new first dimensions: [reshape...] expand
// [unsqueeze...]; 0 if they do not.
size_t RepetitionSteps(const std::vector<Step>& steps) {
  const auto expand = std::find_if(
      steps.begin(), steps.end(), [](const Step& step) { return step.kind != ViewKind::kReshape; });
  if (expand == steps.end() || expand->kind != ViewKind::kExpand) return 0;
  const auto rest = std::find_if(expand + 1, steps.end(), [](const Step& step) {
    return step.edge.function->name() != "UnsqueezeBackward0";
  });
  return static_cast<size_t>(rest - steps.begin());
}

class WholeParameter : public ParameterUse {
 public:
  WholeParameter(std::shared_ptr<ParameterUse> use, at::Tensor positions, int64_t numel)
      : use_(std::move(use)), positions_(std::move(positions)), numel_(numel) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor part = use_->Jacobian(grads, begin, count);
    return at::zeros({part.size(0), part.size(1), numel_}, part.options())
        .index_copy_(2, positions_, part);
  }

 private:
  const std::shared_ptr<ParameterUse> use_;
  const at::Tensor positions_;
  const int64_t numel_;
};

}  // namespace

std::vector<int64_t> ResultShape(const Node& node, uint32_t input_nr) {
  return node.input_metadata(input_nr).zeros_like().sizes().vec();  // its shape is private
}

ParameterView ParameterBehind(const Edge& edge, ViewedAs viewed_as) {
  std::vector<Step> steps;
  Edge end = edge;
  ParameterView view;
  while (end.function != nullptr && end.function->num_outputs() == 1) {
    const std::string name = end.function->name();
    const ViewKind kind = KindOf(name);
    if (kind == ViewKind::kNone) break;
    if (kind == ViewKind::kExpand && viewed_as != ViewedAs::kMatrices) break;
    steps.push_back({end, kind});
    view.path += "<" + name;
    end = Edge(end.function->next_edge(0));
  }
  const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(end.function.get());
  if (leaf == nullptr) return {};
  const auto shape_at = [&](size_t step) {
    if (step == steps.size()) return leaf->variable.sizes().vec();
    return ResultShape(*steps[step].edge.function, steps[step].edge.input_nr);
  };
  if (const size_t repetition = RepetitionSteps(steps); repetition > 0) {
    // The matrix itself must come out of it, not a cut of another form.
    const std::vector<int64_t> matrix = shape_at(repetition), matrices = shape_at(0);
    if (matrix.size() != 2 || matrices.size() != 3 ||
        !std::equal(matrix.begin(), matrix.end(), matrices.begin() + 1))
      return {};
    view.repeated = true;
    steps.erase(steps.begin(), steps.begin() + static_cast<int64_t>(repetition));
  }
  if (std::any_of(steps.begin(), steps.end(),
                  [](const Step& step) { return step.kind == ViewKind::kExpand; }))
    return {};
  if (viewed_as != ViewedAs::kTensor && !steps.empty() && steps[0].kind == ViewKind::kTranspose &&
      shape_at(0).size() == 2) {
    view.transposed = true;
    steps.erase(steps.begin());
  }
  view.shape = shape_at(0);
  const bool whole = std::all_of(steps.begin(), steps.end(),
                                 [](const Step& step) { return step.kind == ViewKind::kReshape; });
  at::NoGradGuard no_grad;
  if (!whole) view.positions = Positions(steps, view.shape);
  view.parameter = leaf->variable.unsafeGetTensorImpl();
  return view;
}

std::shared_ptr<ParameterUse> UseOfWhole(std::shared_ptr<ParameterUse> use, at::Tensor positions,
                                         int64_t numel) {
  return std::make_shared<WholeParameter>(std::move(use), std::move(positions), numel);
}

}  // namespace laplaced
