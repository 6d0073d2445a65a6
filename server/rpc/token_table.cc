#include "server/rpc/token_table.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"
#include "formats/sha256.h"

namespace laplaced {
namespace {

using nlohmann::json;

absl::Status Bad(const std::string& field, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": expected ", expected));
}

absl::StatusOr<std::string> TextOf(const json& entry, const std::string& path, const char* name) {
  const auto found = entry.find(name);
  if (found == entry.end() || !found->is_string() || found->get<std::string>().empty()) {
    return Bad(absl::StrCat(path, ".", name), "a text");
  }
  return found->get<std::string>();
}

bool IsDigest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

absl::StatusOr<TokenTable> TokenTable::Parse(absl::string_view text) {
  const json file = json::parse(text.begin(), text.end(), nullptr, false);
  if (file.is_discarded() || !file.is_object()) return Bad("the file", "a JSON object");
  for (const auto& [key, unused] : file.items()) {
    if (key != "tokens") return Bad(key, "nothing but tokens");
  }
  const auto tokens = file.find("tokens");
  if (tokens == file.end() || !tokens->is_array() || tokens->empty()) {
    return Bad("tokens", "a list of at least one token");
  }
  TokenTable table;
  std::set<std::string> names;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::string path = absl::StrCat("tokens[", i, "]");
    const json& entry = (*tokens)[i];
    if (!entry.is_object()) return Bad(path, "an object with name, role and sha256");
    for (const auto& [key, unused] : entry.items()) {
      if (key != "name" && key != "role" && key != "sha256") {
        return Bad(absl::StrCat(path, ".", key), "nothing but name, role and sha256");
      }
    }
    const auto name = TextOf(entry, path, "name"), role = TextOf(entry, path, "role"),
               digest = TextOf(entry, path, "sha256");
    for (const auto* part : {&name, &role, &digest}) {
      if (!part->ok()) return part->status();
    }
    if (*role != "predict" && *role != "admin") {
      return Bad(absl::StrCat(path, ".role"), absl::StrCat("predict or admin, got '", *role, "'"));
    }
    // What came is not shown: it may be the token itself, put there by mistake.
    if (!IsDigest(*digest)) {
      return Bad(absl::StrCat(path, ".sha256"), "64 lower-case hexadecimal digits");
    }
    if (!names.insert(*name).second) {
      return Bad(absl::StrCat(path, ".name"),
                 absl::StrCat("another name than '", *name, "', which an entry before it has"));
    }
    const Holder holder{*name, *role == "admin" ? Role::kAdmin : Role::kPredict};
    if (!table.holders_.emplace(*digest, holder).second) {
      return Bad(absl::StrCat(path, ".sha256"), "another token than that of an entry before it");
    }
  }
  return table;
}

absl::StatusOr<TokenTable> TokenTable::Read(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxTokenFileBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<TokenTable> table = Parse(*text);
  if (table.ok()) return table;
  return absl::Status(table.status().code(), absl::StrCat(path, ": ", table.status().message()));
}

const TokenTable::Holder* TokenTable::Find(absl::string_view token) const {
  const auto found = holders_.find(Sha256Hex(token));
  return found == holders_.end() ? nullptr : &found->second;
}

}  // namespace laplaced
