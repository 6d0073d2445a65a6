#include "server/offline/same_fit.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/torch_status.h"
#include "server/registry/sealed_json.h"
#include "server/serving/fit_crew.h"

namespace laplaced {
namespace {

// All that must be the same, by name.
Json Terms(const FitCommand& command, const FitRequest& request, const LoadedModel& model) {
  Json terms = Json::parse(EncodeFitRequest(request));
  terms["resume"] = command.resume;
  terms["checkpoint_sha256"] = model.info.checkpoint_sha256;
  terms["manifest_fingerprint"] = ManifestFingerprint(model.manifest);
  terms["laplace-fit"] = LAPLACED_VERSION;
  return terms;
}

std::string Shown(const Json& terms, const std::string& name) {
  return terms.contains(name) ? terms[name].dump() : "nothing";
}

// The terms that differ, with both values; empty if there are none.
std::string Differences(const Json& mine, const Json& of_rank_0) {
  std::vector<std::string> differences;
  const auto add = [&](const std::string& name) {
    differences.push_back(absl::StrCat(name, " is ", Shown(mine, name), ", but ",
                                       Shown(of_rank_0, name), " on rank 0"));
  };
  for (const auto& [name, value] : mine.items()) {
    if (!of_rank_0.contains(name) || of_rank_0[name] != value) add(name);
  }
  for (const auto& [name, value] : of_rank_0.items()) {
    if (!mine.contains(name)) add(name);
  }
  return absl::StrJoin(differences, "; ");
}

}  // namespace

absl::Status CheckSameFit(const FitCommand& command, const FitRequest& request,
                          const LoadedModel& model, const Ranks& ranks) {
  if (ranks.size() == 1) return absl::OkStatus();
  return CatchTorch("options", [&]() -> absl::Status {
    std::string text = Terms(command, request, model).dump();
    const Json mine = Json::parse(text);
    LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks, text));
    const std::string differences = Differences(mine, Json::parse(text));
    if (!differences.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the ranks were not started with the same options, model and program: ", differences));
    }
    // Until all have compared.
    at::Tensor nothing = at::zeros({1}, at::kLong);
    return ranks.Sum(nothing);
  });
}

}  // namespace laplaced
