// Which network the tensors of a file of weights belong to: the key "architecture" of model.json.
//
//   name                      options (default first)
//   "mlp"                     "activation": "relu", "tanh", "sigmoid", "gelu", "silu"
//                             "layers": names of the linear layers from input to output; not needed
//                             where they differ in one number ("0", "2", "4" or "fc1", "fc2")
//   "lenet"                   "activation": as above; "pool": "max", "avg";
//                             "padding": 0 or more, of the first convolution
//   "all_cnn_c"               "padding": "symmetric", "tensorflow" (of the strided convolutions)
//   "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"
//                             "shortcut": "A", "B"; what the file has, if not stated
//   "wide_resnet_16_4", "wide_resnet_28_10", "wide_resnet_40_2", "wide_resnet_40_4"
//   "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"
//   "vit_little", "vit"       "heads": of the attention; width / 64, if not stated
//                             "pool": "token", "avg"; what the file has, if not stated
//
// The headers of server/model/architectures say what each computes and how its tensors are called.
// Widths, depths that may vary, patch sizes and classes come from the tensors. Plain values,
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laplaced {

enum class ArchitectureFamily { kMlp, kLenet, kAllCnnC, kCifarResnet, kWideResnet, kResnet, kVit };

struct Architecture {
  std::string name;  // empty: none
  ArchitectureFamily family = ArchitectureFamily::kMlp;
  // Options; empty or 0 where not stated, and always where the family has no such option.
  std::string activation;
  std::vector<std::string> layers;
  std::string pool;
  std::string padding;        // all_cnn_c
  int64_t first_padding = 0;  // lenet
  std::string shortcut;
  int64_t heads = 0;
};

// All names, in the order above.
std::vector<std::string> ArchitectureNames();

}  // namespace laplaced
