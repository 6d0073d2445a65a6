#include "server/model/architectures/build_module.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/linalg/status_macros.h"
#include "server/model/architectures/families.h"
#include "server/model/architectures/forward_writer.h"
#include "server/model/input_transform.h"

namespace laplaced {
namespace {

Value WriteForward(const Architecture& architecture, ForwardWriter& writer) {
  switch (architecture.family) {
    case ArchitectureFamily::kMlp:
      return WriteMlp(architecture, writer);
    case ArchitectureFamily::kLenet:
      return WriteLenet(architecture, writer);
    case ArchitectureFamily::kAllCnnC:
      return WriteAllCnnC(architecture, writer);
    case ArchitectureFamily::kCifarResnet:
      return WriteCifarResnet(architecture, writer);
    case ArchitectureFamily::kWideResnet:
      return WriteWideResnet(architecture, writer);
    case ArchitectureFamily::kResnet:
      return WriteResnet(architecture, writer);
    case ArchitectureFamily::kVit:
      break;
  }
  return WriteVit(architecture, writer);
}

// The modules of a network by path: "layer1.0.conv1" in "layer1.0" in "layer1" in "".
class ModuleTree {
 public:
  // Makes what is missing on the way.
  torch::jit::Module At(const std::string& path) {
    const auto found = modules_.find(path);
    if (found != modules_.end()) return found->second;
    torch::jit::Module module(
        c10::QualifiedName(absl::StrCat("laplaced.M", absl::StrReplaceAll(path, {{".", "_"}}))));
    module.register_attribute("training", c10::BoolType::get(), true);
    if (!path.empty()) At(ParentOf(path)).register_module(LastOf(path), module);
    modules_.emplace(path, module);
    return module;
  }

  void AddParameter(const std::string& name, const at::Tensor& value) {
    At(ParentOf(name)).register_parameter(LastOf(name), value, /*is_buffer=*/false);
  }
  void AddBuffer(const std::string& name, const at::Tensor& value) {
    At(ParentOf(name)).register_buffer(LastOf(name), value);
  }

 private:
  // Of "layer1.0.conv1": "layer1.0" and "conv1".
  static std::string ParentOf(const std::string& path) {
    const size_t dot = path.rfind('.');
    return dot == std::string::npos ? "" : path.substr(0, dot);
  }
  static std::string LastOf(const std::string& path) { return path.substr(path.rfind('.') + 1); }

  std::map<std::string, torch::jit::Module> modules_;
};

// A copy of an array's elements; the array's own memory is given back.
at::Tensor TakeTensor(const std::string& name, Weights& weights) {
  Array array = std::move(weights.at(name));
  weights.erase(name);
  return AliasArray({array.dtype, array.shape, array.bytes.data()}).clone();
}

}  // namespace

absl::StatusOr<torch::jit::Module> BuildModule(const Architecture& architecture, Weights weights,
                                               const std::vector<int64_t>& input_shape,
                                               int64_t n_outputs) {
  std::map<std::string, TensorShape> shapes;
  for (const auto& [name, array] : weights) shapes[name] = {array.dtype, array.shape};
  ForwardWriter writer(shapes, input_shape, n_outputs);
  const Value output = WriteForward(architecture, writer);
  LAPLACED_ASSIGN_OR_RETURN(const ForwardSource forward, writer.Finish(output, architecture.name));
  const std::string& first = forward.parameters.front();
  for (const auto* names : {&forward.parameters, &forward.buffers}) {
    for (const std::string& name : *names) {
      if (shapes.at(name).dtype == shapes.at(first).dtype) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("tensors mix types: ", name, " is ", DTypeName(shapes.at(name).dtype), ", ",
                       first, " is ", DTypeName(shapes.at(first).dtype)));
    }
  }
  ModuleTree tree;
  for (const std::string& name : forward.parameters) {
    tree.AddParameter(name, TakeTensor(name, weights));
  }
  for (const std::string& name : forward.buffers) tree.AddBuffer(name, TakeTensor(name, weights));
  torch::jit::Module module = tree.At("");
  module.define(forward.source);
  return module;
}

}  // namespace laplaced
