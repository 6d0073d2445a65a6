#include "server/model/convolution_gradients.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>

#include "server/linalg/tile_kernels.h"
#include "server/model/jacobian_sums.h"

namespace laplaced {
namespace {

constexpr int64_t kTileBytes = 384
                               << 10;  // of Jacobians that are contracted at once: stays in cache

// Images of `macs` multiply-adds each that are worth waking another thread for.
int64_t Grain(int64_t macs) {
  return std::max<int64_t>(1, kMacsForAThread / std::max<int64_t>(1, macs));
}

int64_t CeilDivide(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
int64_t FloorDivide(int64_t a, int64_t b) { return -CeilDivide(-a, b); }

// Where the gradients of one image stand with zeros around them, so that every shift of them may be
// read.
struct PaddedPlane {
  int64_t before[2], size[2];
  int64_t Numel() const { return size[0] * size[1]; }
};

PaddedPlane PlaneOfGradients(const ConvolutionShape& s) {
  PaddedPlane plane;
  for (int d = 0; d < 2; ++d) {
    const int64_t reach = s.dilation[d] * (s.kernel[d] - 1) - s.padding[d];
    plane.before[d] = std::max<int64_t>(0, CeilDivide(reach, s.stride[d]));
    const int64_t last = (s.input[d] - 1 + s.padding[d]) / s.stride[d];
    plane.size[d] = plane.before[d] + std::max(s.output[d], last + 1);
  }
  return plane;
}

// Inputs y = stride * q + phase have their gradients from taps whose distance fits the stride; for
// these, a convolution is a sum of shifted copies in q.
template <typename T>
struct Phase {
  int64_t first[2], size[2];     // of the inputs: phase, and how many there are
  std::vector<int64_t> offsets;  // of each term in the padded plane
  std::vector<T> weights;        // of one group after the other, packed
  int64_t group_numel = 0;       // of the packed weights
  int64_t row_stride = 0;        // of a result's channel
  bool direct = false;           // results lie as the input does
  std::vector<int64_t> sources, targets;
};

template <typename T>
Phase<T> MakePhase(const ConvolutionShape& s, const PaddedPlane& plane, const T* weight, int64_t py,
                   int64_t px) {
  const TileKernels<T>& kernels = Kernels<T>();
  Phase<T> phase;
  const int64_t phases[2] = {py, px};
  for (int d = 0; d < 2; ++d) {
    phase.first[d] = phases[d];
    phase.size[d] = CeilDivide(s.input[d] - phases[d], s.stride[d]);
  }
  const int64_t taps = s.kernel[0] * s.kernel[1], in = s.in / s.groups, out = s.out / s.groups;
  std::vector<int64_t> columns;
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t ky = 0; ky < s.kernel[0]; ++ky) {
      const int64_t dy = py + s.padding[0] - ky * s.dilation[0];
      if (FloorDivide(dy, s.stride[0]) * s.stride[0] != dy) continue;
      for (int64_t kx = 0; kx < s.kernel[1]; ++kx) {
        const int64_t dx = px + s.padding[1] - kx * s.dilation[1];
        if (FloorDivide(dx, s.stride[1]) * s.stride[1] != dx) continue;
        const int64_t y = dy / s.stride[0] + plane.before[0],
                      x = dx / s.stride[1] + plane.before[1];
        phase.offsets.push_back(o * plane.Numel() + y * plane.size[1] + x);
        columns.push_back(o * in * taps + ky * s.kernel[1] + kx);
      }
    }
  }
  const auto terms = static_cast<int64_t>(columns.size());
  phase.group_numel = CeilDivide(in, kernels.block) * kernels.block * terms;
  phase.weights.resize(phase.group_numel * s.groups);
  for (int64_t g = 0; g < s.groups; ++g) {
    kernels.pack_rows(in, terms, weight + g * out * in * taps, taps, columns.data(),
                      phase.weights.data() + g * phase.group_numel);
  }

