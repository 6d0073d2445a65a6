// Rows of embeddings that stand for padding.
//
// An embedding with a padding index reads that row like any other but gives it no gradient.
// LibTorch's forward mode does not know of it: it moves the row with the others, and J v and J'u
// tell different stories. Whoever asks for J v has to hold these rows still.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "server/model/network.h"

namespace laplaced {

// Fills in `constant_rows` of the parameters that embeddings in the graph behind `outputs` read.
void FindPaddingRows(const at::Tensor& outputs, std::vector<Parameter>& parameters);

}  // namespace laplaced
