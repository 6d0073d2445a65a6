// Whether a TorchScript module changes a tensor in place by something that was computed from it
// (`h += g(h)`).
//
// In a pass that is recorded and carries tangents, the tangent of such an h is kept by the graph of
// what it becomes, which keeps it: a cycle that is never freed. Network::ForwardAndJvp takes two
// passes for these. Only plain uses are seen, not those through views of h.
#pragma once

#include <torch/csrc/jit/api/module.h>

namespace laplaced {

bool UpdatesFromItself(const torch::jit::Module& module);

}  // namespace laplaced