  // Registers along the rows of the result; the last one of a row overlaps the one before. Where a
  // row is shorter than a register they run across rows, over the places between as well.
  const int64_t lanes = kernels.vector, height = phase.size[0], width = phase.size[1];
  if (width >= lanes) {
    phase.direct = s.stride[0] == 1 && s.stride[1] == 1;
    phase.row_stride = height * width;
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; x += lanes) {
        const int64_t start = std::min(x, width - lanes);
        phase.sources.push_back(y * plane.size[1] + start);
        phase.targets.push_back(y * width + start);
      }
    }
  } else if (height > 0 && width > 0) {
    const int64_t length = (height - 1) * plane.size[1] + width;
    phase.row_stride = std::max(height * plane.size[1], length + lanes);
    for (int64_t p = 0; p < length; p += lanes) {
      phase.sources.push_back(p);
      phase.targets.push_back(p);
    }
  }
  return phase;
}

// The gradients at one image's inputs, `to` [in, input...], from `padded` [out, plane] gradients.
template <typename T>
void ApplyPhase(const ConvolutionShape& s, const PaddedPlane& plane, const Phase<T>& phase,
                const T* padded, std::vector<T>& scratch, T* to) {
  if (phase.size[0] <= 0 || phase.size[1] <= 0) return;
  const int64_t in = s.in / s.groups, out = s.out / s.groups;
  T* target = to;
  if (!phase.direct) {
    if (static_cast<int64_t>(scratch.size()) < s.in * phase.row_stride) {
      scratch.resize(s.in * phase.row_stride);
    }
    target = scratch.data();
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    Kernels<T>().shifted_product(
        {in, static_cast<int64_t>(phase.offsets.size()),
         phase.weights.data() + g * phase.group_numel, phase.offsets.data(),
         padded + g * out * plane.Numel(), target + g * in * phase.row_stride, phase.row_stride,
         static_cast<int64_t>(phase.sources.size()), phase.sources.data(), phase.targets.data()});
  }
  if (phase.direct) return;
  const int64_t pitch = phase.size[1] >= Kernels<T>().vector ? phase.size[1] : plane.size[1];
  for (int64_t c = 0; c < s.in; ++c) {
    for (int64_t y = 0; y < phase.size[0]; ++y) {
      const T* from = target + c * phase.row_stride + y * pitch;
      T* row =
          to + (c * s.input[0] + phase.first[0] + y * s.stride[0]) * s.input[1] + phase.first[1];
      for (int64_t x = 0; x < phase.size[1]; ++x) row[x * s.stride[1]] = from[x];
    }
  }
}

template <typename T>
void InputGradient(const ConvolutionShape& s, const T* weight, const T* grads, int64_t n,
                   T* result) {
  const PaddedPlane plane = PlaneOfGradients(s);
  std::vector<Phase<T>> phases;
  for (int64_t py = 0; py < s.stride[0]; ++py) {
    for (int64_t px = 0; px < s.stride[1]; ++px) {
      phases.push_back(MakePhase(s, plane, weight, py, px));
    }
  }
  at::parallel_for(0, n, Grain(s.Macs()), [&](int64_t begin, int64_t end) {
    // Registers may read on beyond the last row.
    std::vector<T> padded(s.out * plane.Numel() + plane.size[1] + 2 * Kernels<T>().vector), scratch;
    for (int64_t i = begin; i < end; ++i) {
      const T* from = grads + i * s.out * s.Places();
      for (int64_t o = 0; o < s.out; ++o) {
        T* to =
            padded.data() + o * plane.Numel() + plane.before[0] * plane.size[1] + plane.before[1];
        for (int64_t y = 0; y < s.output[0]; ++y, from += s.output[1]) {
          std::copy_n(from, s.output[1], to + y * plane.size[1]);
        }
      }
      for (const Phase<T>& phase : phases) {
        ApplyPhase(s, plane, phase, padded.data(), scratch,
                   result + i * s.in * s.input[0] * s.input[1]);
      }
    }
  });
}

template <typename T>
int64_t PanelCount(const ConvolutionShape& s) {
  return CeilDivide(s.PatchSize(), Kernels<T>().panel);
}

