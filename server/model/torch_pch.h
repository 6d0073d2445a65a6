// The parts of LibTorch that the statistical core uses, compiled once for all rooms. Do not include
// this file: include what you use; the build puts this in front.
#pragma once

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/script.h>
