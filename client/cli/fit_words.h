// Words of the command line, and of JSON, for the choices that a fit has: one table per choice, in
// the order of --help.
//
// Constants and free functions; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/cpp/fit_types.h"

namespace laplace::cli {

template <typename Enum>
struct ChoiceWord {
  Enum value;
  const char* word;
};

inline constexpr ChoiceWord<client::Structure> kStructureWords[] = {
    {client::Structure::kLowRank, "low-rank"},
    {client::Structure::kKfac, "kfac"},
    {client::Structure::kLastLayer, "last-layer"}};

inline constexpr ChoiceWord<client::Curvature> kCurvatureWords[] = {
    {client::Curvature::kGgn, "ggn"},
    {client::Curvature::kMcFisher, "mc-fisher"},
    {client::Curvature::kEmpiricalFisher, "empirical-fisher"},
    {client::Curvature::kHessian, "hessian"}};

inline constexpr ChoiceWord<client::Debiasing> kDebiasingWords[] = {
    {client::Debiasing::kTwoBatch, "two-batch"},
    {client::Debiasing::kNone, "none"},
    {client::Debiasing::kCrossFit, "cross-fit"},
    {client::Debiasing::kFullPass, "full-pass"}};

inline constexpr ChoiceWord<client::Residual> kResidualWords[] = {
    {client::Residual::kLayerwise, "layerwise"},
    {client::Residual::kIsotropic, "isotropic"},
    {client::Residual::kDiagonal, "diagonal"},
    {client::Residual::kNone, "none"}};

inline constexpr ChoiceWord<client::KfacEigenvalues> kKfacEigenvaluesWords[] = {
    {client::KfacEigenvalues::kExact, "exact"}, {client::KfacEigenvalues::kFactors, "factors"}};

inline constexpr ChoiceWord<client::PriorMethod> kPriorMethodWords[] = {
    {client::PriorMethod::kGiven, "given"},
    {client::PriorMethod::kWeightDecay, "weight-decay"},
    {client::PriorMethod::kEvidence, "evidence"},
    {client::PriorMethod::kValidation, "validation"}};

inline constexpr ChoiceWord<client::NoiseMethod> kNoiseMethodWords[] = {
    {client::NoiseMethod::kGiven, "given"},
    {client::NoiseMethod::kManifest, "manifest"},
    {client::NoiseMethod::kData, "data"},
    {client::NoiseMethod::kEvidence, "evidence"}};

// "default" for what is in no table.
template <typename Enum, size_t kSize>
const char* WordOf(const ChoiceWord<Enum> (&table)[kSize], Enum value) {
  for (const auto& choice : table) {
    if (choice.value == value) return choice.word;
  }
  return "default";
}

// The default for a word that is not in the table.
template <typename Enum, size_t kSize>
Enum ChoiceOf(const ChoiceWord<Enum> (&table)[kSize], absl::string_view word) {
  for (const auto& choice : table) {
    if (choice.word == word) return choice.value;
  }
  return Enum::kDefault;
}

template <typename Enum, size_t kSize>
std::vector<std::string> WordsOf(const ChoiceWord<Enum> (&table)[kSize]) {
  std::vector<std::string> words;
  for (const auto& choice : table) words.push_back(choice.word);
  return words;
}

}  // namespace laplace::cli
