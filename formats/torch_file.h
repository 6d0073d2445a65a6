// The two containers of torch.save: ZIP archives, and before PyTorch 1.6 pickles one after another.
//
// Internal to this folder; weights_file.h is the interface and says what is promised. Messages do
// not name the file.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/weights_file.h"

namespace laplaced {

bool IsTorchZip(absl::string_view bytes);
bool IsTorchLegacy(absl::string_view bytes);

// REQUIRES: IsTorchZip.
absl::StatusOr<Weights> ParseTorchZip(absl::string_view bytes, int64_t max_bytes);
// REQUIRES: IsTorchLegacy.
absl::StatusOr<Weights> ParseTorchLegacy(absl::string_view bytes, int64_t max_bytes);

}  // namespace laplaced
