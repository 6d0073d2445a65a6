#include "server/model/manifest.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "formats/sha256.h"
#include "server/model/architecture_json.h"
#include "server/model/json_object_reader.h"

namespace laplaced {
namespace {

using Kind = Likelihood::Kind;
using Json = nlohmann::json;
using ObjectReader = JsonObjectReader;

std::string LikelihoodName(Kind kind) {
  switch (kind) {
    case Kind::kCategorical:
      return "categorical";
    case Kind::kGaussian:
      return "gaussian";
    case Kind::kBernoulli:
      break;
  }
  return "bernoulli";
}

void ReadLikelihood(ObjectReader& reader, Manifest& manifest) {
  const std::string likelihood = reader.Text("likelihood", true);
  for (Kind kind : {Kind::kCategorical, Kind::kGaussian, Kind::kBernoulli}) {
    if (likelihood == LikelihoodName(kind)) manifest.likelihood.kind = kind;
  }
  if (likelihood != LikelihoodName(manifest.likelihood.kind)) {
    reader.Fail("likelihood",
                absl::StrCat("expected \"categorical\", \"gaussian\" or \"bernoulli\", got \"",
                             likelihood, "\""));
  }
  if (manifest.likelihood.kind == Kind::kGaussian) {
    manifest.likelihood.sigma_noise = reader.Positive("sigma_noise", false);
  }
  manifest.n_outputs = reader.Count("n_outputs", true);
  if (likelihood == "categorical" && manifest.n_outputs == 1) {
    reader.Fail("n_outputs",
                "expected at least 2 with a categorical likelihood; for a binary classifier with "
                "one logit write \"likelihood\": \"bernoulli\" (labels 0 or 1, floating point, of "
                "shape [N, 1]), or export two logits, [0, f]");
  }
}

void ReadWeightDecay(ObjectReader& reader, Manifest& manifest) {
  manifest.weight_decay = reader.Positive("weight_decay", false, /*zero_allowed=*/true);
  const bool stated = reader.Find("bias_weight_decay", false) != nullptr;
  manifest.bias_weight_decay =
      stated ? reader.Positive("bias_weight_decay", false, /*zero_allowed=*/true)
             : manifest.weight_decay;
  if (stated && manifest.weight_decay == 0) {
    reader.Fail("bias_weight_decay", "needs weight_decay > 0 beside it");
  } else if (stated && manifest.bias_weight_decay == 0) {
    reader.Fail("bias_weight_decay",
                "expected a number > 0: without decay the prior of these parameters would be flat, "
                "which is improper; give a small number instead");
  }
}

absl::Status ReadInput(const std::string& file, const Json& object, Manifest& manifest) {
  ObjectReader reader(file, "input.", object);
  manifest.input_shape = reader.List<int64_t>(
      "shape", true, "expected a list of positive whole numbers (one example, without the batch)",
      [](const Json& item) {
        return item.is_number_integer() && item.get<double>() >= 1 && item.get<double>() < 1e9;
      });
  const absl::StatusOr<int64_t> size = NumElements(manifest.input_shape);
  if (!size.ok() || *size > (int64_t{1} << 31)) reader.Fail("shape", "is too large");
  manifest.input_dtype = reader.Text("dtype", false);
  if (!manifest.input_dtype.empty() && manifest.input_dtype != "float32" &&
      manifest.input_dtype != "float64") {
    reader.Fail("dtype", "expected \"float32\" or \"float64\"");
  }
  manifest.uint8_scale = reader.Positive("uint8_scale", false);
  manifest.accepts_uint8 = manifest.uint8_scale > 0;
  const auto is_number = [](const Json& item) { return item.is_number(); };
  manifest.uint8_mean =
      reader.List<double>("uint8_mean", false, "expected a list of numbers", is_number);
  manifest.uint8_std =
      reader.List<double>("uint8_std", false, "expected a list of numbers", is_number);
  const size_t channels = manifest.input_shape.empty() ? 0 : manifest.input_shape[0];
  for (const auto& [key, list] : {std::pair{"uint8_mean", &manifest.uint8_mean},
                                  std::pair{"uint8_std", &manifest.uint8_std}}) {
    if (!list->empty() && (!manifest.accepts_uint8 || list->size() != channels)) {
      reader.Fail(key, absl::StrCat("expected one number per channel (", channels,
                                    "), and uint8_scale beside it"));
    }
  }
  for (double s : manifest.uint8_std) {
    if (s <= 0) reader.Fail("uint8_std", "expected numbers > 0");
  }
  return reader.Finish();
}

}  // namespace

absl::StatusOr<Manifest> ParseManifest(const std::string& file_name, const std::string& json) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(file_name, ": expected a JSON object"));
  }
  Manifest manifest;
  ObjectReader reader(file_name, "", object);
  ReadLikelihood(reader, manifest);
  manifest.class_names =
      reader.List<std::string>("class_names", false, "expected a list of strings",
                               [](const Json& item) { return item.is_string(); });
  if (!manifest.class_names.empty() &&
      static_cast<int64_t>(manifest.class_names.size()) != manifest.n_outputs) {
    reader.Fail("class_names", absl::StrCat("expected n_outputs = ", manifest.n_outputs,
                                            " names, got ", manifest.class_names.size()));
  }
  manifest.n_data = reader.Count("n_data", false);
  ReadWeightDecay(reader, manifest);
  manifest.description = reader.Text("description", false);
  const Json* architecture = reader.Find("architecture", false);
  const Json* input = reader.Find("input", true);
  if (input != nullptr && !input->is_object()) reader.Fail("input", "expected an object");
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  if (absl::Status status = ReadInput(file_name, *input, manifest); !status.ok()) return status;
  if (architecture != nullptr) {
    absl::StatusOr<Architecture> read = ParseArchitecture(file_name, *architecture);
    if (!read.ok()) return read.status();
    manifest.architecture = *std::move(read);
  }
  return manifest;
}

std::string ManifestFingerprint(const Manifest& manifest) {
  Json identity = {
      {"likelihood", LikelihoodName(manifest.likelihood.kind)},
      {"sigma_noise", manifest.likelihood.sigma_noise},
      {"input_shape", manifest.input_shape},
      {"uint8_scale", manifest.uint8_scale},
      {"uint8_mean", manifest.uint8_mean},
      {"uint8_std", manifest.uint8_std},
      {"n_outputs", manifest.n_outputs},
      {"n_data", manifest.n_data},
      {"weight_decay", manifest.weight_decay},
  };
  if (manifest.bias_weight_decay != manifest.weight_decay) {
    identity["bias_weight_decay"] = manifest.bias_weight_decay;
  }
  if (!manifest.architecture.name.empty()) {
    identity["architecture"] = ArchitectureJson(manifest.architecture);
  }
  return Sha256Hex(identity.dump());
}

}  // namespace laplaced
