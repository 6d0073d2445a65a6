#include "server/linalg/ranks.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
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

absl::Status FirstError(const Ranks& ranks, const absl::Status& mine) {
  LAPLACED_ASSIGN_OR_RETURN(
      const at::Tensor codes,
      ranks.Gather(at::full({1}, static_cast<int64_t>(mine.code()), at::kLong)));
  int64_t first = 0;
  while (first < codes.size(0) && codes[first].item<int64_t>() == 0) ++first;
  if (first == codes.size(0)) return absl::OkStatus();
  const std::string text =
      first == ranks.rank() ? absl::StrCat("rank ", first, ": ", mine.message()) : "";
  const at::Tensor part = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), part.data_ptr<uint8_t>());
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor all, ranks.Gather(part));
  const std::string said(static_cast<const char*>(all.data_ptr()), all.nbytes());
  return absl::Status(static_cast<absl::StatusCode>(codes[first].item<int64_t>()), said);
}

Share ShareOf(int64_t n, int64_t rank, int64_t size) {
  // Without the product of n and rank, which may not fit.
  const int64_t each = n / size, more = n % size;
  const int64_t begin = rank * each + std::min(rank, more);
  return {begin, begin + each + (rank < more ? 1 : 0)};
}

}  // namespace laplaced
