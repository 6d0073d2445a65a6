// The file of tokens.
#include "absl/strings/str_cat.h"
#include "formats/sha256.h"
#include "server/rpc/token_table.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;

void Run(absl::string_view input) {
  absl::StatusOr<TokenTable> table;
  {
    const HeapBound bound(input.size(), 64, 64 << 10);
    table = TokenTable::Parse(input);
  }
  RequireStatus(table.status(), {absl::StatusCode::kInvalidArgument});
  if (!table.ok()) return;
  Require(table->size() >= 1, "a table without tokens");
  // No part of the file is a token that its hashes let in, but "secret", of which a seed has the
  // hash.
  for (const absl::string_view token : {input, absl::string_view("")}) {
    Require(table->Find(token) == nullptr, "somebody is let in who has no token");
  }
}

std::vector<std::string> Seeds() {
  const std::string entry =
      absl::StrCat(R"({"name": "ci", "role": "admin", "sha256": ")", Sha256Hex("secret"), "\"}");
  const std::string other =
      absl::StrCat(R"({"name": "x", "role": "predict", "sha256": ")", Sha256Hex("another"), "\"}");
  return {absl::StrCat("{\"tokens\": [", entry, "]}"),
          absl::StrCat("{\"tokens\": [", entry, ", ", other, "]}")};
}

LAPLACED_FUZZ_TARGET(tokens, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
