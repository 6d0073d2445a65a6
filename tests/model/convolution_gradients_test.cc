// Gradients of convolutions of every shape against LibTorch's own, in double precision.
#include "server/model/convolution_gradients.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

struct Case {
  std::string name;
  int64_t in, out, groups;
  int64_t input[2], kernel[2], stride[2], padding[2], dilation[2];
};

// Widths above and below the size of a register, and remainders of all kinds.
const Case kCases[] = {
    {"three by three", 5, 7, 1, {8, 16}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {"a width that is no multiple of a register", 3, 4, 1, {6, 19}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {"narrower than a register", 4, 6, 1, {5, 3}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {"one place", 4, 6, 1, {3, 3}, {3, 3}, {1, 1}, {0, 0}, {1, 1}},
    {"pointwise", 6, 5, 1, {4, 9}, {1, 1}, {1, 1}, {0, 0}, {1, 1}},
    {"pointwise with stride", 6, 5, 1, {7, 9}, {1, 1}, {2, 2}, {0, 0}, {1, 1}},
    {"stride two", 3, 8, 1, {16, 32}, {3, 3}, {2, 2}, {1, 1}, {1, 1}},
    {"stride two, even kernel", 3, 4, 1, {9, 11}, {4, 2}, {2, 2}, {1, 0}, {1, 1}},
    {"stride larger than the kernel", 2, 3, 1, {11, 17}, {2, 2}, {3, 4}, {0, 0}, {1, 1}},
    {"strides that differ", 3, 4, 1, {12, 20}, {3, 5}, {1, 3}, {1, 2}, {1, 1}},
    {"dilation", 3, 4, 1, {12, 18}, {3, 3}, {1, 1}, {2, 2}, {2, 2}},
    {"dilation and stride", 3, 4, 1, {13, 19}, {3, 2}, {2, 3}, {2, 1}, {3, 2}},
    {"padding beyond the kernel", 2, 3, 1, {4, 9}, {2, 2}, {1, 1}, {3, 4}, {1, 1}},
    {"padding beyond the kernel, with stride", 2, 3, 1, {4, 9}, {2, 2}, {2, 2}, {3, 4}, {1, 1}},
    {"groups", 6, 8, 2, {6, 10}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise", 5, 10, 5, {6, 10}, {3, 3}, {2, 1}, {1, 1}, {1, 1}},
    {"a signal", 3, 4, 1, {1, 40}, {1, 5}, {1, 2}, {0, 2}, {1, 1}},
    {"a tall kernel", 2, 3, 1, {20, 1}, {7, 1}, {1, 1}, {3, 0}, {1, 1}},
    {"more channels than a tile", 24, 40, 1, {5, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
};

ConvolutionShape ShapeOf(const Case& c) {
  ConvolutionShape s;
  s.in = c.in;
  s.out = c.out;
  s.groups = c.groups;
  for (int d = 0; d < 2; ++d) {
    s.input[d] = c.input[d];
    s.kernel[d] = c.kernel[d];
    s.stride[d] = c.stride[d];
    s.padding[d] = c.padding[d];
    s.dilation[d] = c.dilation[d];
    s.output[d] =
        (c.input[d] + 2 * c.padding[d] - c.dilation[d] * (c.kernel[d] - 1) - 1) / c.stride[d] + 1;
  }
  return s;
}

class ConvolutionGradientsTest : public testing::TestWithParam<Case> {
 protected:
  const Case& c = GetParam();
  const ConvolutionShape shape = ShapeOf(c);
  const int64_t examples = 3, seeds = 4;
  const at::Tensor weight =
      RandomNormal({c.out, c.in / c.groups, c.kernel[0], c.kernel[1]}, 1, at::kDouble);
  const at::Tensor inputs = RandomNormal({examples, c.in, c.input[0], c.input[1]}, 2, at::kDouble);
  // As the sweep has them: seeds first, seen by example.
  const at::Tensor by_seed =
      RandomNormal({seeds, examples, c.out, shape.output[0], shape.output[1]}, 3, at::kDouble);
  const at::Tensor grads = by_seed.transpose(0, 1);

  // LibTorch's gradients of input and weight for one example and seed.
  std::pair<at::Tensor, at::Tensor> Reference(int64_t example, int64_t seed) const {
    const auto [dx, dw, db] = at::convolution_backward(
        grads[example][seed].unsqueeze(0), inputs.narrow(0, example, 1), weight, at::nullopt,
        shape.stride, shape.padding, shape.dilation, /*transposed=*/false,
        /*output_padding=*/{0, 0}, c.groups, {true, true, false});
    return {dx[0], dw.flatten()};
  }
};

TEST_P(ConvolutionGradientsTest, InputsGetLibTorchsGradients) {
  const at::Tensor dx = ConvolutionInputGradient(shape, weight, by_seed.flatten(0, 1))
                            .view({seeds, examples, c.in, c.input[0], c.input[1]});
  for (int64_t e = 0; e < examples; ++e) {
    for (int64_t r = 0; r < seeds; ++r) {
      EXPECT_LT(Max(dx[r][e] - Reference(e, r).first), 1e-12) << "example " << e << " seed " << r;
    }
  }
}

TEST_P(ConvolutionGradientsTest, WeightsGetLibTorchsGradients) {
  const at::Tensor patches = ConvolutionPatches(shape, inputs);
  const at::Tensor jacobian = ConvolutionWeightJacobian(shape, patches, grads);
  const at::Tensor u = RandomNormal({weight.numel(), 6}, 4, at::kDouble);
  const at::Tensor t = at::ones({examples, seeds, 6}, at::kDouble),
                   g = at::ones({examples, seeds, seeds}, at::kDouble);
  AddConvolutionProducts(shape, patches, grads, u, t, g);
  for (int64_t e = 0; e < examples; ++e) {
    std::vector<at::Tensor> rows;
    for (int64_t r = 0; r < seeds; ++r) {
      rows.push_back(Reference(e, r).second);
      EXPECT_LT(Max(jacobian[e][r] - rows.back()), 1e-11) << "example " << e << " seed " << r;
    }
    const at::Tensor j = at::stack(rows);
    EXPECT_LT(Max(t[e] - 1 - at::mm(j, u)), 1e-9);
    EXPECT_LT(Max(g[e] - 1 - at::mm(j, j.t())), 1e-9);
  }
}

TEST_P(ConvolutionGradientsTest, SinglePrecisionIsNear) {
  const at::Tensor dx =
      ConvolutionInputGradient(shape, weight.to(at::kFloat), by_seed.flatten(0, 1).to(at::kFloat));
  const at::Tensor jacobian = ConvolutionWeightJacobian(
      shape, ConvolutionPatches(shape, inputs.to(at::kFloat)), grads.to(at::kFloat));
  const auto [dx0, dw0] = Reference(0, 0);
  EXPECT_LT(Max(dx[0] - dx0), 1e-5 * (1 + Max(dx0)));
  EXPECT_LT(Max(jacobian[0][0] - dw0), 1e-5 * (1 + Max(dw0)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ConvolutionGradientsTest, testing::ValuesIn(kCases),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace laplaced
