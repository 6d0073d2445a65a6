#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

// "fc12.linear" is "fc", 12 and ".linear": the last number and what is around it.
struct NumberedName {
  std::string name;
  std::string before;
  int64_t number = -1;
  std::string after;
};

NumberedName Split(const std::string& name) {
  const auto is_digit = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
  size_t end = name.size();
  while (end > 0 && !is_digit(name[end - 1])) --end;
  size_t begin = end;
  while (begin > 0 && is_digit(name[begin - 1])) --begin;
  NumberedName split{name, name.substr(0, begin), -1, name.substr(end)};
  if (!absl::SimpleAtoi(name.substr(begin, end - begin), &split.number)) split.number = -1;
  return split;
}

// Layers from input to output by the one number in which their names differ; empty if they differ
// in more, so that their order is not known.
std::vector<std::string> ByNumber(const std::vector<std::string>& names) {
  std::vector<NumberedName> split;
  for (const std::string& name : names) split.push_back(Split(name));
  for (const NumberedName& name : split) {
    const bool alike = name.before == split[0].before && name.after == split[0].after;
    if (split.size() > 1 && (!alike || name.number < 0)) return {};
  }
  std::sort(split.begin(), split.end(),
            [](const NumberedName& a, const NumberedName& b) { return a.number < b.number; });
  std::vector<std::string> ordered;
  for (const NumberedName& name : split) ordered.push_back(name.name);
  return ordered;
}

}  // namespace

Value WriteMlp(const Architecture& architecture, ForwardWriter& writer) {
  std::vector<std::string> layers = architecture.layers;
  if (layers.empty()) {
    std::vector<std::string> names;
    for (absl::string_view name : writer.Names()) {
      if (absl::ConsumeSuffix(&name, ".weight")) names.emplace_back(name);
    }
    layers = ByNumber(names);
    if (layers.empty() && !names.empty()) {
      const std::string quoted =
          absl::StrJoin(names, ", ", [](std::string* out, const std::string& name) {
            absl::StrAppend(out, "\"", absl::CHexEscape(name), "\"");
          });
      return writer.Stop(
          absl::StrCat("the order of the layers is not clear from their names; state "
                       "architecture.layers, from input to output, made of ",
                       quoted));
    }
    if (layers.empty()) return writer.Stop("no tensor is called <layer>.weight");
  }
  Value x = writer.input();
  if (x.shape.size() != 1) x = writer.Flatten(x);
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool last = i + 1 == layers.size();
    x = writer.Linear(x, layers[i], last ? writer.n_outputs() : kAny);
    if (!last) x = writer.Activate(x, architecture.activation);
  }
  return x;
}

}  // namespace laplaced
