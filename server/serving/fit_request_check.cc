#include "server/serving/fit_request_check.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

// The API's name of a word; the default by what it stands for.
std::string NameOf(const char* enumeration, const std::string& word, const char* default_word) {
  const std::string name =
      absl::StrCat(enumeration, "_", absl::AsciiStrToUpper(word.empty() ? default_word : word));
  return word.empty() ? absl::StrCat(name, " (the default)") : name;
}

std::string StructureName(const FitRequest& request) {
  return NameOf("POSTERIOR_STRUCTURE", request.structure, "low_rank");
}

std::string DebiasingName(const FitRequest& request) {
  return NameOf("DEBIASING_STRATEGY", request.debiasing, "two_batch");
}

bool IsLowRank(const FitRequest& request) {
  return request.structure.empty() || request.structure == "low_rank";
}

// What goes with which structure.
absl::Status CheckStructure(const FitRequest& request) {
  const bool two_passes = request.debiasing == "cross_fit" || request.debiasing == "full_pass";
  const bool low_rank = IsLowRank(request);
  if (two_passes && !low_rank) {
    return FieldError(
        "options.debiasing",
        absl::StrCat("expected DEBIASING_STRATEGY_NONE or ", "DEBIASING_STRATEGY_TWO_BATCH with ",
                     StructureName(request), ", got ", DebiasingName(request)));
  }
  if (!low_rank && !request.residual.empty()) {
    return FieldError(
        "options.residual",
        absl::StrCat("expected nothing with ", StructureName(request), ", which leaves no ",
                     "residual, got ", NameOf("RESIDUAL_KIND", request.residual, "")));
  }
  if (!low_rank && request.curvature == "hessian") {
    return FieldError(
        "options.curvature",
        absl::StrCat("expected CURVATURE_KIND_HESSIAN only with ",
                     "POSTERIOR_STRUCTURE_LOW_RANK, got it with ", StructureName(request)));
  }
  if (!low_rank && request.variance_correction) {
    return FieldError("options.variance_correction",
                      absl::StrCat("expected true only with POSTERIOR_STRUCTURE_LOW_RANK, got it ",
                                   "with ", StructureName(request)));
  }
  if (!request.kfac_eigenvalues.empty() && request.structure != "kfac") {
    return FieldError("options.kfac_eigenvalues",
                      absl::StrCat("expected nothing but with POSTERIOR_STRUCTURE_KFAC, got ",
                                   NameOf("KFAC_EIGENVALUES", request.kfac_eigenvalues, ""),
                                   " with ", StructureName(request)));
  }
  return absl::OkStatus();
}

// Options that the chosen structure has no use for.
absl::Status CheckUseless(const FitRequest& request) {
  if (IsLowRank(request)) return absl::OkStatus();
  const bool last_layer = request.structure == "last_layer";
  const struct {
    const char* field;
    bool given;
    bool refused;
  } useless[] = {
      {"options.rank", request.rank != 0, true},
      {"options.lanczos_tolerance", request.lanczos_tolerance != 0, true},
      {"options.max_products", request.max_products != 0, true},
      {"options.memory_limit_bytes", request.memory_limit_bytes != 0, true},
      {"options.target_relative_standard_error", request.target_relative_standard_error != 0, true},
      {"options.debiasing", !request.debiasing.empty(), last_layer},
      {"options.direction_batch_size", request.direction_batch_size != 0, last_layer},
      {"options.curvature_batch_size", request.curvature_batch_size != 0, last_layer}};
  for (const auto& option : useless) {
    if (!option.given || !option.refused) continue;
    return FieldError(
        option.field,
        absl::StrCat("has no meaning with ", StructureName(request),
                     last_layer ? ", which uses all training data and no batches" : "",
                     ": leave it out"));
  }
  return absl::OkStatus();
}

absl::Status CheckParameters(const FitRequest& request) {
  if (request.structure == "last_layer" && !request.parameters.empty()) {
    return FieldError("options.parameters",
                      absl::StrCat("expected none with POSTERIOR_STRUCTURE_LAST_LAYER, whose ",
                                   "parameters GetModel lists, got ", request.parameters.size()));
  }
  for (size_t i = 0; i < request.parameters.size(); ++i) {
    if (!request.parameters[i].empty()) continue;
    return FieldError(absl::StrCat("options.parameters[", i, "]"),
                      "expected the name of a parameter, or a pattern with * and ?, got an empty "
                      "text");
  }
  return absl::OkStatus();
}

// How curvature is measured.
absl::Status CheckMeasuring(const FitRequest& request) {
  if (request.curvature_batch_size != 0 && request.debiasing == "none") {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected 0 with DEBIASING_STRATEGY_NONE, which measures on the "
                                   "batch that chose the directions, got ",
                                   request.curvature_batch_size));
  }
  if (request.curvature_batch_size != 0 && request.debiasing == "full_pass") {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected 0 with DEBIASING_STRATEGY_FULL_PASS, which measures "
                                   "on all training data, got ",
                                   request.curvature_batch_size));
  }
  const bool may_stop = request.debiasing != "none" && request.debiasing != "cross_fit";
  if (request.target_relative_standard_error != 0 && !may_stop) {
    return FieldError("options.target_relative_standard_error",
                      absl::StrCat("expected 0 with ", DebiasingName(request),
                                   "; measuring can stop early with DEBIASING_STRATEGY_TWO_BATCH "
                                   "and DEBIASING_STRATEGY_FULL_PASS only; got ",
                                   request.target_relative_standard_error));
  }
  if (request.fisher_samples != 0 && request.curvature != "mc_fisher") {
    return FieldError(
        "options.fisher_samples",
        absl::StrCat("expected 0 but with CURVATURE_KIND_MC_FISHER, got ", request.fisher_samples,
                     " with ", NameOf("CURVATURE_KIND", request.curvature, "ggn")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFitRequest(const FitRequest& request) {
  absl::Status status = CheckStructure(request);
  status.Update(CheckUseless(request));
  status.Update(CheckParameters(request));
  status.Update(CheckMeasuring(request));
  return status;
}

}  // namespace laplaced
