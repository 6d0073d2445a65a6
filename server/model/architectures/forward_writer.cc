#include "server/model/architectures/forward_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace laplaced {
namespace {

// Names that stand in the source, so that a file cannot bring code along.
bool IsPlainName(const std::string& name) {
  for (const absl::string_view part : absl::StrSplit(name, '.')) {
    if (part.empty()) return false;
    for (const char c : part) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_') return false;
    }
  }
  return true;
}

// An attribute may be called "0", which is no identifier.
std::string AttributeExpression(const std::string& name) {
  std::string expression = "self";
  for (const absl::string_view part : absl::StrSplit(name, '.')) {
    expression = absl::StrCat("getattr(", expression, ", \"", part, "\")");
  }
  return expression;
}

bool Fits(const Shape& shape, const Shape& expected) {
  if (shape.size() != expected.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (expected[i] != kAny && shape[i] != expected[i]) return false;
  }
  return true;
}

bool AreAlike(const Shape& a, const Shape& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](int64_t i, int64_t j) { return i == j || i == kAny || j == kAny; });
}

std::string ShapeText(const Shape& shape) {
  return absl::StrCat("[",
                      absl::StrJoin(shape, ", ",
                                    [](std::string* out, int64_t size) {
                                      absl::StrAppend(out,
                                                      size == kAny ? "any" : absl::StrCat(size));
                                    }),
                      "]");
}

std::string Listed(const std::vector<std::string>& names) {
  constexpr size_t kShown = 20;
  const size_t shown = std::min(kShown, names.size());
  std::string text = absl::StrJoin(names.begin(), names.begin() + static_cast<long>(shown), ", ",
                                   [](std::string* out, const std::string& name) {
                                     absl::StrAppend(out, absl::CHexEscape(name.substr(0, 100)));
                                   });
  if (shown < names.size()) absl::StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

std::string Tensors(size_t n) { return absl::StrCat(n, n == 1 ? " tensor" : " tensors"); }

bool IsFloating(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64; }

}  // namespace

ForwardWriter::ForwardWriter(std::map<std::string, TensorShape> tensors, Shape input_shape,
                             int64_t n_outputs)
    : tensors_(std::move(tensors)), input_{"x", std::move(input_shape)}, n_outputs_(n_outputs) {
  result_.source = "def forward(self, x):\n";
}

std::vector<std::string> ForwardWriter::Names() const {
  std::vector<std::string> names;
  for (const auto& entry : tensors_) names.push_back(entry.first);
  return names;
}

int64_t ForwardWriter::Size(const std::string& name, size_t dimension) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end() || dimension >= found->second.shape.size()) return kAny;
  return found->second.shape[dimension];
}

std::string ForwardWriter::Use(const std::string& name, const Shape& expected,
                               std::vector<std::string>* kind) {
  if (!IsPlainName(name)) {
    Problem(absl::StrCat("tensor name '", absl::CHexEscape(name.substr(0, 100)),
                         "': expected letters, digits and '_' between dots"));
    return "x";
  }
  if (used_.insert(name).second) kind->push_back(name);
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    missing_.push_back(name);
  } else if (!IsFloating(found->second.dtype)) {
    Problem(absl::StrCat(name, " has type ", DTypeName(found->second.dtype),
                         ", expected floating point"));
  } else if (!Fits(found->second.shape, expected)) {
    Problem(absl::StrCat(name, " has shape ", ShapeText(found->second.shape), ", expected ",
                         ShapeText(expected)));
  }
  return AttributeExpression(name);
}

std::string ForwardWriter::Tensor(const std::string& name, const Shape& expected) {
  return Use(name, expected, &result_.parameters);
}

Value ForwardWriter::Emit(const std::string& expression, Shape shape) {
  Value value{absl::StrCat("v", n_values_++), std::move(shape)};
  absl::StrAppend(&result_.source, "  ", value.name, " = ", expression, "\n");
  return value;
}

void ForwardWriter::Problem(std::string problem) { problems_.push_back(std::move(problem)); }

Value ForwardWriter::Stop(std::string problem) {
  problems_ = {std::move(problem)};
  stopped_ = true;
  return input_;
}

// How many places a window has along one side.
int64_t ForwardWriter::Extent(const std::string& what, int64_t size, int64_t kernel, int64_t stride,
                              int64_t padding) {
  if (size == kAny || kernel == kAny) return kAny;
  const int64_t padded = size + 2 * padding;
  if (padded >= kernel && kernel > 0) return (padded - kernel) / stride + 1;
  Problem(absl::StrCat("inputs of shape ", ShapeText(input_.shape), " are too small: ", what,
                       " needs ", kernel, " pixels along each side and gets ", padded));
  return kAny;
}

Value ForwardWriter::Conv(const Value& x, const std::string& layer, const ConvOptions& options) {
  const std::string weight = layer + ".weight", bias = layer + ".bias";
  if (x.shape.size() != 3) {
    Problem(absl::StrCat(layer, " is a convolution and needs [channels, height, width], got ",
                         ShapeText(x.shape)));
    return Emit(x.name, {kAny, kAny, kAny});
  }
  const std::string w =
      Tensor(weight, {options.outputs, x.shape[0], options.kernel, options.kernel});
  const int64_t outputs = Size(weight, 0);
  const std::string b = Has(bias) ? Tensor(bias, {outputs}) : "None";
  const auto extent = [&](size_t side) {
    return Extent(layer, x.shape[side], Size(weight, side + 1), options.stride, options.padding);
  };
  const Shape shape = {outputs, extent(1), extent(2)};
  return Emit(absl::StrCat("torch.conv2d(", x.name, ", ", w, ", ", b, ", [", options.stride, ", ",
                           options.stride, "], [", options.padding, ", ", options.padding, "])"),
              shape);
}

