#include "server/serving/fit_identity.h"

#include "absl/strings/str_cat.h"
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
  if (mine.model != first.model || mine.request != first.request) {
    return absl::FailedPreconditionError(
        absl::StrCat("rank 0 fits ", first.model, " with other data sets or options than this one ",
                     mine.model, ": start all ranks again, with the same version of laplaced"));
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