template <typename T>
void PackImages(const ConvolutionShape& s, const T* inputs, int64_t images, T* patches) {
  int64_t size[2];
  for (int d = 0; d < 2; ++d) size[d] = s.input[d] + 2 * s.padding[d];
  const int64_t plane = size[0] * size[1], in = s.in / s.groups;
  std::vector<int64_t> offsets;
  for (int64_t c = 0; c < in; ++c) {
    for (int64_t ky = 0; ky < s.kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < s.kernel[1]; ++kx) {
        offsets.push_back(c * plane + ky * s.dilation[0] * size[1] + kx * s.dilation[1]);
      }
    }
  }
  const int64_t group_numel = PanelCount<T>(s) * s.Places() * Kernels<T>().panel;
  at::parallel_for(0, images, Grain(s.Macs()), [&](int64_t begin, int64_t end) {
    const bool pad = s.padding[0] > 0 || s.padding[1] > 0;
    std::vector<T> padded(pad ? s.in * plane : 0);
    for (int64_t i = begin; i < end; ++i) {
      const T* image = inputs + i * s.in * s.input[0] * s.input[1];
      if (pad) {
        const T* from = image;
        for (int64_t c = 0; c < s.in; ++c) {
          T* to = padded.data() + c * plane + s.padding[0] * size[1] + s.padding[1];
          for (int64_t y = 0; y < s.input[0]; ++y, from += s.input[1]) {
            std::copy_n(from, s.input[1], to + y * size[1]);
          }
        }
        image = padded.data();
      }
      for (int64_t g = 0; g < s.groups; ++g) {
        Kernels<T>().pack_patches(
            {image + g * in * plane, s.output[0], s.output[1], s.stride[0] * size[1], s.stride[1],
             static_cast<int64_t>(offsets.size()), offsets.data()},
            patches + (i * s.groups + g) * group_numel);
      }
    }
  });
}

// Gradients of output channels [first, first + count), all of one group, for one example and seed.
template <typename T>
void ChannelGradients(const ConvolutionShape& s, const T* patches, const T* grads, int64_t first,
                      int64_t count, T* rows) {
  const int64_t group = first / (s.out / s.groups), places = s.Places();
  Kernels<T>().multiply_panels(count, s.PatchSize(), places, grads + first * places, places,
                               patches + group * PanelCount<T>(s) * places * Kernels<T>().panel,
                               rows, s.PatchSize());
}

// A view of gradients that allows any strides in its first two dimensions.
template <typename T>
struct SeedGradients {
  explicit SeedGradients(const at::Tensor& grads)
      : data(grads.data_ptr<T>()),
        examples(grads.size(0)),
        seeds(grads.size(1)),
        example_stride(grads.stride(0)),
        seed_stride(grads.stride(1)) {}
  const T* At(int64_t example, int64_t seed) const {
    return data + example * example_stride + seed * seed_stride;
  }

  const T* data;
  int64_t examples, seeds, example_stride, seed_stride;
};

// `grads`, or a copy that is contiguous beyond its first two dimensions.
at::Tensor WithDenseImages(const at::Tensor& grads) {
  return grads.select(0, 0).select(0, 0).is_contiguous() ? grads : grads.contiguous();
}

template <typename T>
void WeightJacobian(const ConvolutionShape& s, const T* patches, int64_t example_numel,
                    const SeedGradients<T>& grads, T* jacobian) {
  const int64_t per_group = s.out / s.groups, numel = s.out * s.PatchSize();
  at::parallel_for(
      0, grads.examples * grads.seeds, Grain(s.Macs()), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t e = i / grads.seeds;
          for (int64_t o = 0; o < s.out; o += per_group) {
            ChannelGradients(s, patches + e * example_numel, grads.At(e, i % grads.seeds), o,
                             per_group, jacobian + i * numel + o * s.PatchSize());
          }
        }
      });
}

