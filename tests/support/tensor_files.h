// Tensors as files that Python reads and writes. For tests.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <stdexcept>
#include <string>

#include "formats/npz.h"

namespace laplaced::test_support {

// fp64 tensors and int64 ones under their names.
inline void WriteTensors(const std::string& path,
                         const std::map<std::string, at::Tensor>& tensors) {
  std::map<std::string, Array> arrays;
  for (const auto& [name, tensor] : tensors) {
    const bool whole = at::isIntegralType(tensor.scalar_type(), true);
    const at::Tensor t = tensor.to(whole ? at::kLong : at::kDouble).contiguous();
    Array array{whole ? DType::kInt64 : DType::kFloat64, t.sizes().vec(), ""};
    array.bytes.assign(static_cast<const char*>(t.data_ptr()), t.nbytes());
    arrays[name] = std::move(array);
  }
  const absl::Status status = WriteNpz(path, arrays, NpzCompression::kStored);
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// fp64 arrays of an npz file.
inline std::map<std::string, at::Tensor> ReadTensors(const std::string& path) {
  const auto arrays = ReadNpz(path);
  if (!arrays.ok()) throw std::runtime_error(arrays.status().ToString());
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, array] : *arrays) {
    if (array.dtype != DType::kFloat64) throw std::runtime_error(name + " is not float64");
    tensors[name] =
        at::from_blob(const_cast<double*>(array.data<double>()), array.shape, at::kDouble).clone();
  }
  return tensors;
}

}  // namespace laplaced::test_support
