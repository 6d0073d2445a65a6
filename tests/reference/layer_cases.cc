#include "tests/reference/layer_cases.h"

namespace laplaced::reference {

std::vector<LayerCase> LinearCases() {
  return {
      {"linear with bias",
       {{"w", {3, 4}}, {"b", {3}}},
       "  return torch.linear(x, self.w, self.b)\n",
       {4},
       3,
       {}},
      {"linear without bias", {{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", {4}, 3, {}},
      {"matrix stored [in, out]", {{"w", {4, 3}}}, "  return torch.mm(x, self.w)\n", {4}, 3, {}},
      {"linear over a sequence",
       {{"w", {5, 4}}, {"b", {5}}, {"v", {2, 5}}},
       "  return torch.linear(torch.tanh(torch.linear(x, self.w, self.b)).mean(1), self.v)\n",
       {3, 4},
       2,
       {}},
      {"linear over a sequence as long as the batch",
       {{"w", {5, 4}}, {"b", {5}}, {"v", {2, 5}}},
       "  return torch.linear(torch.tanh(torch.linear(x, self.w, self.b)).mean(1), self.v)\n",
       {5, 4},
       2,
       {}},
      {"linear over two dimensions of positions",
       {{"w", {5, 4}}, {"b", {5}}},
       "  return torch.tanh(torch.linear(x, self.w, self.b)).mean([1, 2])\n",
       {2, 3, 4},
       5,
       {}},
      {"linear over a sequence that is not contiguous",
       {{"w", {5, 4}}, {"b", {5}}},
       "  return torch.tanh(torch.linear(x.flip(1)[:, ::2], self.w, self.b)).mean(1)\n",
       {5, 4},
       5,
       {}},
      {"linear along another dimension than the last",
       {{"w", {5, 3}}, {"b", {5}}},
       "  return torch.tanh(torch.linear(x.permute(0, 2, 1), self.w, self.b)).mean(1)\n",
       {3, 4},
       5,
       {}},
      {"matrix product and sum",
       {{"w", {5, 4}}, {"b", {5}}},
       "  return torch.tanh(torch.matmul(x, self.w.t()) + self.b).mean(1)\n",
       {3, 4},
       5,
       {}},
      {"matrix product along another dimension",
       {{"w", {3, 5}}},
       "  return torch.tanh(torch.matmul(x.transpose(1, 2), self.w)).mean(1)\n",
       {3, 4},
       5,
       {}},
      {"transposed by transpose",
       {{"w", {5, 4}}},
       "  return torch.matmul(x, self.w.transpose(0, 1))\n",
       {4},
       5,
       {}},
      {"rows of an example apart",
       {{"w", {3, 4}}, {"b", {3}}},
       "  y = torch.linear(x.transpose(0, 1).reshape(-1, 4), self.w, self.b)\n"
       "  return torch.tanh(y).reshape(2, -1, 3).sum(0)\n",
       {2, 4},
       3,
       {}},
      {"rows of an example apart, as many as examples",
       {{"w", {3, 4}}, {"b", {3}}},
       "  y = torch.linear(x.transpose(0, 1).reshape(-1, 4), self.w, self.b)\n"
       "  return torch.tanh(y).reshape(5, -1, 3).sum(0)\n",
       {5, 4},
       3,
       {}},
  };
}

std::vector<LayerCase> ConvolutionCases() {
  return {
      {"convolution, stride, padding, in-place relu",
       {{"w", {4, 2, 3, 3}}, {"b", {4}}, {"v", {3, 36}}},
       "  h = torch.relu_(torch.conv2d(x, self.w, self.b, [2, 2], [1, 1]))\n"
       "  return torch.linear(torch.flatten(h, 1), self.v)\n",
       {2, 6, 6},
       3,
       {}},
      {"dilated convolution",
       {{"w", {3, 2, 2, 3}}, {"v", {3, 48}}},
       "  h = torch.tanh(torch.conv2d(x, self.w, None, [1, 1], [1, 1], [2, 1]))\n"
       "  return torch.linear(torch.flatten(torch.max_pool2d(h, [1, 1])[:, :, 0:4, 0:4], 1), "
       "self.v)\n",
       {2, 6, 6},
       3,
       {}},
      {"grouped convolution",
       {{"w", {6, 2, 3, 3}}, {"b", {6}}},
       "  return torch.conv2d(x, self.w, self.b, [1, 1], [0, 0], [1, 1], 2).mean([2, 3])\n",
       {4, 5, 5},
       6,
       {}},
      {"depthwise convolution",
       {{"w", {4, 1, 3, 3}}, {"b", {4}}},
       "  return torch.tanh(torch.conv2d(x, self.w, self.b, [1, 1], [1, 1], [1, 1], 4)).mean([2, "
       "3])\n",
       {4, 5, 5},
       4,
       {}},
      {"convolution as traced",
       {{"w", {3, 2, 3, 3}}, {"b", {3}}},
       "  return torch.tanh(torch._convolution(x, self.w, self.b, [1, 1], [1, 1], [1, 1], False, "
       "[0, 0], 1,\n"
       "      False, False, True, True)).mean([2, 3])\n",
       {2, 5, 5},
       3,
       {}},
      {"convolution over one dimension",
       {{"w", {3, 2, 3}}, {"b", {3}}},
       "  return torch.tanh(torch.conv1d(x, self.w, self.b, [2], [1])).mean(2)\n",
       {2, 9},
       3,
       {}},
      {"dilated and grouped over one dimension",
       {{"w", {4, 2, 3}}, {"b", {4}}},
       "  return torch.tanh(torch.conv1d(x, self.w, self.b, [1], [2], [2], 2)).mean(2)\n",
       {4, 9},
       4,
       {}},
      {"convolution over three dimensions",
       {{"w", {3, 2, 3, 2, 3}}, {"b", {3}}},
       "  h = torch.conv3d(x, self.w, self.b, [1, 2, 1], [1, 0, 2], [1, 1, 2])\n"
       "  return torch.tanh(h).mean([2, 3, 4])\n",
       {2, 4, 5, 6},
       3,
       {}},
      {"grouped over three dimensions",
       {{"w", {4, 1, 2, 2, 2}}, {"b", {4}}},
       "  return torch.tanh(torch.conv3d(x, self.w, self.b, [2, 1, 1], [0, 1, 0], [1, 1, 1], "
       "2)).mean([2, 3, 4])\n",
       {2, 4, 3, 4},
       4,
       {}},
      {"same padding, more on one side",
       {{"w", {3, 2, 4, 2}}, {"b", {3}}},
       "  return torch.tanh(torch.conv2d(x, self.w, self.b, [1, 1], 'same', [1, 2])).mean([2, "
       "3])\n",
       {2, 5, 5},
       3,
       {}},
      {"valid padding over one dimension",
       {{"w", {3, 2, 3}}},
       "  return torch.tanh(torch.conv1d(x, self.w, None, [1], 'valid')).mean(2)\n",
       {2, 6},
       3,
       {}},
      {"reflected borders",
       {{"w", {3, 2, 3, 3}}, {"b", {3}}},
       "  h = torch.reflection_pad2d(torch.tanh(x), [1, 1, 1, 1])\n"
       "  return torch.tanh(torch.conv2d(h, self.w, self.b)).mean([2, 3])\n",
       {2, 4, 4},
       3,
       {}},
      {"replicated, then wrapped borders",
       {{"w", {3, 2, 3, 3}}, {"v", {2, 3, 3, 3}}},
       "  h = torch.conv2d(torch.replication_pad2d(x, [1, 1, 1, 1]), self.w)\n"
       "  h = torch.pad(torch.tanh(h), [1, 1, 1, 1], 'circular')\n"
       "  return torch.tanh(torch.conv2d(h, self.v)).mean([2, 3])\n",
       {2, 4, 4},
       2,
       {}},
      {"convolution of the frames of each example",
       {{"w", {3, 2, 3, 3}}, {"b", {3}}, {"gamma", {3}}, {"beta", {3}}},
       "  h = torch.conv2d(x.reshape(-1, 2, 4, 4), self.w, self.b, [1, 1], [1, 1])\n"
       "  m = torch.ones([3], dtype=x.dtype) * 0.1\n"
       "  h = torch.batch_norm(h, self.gamma, self.beta, m, m + 1.0, False, 0.1, 1e-5, False)\n"
       "  return torch.tanh(h).reshape(-1, 3, 3, 16).mean([1, 3])\n",
       {3, 2, 4, 4},
       3,
       {}},
      {"transposed convolution",
       {{"w", {2, 3, 3, 3}}, {"b", {3}}},
       "  h = torch.conv_transpose2d(x, self.w, self.b, [2, 2], [1, 0], [1, 0])\n"
       "  return torch.tanh(h).mean([2, 3])\n",
       {2, 3, 4},
       3,
       {}},
      {"transposed, grouped and dilated over one dimension",
       {{"w", {4, 2, 3}}, {"b", {4}}},
       "  return torch.tanh(torch.conv_transpose1d(x, self.w, self.b, [2], [1], [1], 2, "
       "[2])).mean(2)\n",
       {4, 5},
       4,
       {}},
      {"transposed over three dimensions",
       {{"w", {2, 3, 2, 2, 2}}, {"b", {3}}},
       "  return torch.tanh(torch.conv_transpose3d(x, self.w, self.b, [2, 1, 2])).mean([2, 3, "
       "4])\n",
       {2, 2, 3, 2},
       3,
       {}},
      {"transposed with more output than input reaches",
       {{"w", {2, 3, 3}}, {"b", {3}}},
       "  return torch.tanh(torch.conv_transpose1d(x, self.w, self.b, [1], [0], [1], 1, "
       "[2])).mean(2)\n",
       {2, 5},
       3,
       {"w"}},
  };
}

std::vector<LayerCase> NormCases() {
  return {
      {"batch norm after in-place addition",
       {{"w", {3, 2, 3, 3}}, {"gamma", {3}}, {"beta", {3}}, {"mean", {3}}},
       "  h = torch.conv2d(x, self.w, None, [1, 1], [1, 1])\n"
       "  v = torch.ones_like(self.mean).detach() * 2.0\n"
       "  y = torch.batch_norm(h, self.gamma, self.beta, self.mean.detach(), v, False, 0.1, 1e-5, "
       "False)\n"
       "  y += h\n"
       "  return torch.relu_(y).mean([2, 3]) + self.mean.sum() * 0.1\n",
       {2, 5, 5},
       3,
       {"mean"}},
      {"batch norm of features",
       {{"w", {3, 4}}, {"gamma", {3}}, {"beta", {3}}},
       "  m = torch.ones([3], dtype=x.dtype) * 0.1\n"
       "  h = torch.linear(x, self.w)\n"
       "  return torch.tanh(torch.batch_norm(h, self.gamma, self.beta, m, m + 1.0, False, 0.1, "
       "1e-5, False))\n",
       {4},
       3,
       {}},
      {"batch norm of a series",
       {{"w", {3, 2, 3}}, {"gamma", {3}}, {"beta", {3}}},
       "  m = torch.ones([3], dtype=x.dtype) * 0.1\n"
       "  h = torch.conv1d(x, self.w)\n"
       "  return torch.tanh(torch.batch_norm(h, self.gamma, self.beta, m, m + 1.0, False, 0.1, "
       "1e-5, False)).mean(2)\n",
       {2, 6},
       3,
       {}},
      {"batch norm of volumes",
       {{"w", {3, 2, 2, 2, 2}}, {"gamma", {3}}, {"beta", {3}}},
       "  m = torch.ones([3], dtype=x.dtype) * 0.1\n"
       "  h = torch.conv3d(x, self.w)\n"
       "  return torch.tanh(torch.batch_norm(h, self.gamma, self.beta, m, m + 1.0, False, 0.1, "
       "1e-5, False)).mean([2, 3, 4])\n",
       {2, 3, 3, 3},
       3,
       {}},
      {"layer norm and a free scale",
       {{"w", {5, 4}}, {"g", {5}}, {"b", {5}}, {"s", {1}}},
       "  return torch.layer_norm(torch.linear(x, self.w), [5], self.g, self.b) * "
       "torch.exp(self.s)\n",
       {4},
       5,
       {"s"}},
      {"layer norm over a sequence",
       {{"w", {5, 4}}, {"g", {5}}, {"b", {5}}},
       "  return torch.tanh(torch.layer_norm(torch.linear(x, self.w), [5], self.g, "
       "self.b)).mean(1)\n",
       {3, 4},
       5,
       {}},
      {"layer norm of images",
       {{"w", {2, 1, 3, 3}}, {"g", {2, 4, 4}}, {"b", {2, 4, 4}}},
       "  h = torch.conv2d(x, self.w, None, [1, 1], [1, 1])\n"
       "  return torch.tanh(torch.layer_norm(h, [2, 4, 4], self.g, self.b)).mean([2, 3])\n",
       {1, 4, 4},
       2,
       {}},
      {"layer norm, batch second",
       {{"w", {5, 4}}, {"g", {5}}, {"b", {5}}},
       "  h = torch.linear(x.transpose(0, 1), self.w)\n"
       "  return torch.tanh(torch.layer_norm(h, [5], self.g, self.b)).mean(0)\n",
       {5, 4},
       5,
       {}},
      {"layer norm of rows, a row of every example after the other",
       {{"g", {4}}, {"b", {4}}},
       "  h = torch.layer_norm(x.transpose(0, 1).reshape(-1, 4), [4], self.g, self.b)\n"
       "  return torch.tanh(h).reshape(3, -1, 4).mean(0)\n",
       {3, 4},
       4,
       {}},
      {"group norm",
       {{"w", {6, 2, 3, 3}}, {"g", {6}}, {"b", {6}}},
       "  h = torch.conv2d(x, self.w, None, [1, 1], [1, 1])\n"
       "  return torch.tanh(torch.group_norm(h, 3, self.g, self.b)).mean([2, 3])\n",
       {2, 4, 4},
       6,
       {}},
      {"group norm of features",
       {{"w", {6, 4}}, {"g", {6}}, {"b", {6}}},
       "  return torch.tanh(torch.group_norm(torch.linear(x, self.w), 2, self.g, self.b))\n",
       {4},
       6,
       {}},
      {"instance norm",
       {{"w", {3, 2, 3, 3}}, {"g", {3}}, {"b", {3}}},
       "  h = torch.conv2d(x, self.w, None, [1, 1], [1, 1])\n"
       "  h = torch.instance_norm(h, self.g, self.b, None, None, True, 0.1, 1e-5, False)\n"
       "  return torch.tanh(h).mean([2, 3])\n",
       {2, 4, 4},
       3,
       {}},
  };
}

std::vector<LayerCase> EmbeddingCases() {
  const std::string index = "  i = (torch.abs(x) * 2.0).clamp(0.0, 5.0).long()\n";
  return {
      {"embedding",
       {{"e", {6, 3}}, {"w", {2, 12}}},
       index + "  return torch.linear(torch.tanh(torch.flatten(torch.embedding(self.e, i), 1)), "
               "self.w)\n",
       {4},
       2,
       {}},
      {"embedding with padding",
       {{"e", {6, 3}}},
       index + "  return torch.tanh(torch.embedding(self.e, i, 3)).sum(1)\n",
       {4},
       3,
       {}},
      {"embedding of the example's only index",
       {{"e", {6, 3}}},
       index + "  return torch.tanh(torch.embedding(self.e, i[:, 0]))\n",
       {4},
       3,
       {}},
      {"embedding, batch second",
       {{"e", {6, 3}}},
       index + "  h = torch.embedding(self.e, i.transpose(0, 1))\n"
               "  return torch.tanh(h * torch.arange(1, 6).view(-1, 1, 1)).sum(0)\n",
       {5},
       3,
       {}},
      {"embedding tied to the output layer",
       {{"e", {6, 3}}, {"w", {3, 3}}},
       index + "  h = torch.tanh(torch.linear(torch.embedding(self.e, i), self.w)).mean(1)\n"
               "  return torch.linear(h, self.e)\n",
       {4},
       6,
       {}},
  };
}

std::vector<LayerCase> BroadcastCases() {
  return {
      {"scale and shift of features",
       {{"g", {4}}, {"b", {4}}},
       "  return torch.tanh(x * self.g + self.b)\n",
       {4},
       4,
       {}},
      {"scale by a single number",
       {{"s", {}}, {"r", {1}}, {"w", {3, 4}}},
       "  return torch.tanh(self.s * torch.linear(x, self.w)) * self.r\n",
       {4},
       3,
       {}},
      {"scale and shift of channels by views",
       {{"g", {2}}, {"b", {2, 1, 1}}},
       "  return torch.tanh(self.g.view(1, -1, 1, 1) * x - self.b).mean([2, 3])\n",
       {2, 3, 3},
       2,
       {}},
      {"sum with a factor",
       {{"b", {4}}, {"c", {4}}},
       "  h = torch.add(x, self.b, alpha=2.0)\n  return torch.tanh(torch.sub(h, self.c, "
       "alpha=0.5))\n",
       {4},
       4,
       {}},
      {"positions, batch first",
       {{"pos", {1, 3, 4}}},
       "  return torch.tanh(x + self.pos).sum(1)\n",
       {3, 4},
       4,
       {}},
      {"the first of some positions",
       {{"pos", {1, 6, 4}}},
       "  return torch.tanh(x + self.pos[:, :x.size(1)]).sum(1)\n",
       {3, 4},
       4,
       {}},
      {"positions, batch second",
       {{"pos", {5, 1, 4}}, {"g", {4}}, {"b", {4}}},
       "  return torch.tanh((x.transpose(0, 1) + self.pos) * self.g + self.b).sum(0)\n",
       {5, 4},
       4,
       {}},
      {"class token by expand",
       {{"cls", {1, 1, 4}}, {"w", {4, 4}}},
       "  h = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1)\n"
       "  return torch.tanh(torch.linear(h, self.w)).cumsum(1).mean(1)\n",
       {3, 4},
       4,
       {}},
      {"class token by repeat",
       {{"cls", {1, 1, 4}}},
       "  h = torch.cat([self.cls.repeat(x.size(0), 1, 1), x], 1)\n"
       "  return torch.tanh(h.cumsum(1)).mean(1)\n",
       {3, 4},
       4,
       {}},
      {"parametric relu",
       {{"w", {3, 2, 3, 3}}, {"a", {3}}, {"s", {1}}},
       "  h = torch.prelu(torch.conv2d(x, self.w), self.a)\n"
       "  return torch.prelu(h - 0.3, self.s).mean([2, 3])\n",
       {2, 5, 5},
       3,
       {}},
      {"a parameter with itself",
       {{"p", {4, 4}}, {"q", {4}}},
       "  return torch.tanh(torch.matmul(x, torch.mm(self.p, self.p.t()))) * (self.q * self.q)\n",
       {4},
       4,
       {"p", "q"}},
      {"a product of parameters as long as the batch",
       {{"p", {5, 4}}, {"q", {4}}, {"s", {}}},
       "  return torch.linear(x, self.p * self.q + self.s)\n",
       {4},
       5,
       {"p", "q", "s"}},
      {"expanded as long as the batch, then broadcast over it",
       {{"p", {1, 4}}},
       "  return torch.tanh(x + self.p.expand(5, 4)).sum(1)\n",
       {5, 4},
       4,
       {"p"}},
      {"scale used twice in one product",
       {{"g", {4}}},
       "  return torch.tanh((x * self.g) * self.g)\n",
       {4},
       4,
       {}},
  };
}

std::vector<LayerCase> ActivationCases() {
  std::vector<LayerCase> cases;
  const auto between = [&](const std::string& name, const std::string& line) {
    cases.push_back({name,
                     {{"w", {5, 4}}, {"b", {5}}, {"v", {3, 5}}},
                     "  h = torch.linear(x, self.w, self.b)\n  " + line +
                         "\n  return torch.linear(h, self.v)\n",
                     {4},
                     3,
                     {}});
  };
  between("relu in place", "torch.relu_(h)");
  between("hardtanh in place", "torch.hardtanh_(h, -0.5, 0.5)");
  between("silu in place", "torch.silu_(h)");
  between("leaky relu in place", "torch.leaky_relu_(h, 0.1)");
  between("elu in place", "torch.elu_(h)");
  between("hardswish in place", "torch.hardswish_(h)");
  between("sigmoid in place", "h.sigmoid_()");
  between("sum in place", "h += torch.tanh(h)");
  between("product in place", "h *= 2.0");
  between("dropout in evaluation", "h = torch.tanh(torch.dropout(h, 0.5, self.training))");
  between("gelu", "h = torch.gelu(h)");
  between("silu", "h = torch.silu(h)");
  between("softplus", "h = torch.softplus(h)");
  between("elu", "h = torch.elu(h)");
  between("hardswish", "h = torch.hardswish(h)");
  between("softmax inside", "h = torch.softmax(h, 1)");
  between("gated", "h = torch.sigmoid(h) * h");
  const auto after_convolution = [&](const std::string& name, const std::string& line) {
    cases.push_back({name,
                     {{"w", {4, 2, 3, 3}}, {"b", {4}}},
                     "  h = torch.tanh(torch.conv2d(x, self.w, self.b, [1, 1], [1, 1]))\n  " +
                         line + "\n  return h.flatten(2).cumsum(2).mean(2)[:, :1]\n",
                     {2, 4, 4},
                     1,
                     {}});
  };
  after_convolution("average pooling", "h = torch.avg_pool2d(h, [2, 2])");
  after_convolution("max pooling", "h = torch.max_pool2d(h, [2, 2], [1, 1])");
  after_convolution("adaptive pooling", "h = torch.adaptive_avg_pool2d(h, [3, 3])");
  after_convolution("pixel shuffle", "h = torch.pixel_shuffle(h, 2)");
  after_convolution("nearest upsampling", "h = torch.upsample_nearest2d(h, [7, 5])");
  after_convolution("bilinear upsampling", "h = torch.upsample_bilinear2d(h, [7, 5], False)");
  after_convolution("concatenation", "h = torch.cat([h, torch.sin(x), h], 1)");
  after_convolution("slices", "h = h[:, 1:3, ::2, 1:]");
  return cases;
}

namespace {

// The parameters of nn.TransformerEncoderLayer(4, 2, 6), names with `prefix`.
std::vector<std::pair<std::string, std::vector<int64_t>>> EncoderParameters(
    const std::string& prefix) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> parameters;
  for (const auto& [name, shape] :
       std::vector<std::pair<std::string, std::vector<int64_t>>>{{"in_w", {12, 4}},
                                                                 {"in_b", {12}},
                                                                 {"out_w", {4, 4}},
                                                                 {"out_b", {4}},
                                                                 {"n1_w", {4}},
                                                                 {"n1_b", {4}},
                                                                 {"w1", {6, 4}},
                                                                 {"b1", {6}},
                                                                 {"w2", {4, 6}},
                                                                 {"b2", {4}},
                                                                 {"n2_w", {4}},
                                                                 {"n2_b", {4}}}) {
    parameters.emplace_back(prefix + name, shape);
  }
  return parameters;
}

// What F.multi_head_attention_forward does in PyTorch 1.13 for self-attention with two heads:
// h [T, B, 4] -> o [T, B, 4].
std::string SelfAttention(const std::string& prefix) {
  const std::string p = "self." + prefix;
  return "  t = h.size(0)\n"
         "  n = h.size(1)\n"
         "  q, k, v = torch.chunk(torch.linear(h, " +
         p + "in_w, " + p +
         "in_b), 3, -1)\n"
         "  q = q.contiguous().view(t, n * 2, 2).transpose(0, 1)\n"
         "  k = k.contiguous().view(t, n * 2, 2).transpose(0, 1)\n"
         "  v = v.contiguous().view(t, n * 2, 2).transpose(0, 1)\n"
         "  a = torch.softmax(torch.bmm(q / 1.4142135623730951, k.transpose(-2, -1)), -1)\n"
         "  o = torch.bmm(torch.dropout(a, 0.1, False), v)\n"
         "  o = o.transpose(0, 1).contiguous().view(t * n, 4)\n"
         "  o = torch.linear(o, " +
         p + "out_w, " + p + "out_b).view(t, n, 4)\n";
}

// nn.TransformerEncoderLayer(4, 2, 6, batch_first=...) on x, in evaluation.
std::string Encoder(const std::string& prefix, bool batch_first, bool norm_first = false) {
  const std::string p = "self." + prefix;
  const auto norm = [&](const std::string& which, const std::string& of) -> std::string {
    return "torch.layer_norm(" + of + ", [4], " + p + which + "_w, " + p + which + "_b)";
  };
  const std::string forward = norm_first ? norm("n1", "x") : "x";
  std::string body = "  h = " + forward + (batch_first ? ".transpose(1, 0)\n" : "\n");
  body += SelfAttention(prefix);
  if (batch_first) body += "  o = o.transpose(1, 0)\n";
  body += "  x = " + (norm_first ? "x + o" : norm("n1", "x + o")) + "\n";
  body += "  f = torch.linear(torch.relu(torch.linear(" + (norm_first ? norm("n2", "x") : "x") +
          ", " + p + "w1, " + p + "b1)), " + p + "w2, " + p + "b2)\n";
  return body + "  x = " + (norm_first ? "x + f" : norm("n2", "x + f")) + "\n";
}

}  // namespace

std::vector<LayerCase> TransformerCases() {
  auto two = EncoderParameters("a_");
  const auto second = EncoderParameters("b_");
  two.insert(two.end(), second.begin(), second.end());
  auto vision = EncoderParameters("");
  vision.insert(vision.end(), {{"patch_w", {4, 1, 2, 2}},
                               {"patch_b", {4}},
                               {"cls", {1, 1, 4}},
                               {"pos", {1, 5, 4}},
                               {"layer_scale", {4}},
                               {"head_w", {3, 4}},
                               {"head_b", {3}}});
  return {
      {"encoder layer, batch first, as long as the batch",
       EncoderParameters(""),
       Encoder("", true) + "  return x.cumsum(1).mean(1)\n",
       {5, 4},
       4,
       {}},
      {"encoder layer, batch first, norm first",
       EncoderParameters(""),
       Encoder("", true, true) + "  return x.mean(1)\n",
       {3, 4},
       4,
       {}},
      {"encoder layer, batch second",
       EncoderParameters(""),
       "  x = x.transpose(0, 1)\n" + Encoder("", false) + "  return x.cumsum(0).mean(0)\n",
       {3, 4},
       4,
       {}},
      {"encoder layer, batch second, as long as the batch",
       EncoderParameters(""),
       "  x = x.transpose(0, 1)\n" + Encoder("", false, true) + "  return x.cumsum(0).mean(0)\n",
       {5, 4},
       4,
       {}},
      {"two encoder layers",
       two,
       Encoder("a_", true) + Encoder("b_", true, true) + "  return x[:, 0]\n",
       {3, 4},
       4,
       {}},
      {"the same encoder layer twice",
       EncoderParameters(""),
       Encoder("", true) + Encoder("", true) + "  return x[:, 0]\n",
       {3, 4},
       4,
       {}},
      {"vision transformer",
       vision,
       "  x = torch.conv2d(x, self.patch_w, self.patch_b, [2, 2]).flatten(2).transpose(1, 2)\n"
       "  x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1) + self.pos\n" +
           Encoder("", true, true) +
           "  return torch.linear(x[:, 0] * self.layer_scale, self.head_w, self.head_b)\n",
       {1, 4, 4},
       3,
       {}},
      {"attention with projections cut from one parameter",
       {{"in_w", {12, 4}}, {"in_b", {12}}},
       "  wq, wk, wv = torch.chunk(self.in_w, 3)\n"
       "  bq, bk, bv = torch.chunk(self.in_b, 3)\n"
       "  m = torch.flip(x, [1])\n"
       "  q = torch.linear(x, wq, bq)\n  k = torch.linear(m, wk, bk)\n  v = torch.linear(m, wv, "
       "bv)\n"
       "  return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v).mean(1)\n",
       {3, 4},
       4,
       {}},
      {"attention as a scripted module writes it",
       {{"qkv", {12, 4}}, {"proj_w", {4, 4}}, {"proj_b", {4}}},
       "  n = x.size(0)\n  t = x.size(1)\n"
       "  qkv = torch.linear(x, self.qkv).reshape(n, t, 3, 2, 2).permute(2, 0, 3, 1, 4)\n"
       "  q, k, v = torch.unbind(qkv, 0)\n"
       "  a = torch.softmax(torch.matmul(q, k.transpose(-2, -1)) * 0.7, -1)\n"
       "  o = torch.matmul(a, v).transpose(1, 2).reshape(n, t, 4)\n"
       "  return torch.linear(o, self.proj_w, self.proj_b).mean(1)\n",
       {3, 4},
       4,
       {}},
  };
}

std::vector<LayerCase> UnusualCases() {
  return {
      {"shared weights",
       {{"w", {4, 4}}, {"b", {4}}},
       "  h = torch.tanh(torch.linear(x, self.w, self.b))\n  return torch.linear(h, self.w, "
       "self.b)\n",
       {4},
       4,
       {}},
      {"shared with an operation of no known kind",
       {{"w", {4, 4}}},
       "  return torch.linear(torch.tanh(torch.linear(x, self.w)), self.w) + "
       "torch.sin(self.w).sum()\n",
       {4},
       4,
       {"w"}},
      {"shared by a linear layer and a convolution",
       {{"w", {4, 2}}},
       "  h = torch.tanh(torch.conv1d(x, self.w.unsqueeze(2)))\n"
       "  return torch.linear(x[:, :, 0], self.w) + h.mean(2)\n",
       {2, 5},
       4,
       {}},
      {"shared, once examples first and once second",
       {{"w", {4, 4}}},
       "  h = torch.tanh(torch.linear(x, self.w)).transpose(0, 1).contiguous()\n"
       "  return torch.linear(h, self.w).cumsum(0).mean(0)\n",
       {3, 4},
       4,
       {"w"}},
      {"parts of one parameter",
       {{"w", {6, 4}}},
       "  h = torch.tanh(torch.linear(x, self.w[:4]))\n"
       "  return torch.linear(h, self.w[4:]) * self.w[0, 0] + self.w.t()[1, 2:4]\n",
       {4},
       2,
       {}},
      {"permuted and cut kernel",
       {{"w", {3, 3, 2, 4}}},
       "  h = torch.conv2d(x, self.w.permute(3, 2, 0, 1)[:3])\n  return "
       "torch.tanh(h).mean([2, 3])\n",
       {2, 4, 4},
       3,
       {}},
      {"detached in the middle",
       {{"w", {4, 4}}, {"v", {3, 4}}},
       "  h = torch.tanh(torch.linear(x, self.w))\n"
       "  return torch.linear(h.detach(), self.v) * 2.0 + h.sum() * 0.0 + h[:, :3]\n",
       {4},
       3,
       {}},
      {"examples mixed and unmixed",
       {{"w", {4, 4}}},
       "  return torch.flip(torch.tanh(torch.linear(torch.flip(x, [0]), self.w)), [0])\n",
       {4},
       4,
       {"w"}},
      {"some examples without an answer",
       {{"w", {4, 4}}, {"b", {4}}},
       "  h = torch.linear(x, self.w, self.b)\n"
       "  return h * (x.sum(1, True) > 0.5)\n",
       {4},
       4,
       {}},
      {"unused parameter",
       {{"w", {3, 4}}, {"u", {2}}},
       "  return torch.linear(x, self.w)\n",
       {4},
       3,
       {}},
  };
}

}  // namespace laplaced::reference
