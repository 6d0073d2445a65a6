#include "server/rpc/client_text.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace laplaced {
namespace {

struct HiddenFolders {
  std::mutex mutex;
  std::vector<std::string> prefixes;  // each ends with a slash
};

HiddenFolders& Hidden() {
  static HiddenFolders folders;
  return folders;
}

bool IsOfPath(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '/' || c == '.' || c == '_' ||
         c == '-';
}

std::string WithoutPrefix(const std::string& text, const std::string& prefix) {
  std::string shown;
  size_t begin = 0;
  for (size_t found; (found = text.find(prefix, begin)) != std::string::npos;) {
    shown.append(text, begin, found - begin);
    // "srv/" is another folder in "/data/srv/".
    if (found > 0 && IsOfPath(text[found - 1])) shown += prefix;
    begin = found + prefix.size();
  }
  return shown.append(text, begin, std::string::npos);
}

}  // namespace

void HideFolder(const std::string& folder) {
  absl::string_view bare = folder;
  while (absl::ConsumeSuffix(&bare, "/")) {
  }
  if (bare.empty() || bare == ".") return;
  const std::string prefix = absl::StrCat(bare, "/");
  HiddenFolders& hidden = Hidden();
  std::lock_guard<std::mutex> lock(hidden.mutex);
  const bool known = std::count(hidden.prefixes.begin(), hidden.prefixes.end(), prefix) > 0;
  if (!known) hidden.prefixes.push_back(prefix);
}

std::string ClientText(absl::string_view text) {
  HiddenFolders& hidden = Hidden();
  std::lock_guard<std::mutex> lock(hidden.mutex);
  std::string shown(text);
  for (const std::string& prefix : hidden.prefixes) shown = WithoutPrefix(shown, prefix);
  return shown;
}

}  // namespace laplaced
