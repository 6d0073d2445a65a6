// Gradients of every output at one node of the graph, as they come from the engine, cut into tiles
// of examples.
//
// A value; immutable after construction and safe to read from several threads.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace laplaced {

class NodeGradients {
 public:
  // One tensor per output, each [batch * rows, ...]; undefined where no gradient arrives.
  NodeGradients(std::vector<at::Tensor> per_output, int64_t batch);

  // [batch * outputs * rows, ...]: all outputs of one example next to each other. May be undefined.
  NodeGradients(const at::Tensor& interleaved, int64_t batch, int64_t outputs);

  // False if no output's gradient arrives at the node.
  bool defined() const { return interleaved_.defined() || !per_output_.empty(); }

  // Examples [begin, begin + count): [count, C, ...], with a dimension for the rows of an example
  // if it has several.
  at::Tensor Tile(int64_t begin, int64_t count) const;

 private:
  std::vector<at::Tensor> per_output_;  // each [batch, ...]
  at::Tensor interleaved_;              // [batch, C, ...]
};

}  // namespace laplaced
