// Small networks, one for each way in which layers meet parameters: a table for tests that hold
// whatever the layers are.
#pragma once

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace laplaced::reference {

struct LayerCase {
  std::string name;
  std::vector<std::pair<std::string, std::vector<int64_t>>> parameters;
  std::string body;  // of forward, for MakeModule
  std::vector<int64_t> input_shape;
  int64_t outputs;
  std::vector<std::string> generic;  // parameters that no known layer explains
};

inline void PrintTo(const LayerCase& c, std::ostream* out) { *out << c.name; }

std::vector<LayerCase> LinearCases();
std::vector<LayerCase> ConvolutionCases();
std::vector<LayerCase> NormCases();
std::vector<LayerCase> EmbeddingCases();
std::vector<LayerCase> BroadcastCases();
std::vector<LayerCase> ActivationCases();   // in-place and other operations between layers
std::vector<LayerCase> TransformerCases();  // sequence-first and batch-first attention
std::vector<LayerCase> UnusualCases();      // shared, viewed, hidden and misleading parameters

}  // namespace laplaced::reference