Value ForwardWriter::Linear(const Value& x, const std::string& layer, int64_t outputs) {
  const std::string weight = layer + ".weight", bias = layer + ".bias";
  Shape shape = x.shape;
  if (shape.empty()) shape = {kAny};
  const std::string w = Tensor(weight, {outputs, shape.back()});
  shape.back() = Size(weight, 0);
  const std::string b = Has(bias) ? Tensor(bias, {shape.back()}) : "None";
  return Emit(absl::StrCat("torch.linear(", x.name, ", ", w, ", ", b, ")"), shape);
}

Value ForwardWriter::BatchNorm(const Value& x, const std::string& layer) {
  constexpr char kMomentumEpsilon[] = "False, 0.1, 1e-05, True";  // momentum is for training
  const Shape channels = {x.shape.empty() ? kAny : x.shape[0]};
  const std::string w = Tensor(layer + ".weight", channels), b = Tensor(layer + ".bias", channels);
  const std::string mean = Use(layer + ".running_mean", channels, &result_.buffers);
  const std::string variance = Use(layer + ".running_var", channels, &result_.buffers);
  return Emit(absl::StrCat("torch.batch_norm(", x.name, ", ", w, ", ", b, ", ", mean, ", ",
                           variance, ", ", kMomentumEpsilon, ")"),
              x.shape);
}

Value ForwardWriter::LayerNorm(const Value& x, const std::string& layer, double epsilon) {
  const int64_t width = x.shape.empty() ? kAny : x.shape.back();
  const std::string w = Tensor(layer + ".weight", {width}), b = Tensor(layer + ".bias", {width});
  return Emit(absl::StrCat("torch.layer_norm(", x.name, ", [", width, "], ", w, ", ", b, ", ",
                           epsilon, ", True)"),
              x.shape);
}

Value ForwardWriter::Activate(const Value& x, const std::string& activation) {
  return Emit(absl::StrCat("torch.", activation.empty() ? "relu" : activation, "(", x.name, ")"),
              x.shape);
}

Value ForwardWriter::Pool(const Value& x, const std::string& kind, int64_t kernel, int64_t stride,
                          int64_t padding) {
  if (x.shape.size() != 3) return Emit(x.name, {kAny, kAny, kAny});  // a convolution said so
  const auto extent = [&](size_t side) {
    return Extent("a pooling layer", x.shape[side], kernel, stride, padding);
  };
  const auto pair = [](int64_t n) { return absl::StrCat("[", n, ", ", n, "]"); };
  return Emit(absl::StrCat("torch.", kind == "avg" ? "avg" : "max", "_pool2d(", x.name, ", ",
                           pair(kernel), ", ", pair(stride), ", ", pair(padding), ")"),
              {x.shape[0], extent(1), extent(2)});
}

Value ForwardWriter::GlobalMean(const Value& x) {
  return Emit(absl::StrCat("torch.mean(", x.name, ", [2, 3])"),
              {x.shape.empty() ? kAny : x.shape[0]});
}

Value ForwardWriter::Flatten(const Value& x) {
  int64_t size = 1;
  for (const int64_t s : x.shape) size = s == kAny || size == kAny ? kAny : size * s;
  return Emit(absl::StrCat("torch.flatten(", x.name, ", 1)"), {size});
}

Value ForwardWriter::Add(const Value& a, const Value& b) {
  if (!AreAlike(a.shape, b.shape)) {
    Problem(
        absl::StrCat("adds values of shapes ", ShapeText(a.shape), " and ", ShapeText(b.shape)));
  }
  return Emit(absl::StrCat(a.name, " + ", b.name), a.shape);
}

absl::StatusOr<ForwardSource> ForwardWriter::Finish(const Value& output,
                                                    const std::string& architecture) {
  std::vector<std::string> left_over;
  for (const auto& entry : tensors_) {
    const bool counter = absl::EndsWith(entry.first, "num_batches_tracked");
    if (used_.count(entry.first) == 0 && !counter) left_over.push_back(entry.first);
  }
  std::vector<std::string> wrong;
  if (!stopped_ && !missing_.empty()) {
    wrong.push_back(absl::StrCat("missing ", Tensors(missing_.size()), ": ", Listed(missing_)));
  }
  if (!stopped_ && !left_over.empty()) {
    wrong.push_back(absl::StrCat("left over ", Tensors(left_over.size()), ": ", Listed(left_over)));
  }
  constexpr size_t kProblemsShown = 10;
  for (size_t i = 0; i < problems_.size() && i < kProblemsShown; ++i) wrong.push_back(problems_[i]);
  if (problems_.size() > kProblemsShown) {
    wrong.push_back(absl::StrCat(problems_.size() - kProblemsShown, " more of this kind"));
  }
  if (wrong.empty() && !Fits(output.shape, {n_outputs_})) {
    wrong.push_back(absl::StrCat("the output of an example has shape ", ShapeText(output.shape),
                                 ", expected ", ShapeText({n_outputs_}), " (n_outputs)"));
  }
  if (!wrong.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("does not fit architecture ", architecture, ": ", absl::StrJoin(wrong, "; ")));
  }
  absl::StrAppend(&result_.source, "  return ", output.name, "\n");
  return std::move(result_);
}

}  // namespace laplaced