template <typename T>
void AddProducts(const ConvolutionShape& s, const T* patches, int64_t example_numel,
                 const SeedGradients<T>& grads, const T* u, int64_t k, const ProductSums& sums) {
  const int64_t per_group = s.out / s.groups, patch = s.PatchSize();
  const int64_t rows = grads.examples * grads.seeds;
  // Whole blocks of the kernel's rows, within one group, and enough tiles for all threads.
  const int64_t block = Kernels<T>().block;
  const int64_t fits = kTileBytes / static_cast<int64_t>(sizeof(T)) / (rows * patch);
  const int64_t share = CeilDivide(s.out, at::in_parallel_region() ? 1 : at::get_num_threads());
  const int64_t channels = std::clamp<int64_t>(std::min(fits, share) / block * block,
                                               std::min(block, per_group), per_group);
  std::vector<std::pair<int64_t, int64_t>> tiles;  // (first channel, count)
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t o = 0; o < per_group; o += channels) {
      tiles.emplace_back(g * per_group + o, std::min(channels, per_group - o));
    }
  }
  AddInParts(static_cast<int64_t>(tiles.size()), rows * (s.Macs() + s.out * patch * k), sums,
             [&](int64_t begin, int64_t end, const ProductSums& part) {
               std::vector<T> jacobian(rows * channels * patch);
               for (int64_t i = begin; i < end; ++i) {
                 const auto [first, count] = tiles[i];
                 const int64_t numel = count * patch;
                 for (int64_t row = 0; row < rows; ++row) {
                   const int64_t e = row / grads.seeds;
                   ChannelGradients(s, patches + e * example_numel, grads.At(e, row % grads.seeds),
                                    first, count, jacobian.data() + row * numel);
                 }
                 AddRowProducts(jacobian.data(), numel, numel, u + first * patch * k, part);
               }
             });
}

}  // namespace

at::Tensor ConvolutionInputGradient(const ConvolutionShape& shape, const at::Tensor& weight,
                                    const at::Tensor& grads) {
  const at::Tensor w = weight.contiguous();
  std::vector<int64_t> sizes = {grads.size(0), shape.in};
  if (grads.dim() == 4) sizes.push_back(shape.input[0]);
  sizes.push_back(shape.input[1]);
  // Phases without taps leave their inputs without gradients.
  const bool covered = shape.stride[0] == 1 && shape.stride[1] == 1;
  const at::Tensor result =
      covered ? at::empty(sizes, grads.options()) : at::zeros(sizes, grads.options());
  AT_DISPATCH_FLOATING_TYPES(grads.scalar_type(), "ConvolutionInputGradient", [&] {
    InputGradient(shape, w.data_ptr<scalar_t>(), grads.data_ptr<scalar_t>(), grads.size(0),
                  result.data_ptr<scalar_t>());
  });
  return result;
}

at::Tensor ConvolutionPatches(const ConvolutionShape& shape, const at::Tensor& inputs) {
  const at::Tensor x = inputs.contiguous();
  at::Tensor patches;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "ConvolutionPatches", [&] {
    patches = at::empty({x.size(0), shape.groups, PanelCount<scalar_t>(shape), shape.Places(),
                         Kernels<scalar_t>().panel},
                        x.options());
    PackImages(shape, x.data_ptr<scalar_t>(), x.size(0), patches.data_ptr<scalar_t>());
  });
  return patches;
}

at::Tensor ConvolutionWeightJacobian(const ConvolutionShape& shape, const at::Tensor& patches,
                                     const at::Tensor& grads) {
  const at::Tensor g = WithDenseImages(grads);
  const at::Tensor jacobian =
      at::empty({g.size(0), g.size(1), shape.out * shape.PatchSize()}, g.options());
  AT_DISPATCH_FLOATING_TYPES(g.scalar_type(), "ConvolutionWeightJacobian", [&] {
    WeightJacobian<scalar_t>(shape, patches.data_ptr<scalar_t>(), patches.stride(0),
                             SeedGradients<scalar_t>(g), jacobian.data_ptr<scalar_t>());
  });
  return jacobian;
}

void AddConvolutionProducts(const ConvolutionShape& shape, const at::Tensor& patches,
                            const at::Tensor& grads, const at::Tensor& u, const at::Tensor& t,
                            const at::Tensor& g) {
  const at::Tensor dense = WithDenseImages(grads);
  AT_DISPATCH_FLOATING_TYPES(dense.scalar_type(), "AddConvolutionProducts", [&] {
    AddProducts<scalar_t>(shape, patches.data_ptr<scalar_t>(), patches.stride(0),
                          SeedGradients<scalar_t>(dense), u.data_ptr<scalar_t>(), u.size(1),
                          SumsOf(t, g, u));
  });
}

}  // namespace laplaced
