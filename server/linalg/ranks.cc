#include "server/linalg/ranks.h"

#include <algorithm>
#include <cstring>

#include "server/linalg/status_macros.h"

namespace laplaced {
namespace {

class Alone : public Ranks {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  absl::Status Sum(at::Tensor&) const override { return absl::OkStatus(); }
  absl::Status Broadcast(at::Tensor&) const override { return absl::OkStatus(); }
  absl::StatusOr<at::Tensor> Gather(const at::Tensor& part) const override { return part; }
};

}  // namespace

const Ranks& OneRank() {
  static const Alone alone;
  return alone;
}

absl::Status BroadcastText(const Ranks& ranks, std::string& text) {
  at::Tensor size = at::full({1}, static_cast<int64_t>(text.size()), at::kLong);
  LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(size));
  at::Tensor bytes = at::zeros({size.item<int64_t>() + 1}, at::kByte);  // never empty
  std::memcpy(bytes.data_ptr(), text.data(),
              std::min<size_t>(text.size(), static_cast<size_t>(size.item<int64_t>())));
  LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(bytes));
  text.assign(static_cast<const char*>(bytes.data_ptr()),
              static_cast<size_t>(size.item<int64_t>()));
  return absl::OkStatus();
}

Share ShareOf(int64_t n, int64_t rank, int64_t size) {
  // Without the product of n and rank, which may not fit.
  const int64_t each = n / size, more = n % size;
  const int64_t begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

}  // namespace laplaced
