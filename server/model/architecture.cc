#include "server/model/architecture.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/architecture_json.h"
#include "server/model/json_object_reader.h"

namespace laplaced {
namespace {

using Family = ArchitectureFamily;
using Json = nlohmann::json;

struct NamedFamily {
  const char* name;
  Family family;
};

constexpr NamedFamily kArchitectures[] = {
    {"mlp", Family::kMlp},
    {"lenet", Family::kLenet},
    {"all_cnn_c", Family::kAllCnnC},
    {"resnet20", Family::kCifarResnet},
    {"resnet32", Family::kCifarResnet},
    {"resnet44", Family::kCifarResnet},
    {"resnet56", Family::kCifarResnet},
    {"resnet110", Family::kCifarResnet},
    {"wide_resnet_16_4", Family::kWideResnet},
    {"wide_resnet_28_10", Family::kWideResnet},
    {"wide_resnet_40_2", Family::kWideResnet},
    {"wide_resnet_40_4", Family::kWideResnet},
    {"resnet18", Family::kResnet},
    {"resnet34", Family::kResnet},
    {"resnet50", Family::kResnet},
    {"resnet101", Family::kResnet},
    {"resnet152", Family::kResnet},
    {"vit_little", Family::kVit},
    {"vit", Family::kVit},
};

// One of `words`; empty if the key is absent, or says the first of them and that is the default.
std::string Word(JsonObjectReader& reader, const std::string& key,
                 const std::vector<std::string>& words, bool first_is_default) {
  const std::string word = reader.Text(key, /*required=*/false);
  if (word.empty() && reader.Find(key, /*required=*/false) == nullptr) return "";
  if (std::find(words.begin(), words.end(), word) == words.end()) {
    reader.Fail(key, absl::StrCat("expected \"", absl::StrJoin(words, "\" or \""), "\", got \"",
                                  word, "\""));
  }
  return first_is_default && word == words.front() ? "" : word;
}

std::string Activation(JsonObjectReader& reader) {
  return Word(reader, "activation", {"relu", "tanh", "sigmoid", "gelu", "silu"},
              /*first_is_default=*/true);
}

void ReadOptions(JsonObjectReader& reader, Architecture& architecture) {
  switch (architecture.family) {
    case Family::kMlp:
      architecture.activation = Activation(reader);
      architecture.layers = reader.List<std::string>(
          "layers", false, "expected a list of names of layers, from input to output",
          [](const Json& item) { return item.is_string() && !item.get<std::string>().empty(); });
      break;
    case Family::kLenet: {
      architecture.activation = Activation(reader);
      architecture.pool = Word(reader, "pool", {"max", "avg"}, /*first_is_default=*/true);
      const Json* padding = reader.Find("padding", false);
      if (padding == nullptr) break;
      if (!padding->is_number_integer() || *padding < 0 || *padding > 1000) {
        reader.Fail("padding", "expected a whole number from 0 to 1000");
        break;
      }
      architecture.first_padding = padding->get<int64_t>();
      break;
    }
    case Family::kAllCnnC:
      architecture.padding =
          Word(reader, "padding", {"symmetric", "tensorflow"}, /*first_is_default=*/true);
      break;
    case Family::kCifarResnet:
      architecture.shortcut = Word(reader, "shortcut", {"A", "B"}, /*first_is_default=*/false);
      break;
    case Family::kWideResnet:
    case Family::kResnet:
      break;
    case Family::kVit:
      architecture.heads = reader.Count("heads", false);
      architecture.pool = Word(reader, "pool", {"token", "avg"}, /*first_is_default=*/false);
      break;
  }
}

}  // namespace

std::vector<std::string> ArchitectureNames() {
  std::vector<std::string> names;
  for (const NamedFamily& known : kArchitectures) names.push_back(known.name);
  return names;
}

absl::StatusOr<Architecture> ParseArchitecture(const std::string& file_name, const Json& value) {
  Json object = value;
  if (value.is_string()) object = {{"name", value}};
  if (!object.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(
        file_name, ": architecture: expected a name or an object with the key \"name\""));
  }
  JsonObjectReader reader(file_name, "architecture.", object);
  Architecture architecture;
  architecture.name = reader.Text("name", /*required=*/true);
  bool known = false;
  for (const NamedFamily& named : kArchitectures) {
    if (architecture.name != named.name) continue;
    architecture.family = named.family;
    known = true;
  }
  if (known) {
    ReadOptions(reader, architecture);
  } else {
    reader.Fail("name",
                absl::StrCat("expected one of ", absl::StrJoin(ArchitectureNames(), ", "),
                             ", got \"", architecture.name,
                             "\"; export another network as TorchScript, without this key"));
  }
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return architecture;
}

Json ArchitectureJson(const Architecture& architecture) {
  Json object = {{"name", architecture.name}};
  if (!architecture.activation.empty()) object["activation"] = architecture.activation;
  if (!architecture.layers.empty()) object["layers"] = architecture.layers;
  if (!architecture.pool.empty()) object["pool"] = architecture.pool;
  if (!architecture.padding.empty()) object["padding"] = architecture.padding;
  if (architecture.first_padding != 0) object["padding"] = architecture.first_padding;
  if (!architecture.shortcut.empty()) object["shortcut"] = architecture.shortcut;
  if (architecture.heads != 0) object["heads"] = architecture.heads;
  return object;
}

}  // namespace laplaced
