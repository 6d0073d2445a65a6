// Writes the forward pass of a network as TorchScript, from the shapes of the tensors it is made
// of.
//
// An architecture calls the functions below in the order of its computation. Each takes the values
// that earlier ones returned and the names of the tensors it uses, checks their shapes against what
// reaches it, and adds a line of source. Nothing fails on the way: what is missing or does not fit
// is collected, sizes that depend on it count as unknown, and Finish lists everything at once, with
// the tensors that nothing used. Shapes are those of one example, without the batch. Without
// LibTorch; not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplaced {

// -1 for a size that is not known, or that may be any.
inline constexpr int64_t kAny = -1;

using Shape = std::vector<int64_t>;

// A result inside the forward pass: a variable of the source.
struct Value {
  std::string name;
  Shape shape;
};

// What a file holds under a name.
struct TensorShape {
  DType dtype = DType::kFloat32;
  Shape shape;
};

// A complete forward pass.
struct ForwardSource {
  std::string source;  // "def forward(self, x): ..."
  // Names in the file, in the order of their first use.
  std::vector<std::string> parameters;
  std::vector<std::string> buffers;
};

struct ConvOptions {
  int64_t kernel = kAny;  // kAny: what the weight has; square where it is given
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t outputs = kAny;
};

class ForwardWriter {
 public:
  ForwardWriter(std::map<std::string, TensorShape> tensors, Shape input_shape, int64_t n_outputs);

  const Value& input() const { return input_; }
  int64_t n_outputs() const { return n_outputs_; }

  // What there is.
  bool Has(const std::string& name) const { return tensors_.count(name) > 0; }
  std::vector<std::string> Names() const;
  // Size of a dimension; kAny if there is no such tensor or dimension.
  int64_t Size(const std::string& name, size_t dimension) const;

  // Layers: tensors `<layer>.weight` and so on. A bias is used if there is one.
  Value Conv(const Value& x, const std::string& layer, const ConvOptions& options);
  Value Linear(const Value& x, const std::string& layer, int64_t outputs = kAny);
  // Over the first dimension, with stored statistics.
  Value BatchNorm(const Value& x, const std::string& layer);
  // Over the last dimension.
  Value LayerNorm(const Value& x, const std::string& layer, double epsilon);

  // Without tensors. `activation` is one of architecture.h; empty is "relu".
  Value Activate(const Value& x, const std::string& activation);
  Value Relu(const Value& x) { return Activate(x, "relu"); }
  // "max" or "avg"; empty is "max".
  Value Pool(const Value& x, const std::string& kind, int64_t kernel, int64_t stride,
             int64_t padding = 0);
  Value GlobalMean(const Value& x);  // [C, H, W] to [C]
  Value Flatten(const Value& x);
  Value Add(const Value& a, const Value& b);

  // For what is special to an architecture: the expression that stands for a tensor of the file,
  // after its shape was checked (kAny fits all), and a line of source with the shape of its result.
  std::string Tensor(const std::string& name, const Shape& expected);
  Value Emit(const std::string& expression, Shape shape);
  // Something that does not fit and is not a tensor's shape.
  void Problem(std::string problem);
  // The same where the rest cannot be written: nothing else is listed then. Returns a value to end
  // with.
  Value Stop(std::string problem);

  // FAILED_PRECONDITION if anything is missing, left over or of another shape, or if `output` is
  // not [n_outputs]: "does not fit architecture <name>: ...". Integer counters of batch norm are
  // neither used nor left over.
  absl::StatusOr<ForwardSource> Finish(const Value& output, const std::string& architecture);

 private:
  std::string Use(const std::string& name, const Shape& expected, std::vector<std::string>* kind);
  int64_t Extent(const std::string& what, int64_t size, int64_t kernel, int64_t stride,
                 int64_t padding);

  const std::map<std::string, TensorShape> tensors_;
  const Value input_;
  const int64_t n_outputs_;
  ForwardSource result_;
  std::set<std::string> used_;
  std::vector<std::string> missing_;
  std::vector<std::string> problems_;
  bool stopped_ = false;
  int64_t n_values_ = 0;
};

}  // namespace laplaced
