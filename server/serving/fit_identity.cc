#include "server/serving/fit_identity.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/registry/record_json.h"
#include "server/serving/fit_crew.h"

namespace laplaced {
namespace {

template <typename Visitor>
void VisitFields(FitIdentity& identity, Visitor& visit) {
  visit("program", identity.program);
  visit("model", identity.model);
  visit("checkpoint_sha256", identity.checkpoint_sha256);
  visit("manifest_fingerprint", identity.manifest_fingerprint);
  visit("request", identity.request);
}

std::string Shown(const Json& options, const std::string& name) {
  return options.contains(name) ? options[name].dump() : "nothing";
}

// The options that differ, with both values; empty if there are none.
std::string Differences(const std::string& first, const std::string& mine) {
  const Json theirs = Json::parse(first, nullptr, /*allow_exceptions=*/false);
  const Json ours = Json::parse(mine, nullptr, /*allow_exceptions=*/false);
  if (!theirs.is_object() || !ours.is_object()) return "they cannot be read";
  Json all = ours;
  all.update(theirs);
  std::vector<std::string> differences;
  for (const auto& [name, unused] : all.items()) {
    const std::string here = Shown(ours, name), there = Shown(theirs, name);
    if (here == there) continue;
    differences.push_back(absl::StrCat(name, " is ", here, ", but ", there, " on rank 0"));
  }
  return absl::StrJoin(differences, "; ");
}

std::string Start(const std::string& hash) { return hash.substr(0, 12); }

absl::Status FilesDiffer(const FitIdentity& first, const std::string& what,
                         const std::string& details) {
  return absl::FailedPreconditionError(absl::StrCat(
      what, " of ", first.model, " in the registry is not what rank 0 has loaded", details,
      ": the version's files were changed, or the ranks see different registries. Unload and load "
      "the model, or start the ranks again on one registry"));
}

}  // namespace

FitIdentity IdentityOf(const LoadedModel& model, const FitRequest& request) {
  return {LAPLACED_VERSION, absl::StrCat(model.info.name, "/", model.info.version),
          model.info.checkpoint_sha256, ManifestFingerprint(model.manifest),
          EncodeFitRequest(request)};
}

absl::Status CheckSameFit(const FitIdentity& first, const FitIdentity& mine) {
  if (mine.program != first.program) {
    return absl::FailedPreconditionError(absl::StrCat("this is version ", mine.program,
                                                      " of laplaced, rank 0 is ", first.program,
                                                      ": start all ranks with the same one"));
  }
  if (mine.model != first.model) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this rank fits ", mine.model, ", rank 0 ", first.model, ": start all ranks for the same"));
  }
  if (const std::string differences = Differences(first.request, mine.request);
      !differences.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the ranks were not started with the same data sets and options: ", differences));
  }
  if (mine.checkpoint_sha256 != first.checkpoint_sha256) {
    return FilesDiffer(first, "the checkpoint",
                       absl::StrCat(" (sha256 ", Start(mine.checkpoint_sha256), "..., loaded ",
                                    Start(first.checkpoint_sha256), "...)"));
  }
  if (mine.manifest_fingerprint != first.manifest_fingerprint) {
    return FilesDiffer(first, "model.json", "");
  }
  return absl::OkStatus();
}

std::string EncodeFitIdentity(const FitIdentity& identity) {
  FitIdentity copy = identity;
  FieldWriter fields;
  VisitFields(copy, fields);
  return fields.object().dump();
}

absl::StatusOr<FitIdentity> DecodeFitIdentity(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError("the identity of a fit is damaged");
  FitIdentity identity;
  FieldReader fields(json);
  VisitFields(identity, fields);
  if (!fields.status().ok()) return absl::DataLossError(fields.status().message());
  return identity;
}

}  // namespace laplaced
