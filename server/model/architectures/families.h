// The networks that architecture.h names, one function each: the forward pass, and how the tensors
// of a file are called. Depths, widths, kernels and classes come from the tensors, unless said
// otherwise. Inputs are [channels, height, width], for an MLP of any shape. Batch norm and dropout
// are in evaluation mode. Functions write into `writer` and return the outputs; thread-safe.
#pragma once

#include "server/model/architecture.h"
#include "server/model/architectures/forward_writer.h"

namespace laplaced {

// Linear layers with an activation between: "<layer>.weight" [out, in] and, if there is one,
// "<layer>.bias". Inputs are flattened.
Value WriteMlp(const Architecture& architecture, ForwardWriter& writer);

// LeNet-5 and its like (LeCun et al. 1998): conv1, conv2, ..., each with an activation and pooling
// of 2 x 2, then fc1, fc2, ... with activations between; as many of either as the file has.
Value WriteLenet(const Architecture& architecture, ForwardWriter& writer);

// ALL-CNN-C (Springenberg et al. 2015): conv1 to conv9, of 3 x 3, the third and sixth with stride
// 2, the seventh without padding, the last two of 1 x 1; ReLU after each, the last too; global
// mean. Where the stride is 2, "symmetric" pads one pixel on every side, as PyTorch does, and
// "tensorflow" pads an even side by one pixel at its end only, as TensorFlow's "same" (and DeepOBS)
// does.
Value WriteAllCnnC(const Architecture& architecture, ForwardWriter& writer);

// ResNets for CIFAR (He et al. 2015, section 4.2) of depth 6 n + 2, with the names of
// akamaster/pytorch_resnet_cifar10: conv1, bn1, layer1.0.conv1, ..., linear. Shortcuts where the
// shape changes: "A" takes every second pixel and pads channels with zeros, "B" is a 1 x 1
// convolution (layer2.0.shortcut.0) with batch norm (.1).
Value WriteCifarResnet(const Architecture& architecture, ForwardWriter& writer);

// Wide ResNets (Zagoruyko & Komodakis 2016) of depth 6 n + 4, with the names of
// xternalz/WideResNet-pytorch: conv1, block1.layer.0.bn1, .conv1, .bn2, .conv2, .convShortcut, ...,
// bn1, fc. The second number of a name is not checked: widths come from the tensors.
Value WriteWideResnet(const Architecture& architecture, ForwardWriter& writer);

// ResNets for ImageNet (He et al. 2015) with torchvision's names: conv1, bn1, layer1.0.conv1, ...,
// layer2.0.downsample.0, ..., fc. Strides are on the 3 x 3 convolutions, as torchvision has them.
Value WriteResnet(const Architecture& architecture, ForwardWriter& writer);

// Vision transformers with pre-norm blocks (Dosovitskiy et al. 2021), with the names of timm's
// VisionTransformer: patch_embed.proj, pos_embed, blocks.0.norm1, blocks.0.attn.qkv, ..., head.
// Each of these if the file has it: cls_token, reg_token (registers), norm_pre, layer scale
// (blocks.0.ls1.gamma), norm (before pooling), fc_norm (after it). "token" takes the class token,
// "avg" the mean of the patches; unless it is stated, "avg" if there is fc_norm or no class token.
// Positions are added before the extra tokens join if pos_embed has none for these. GELU is exact,
// layer norm has epsilon 1e-6. "vit_little" is timm's vit_little_patch16_reg4_gap_256 (14 blocks,
// width 320, 5 heads, 4 registers, layer scale): a "vit" that must have 14 blocks.
Value WriteVit(const Architecture& architecture, ForwardWriter& writer);

}  // namespace laplaced
