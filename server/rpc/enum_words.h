// Enums of the API and the words that the server's requests and records have for them: one table
// per enum, for both directions.
//
// The zero of an enum, UNSPECIFIED, is in no table: its word is the empty text. Constants and free
// functions; thread-safe.
#pragma once

#include <google/protobuf/generated_enum_reflection.h>
#include <laplace/v1/posterior.pb.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace laplaced {

template <typename Enum>
struct EnumWord {
  Enum value;
  absl::string_view word;
};

inline constexpr EnumWord<laplace::v1::DebiasingStrategy> kDebiasingWords[] = {
    {laplace::v1::DEBIASING_STRATEGY_NONE, "none"},
    {laplace::v1::DEBIASING_STRATEGY_TWO_BATCH, "two_batch"},
    {laplace::v1::DEBIASING_STRATEGY_CROSS_FIT, "cross_fit"},
    {laplace::v1::DEBIASING_STRATEGY_FULL_PASS, "full_pass"}};

inline constexpr EnumWord<laplace::v1::ResidualKind> kResidualWords[] = {
    {laplace::v1::RESIDUAL_KIND_NONE, "none"},
    {laplace::v1::RESIDUAL_KIND_ISOTROPIC, "isotropic"},
    {laplace::v1::RESIDUAL_KIND_LAYERWISE, "layerwise"},
    {laplace::v1::RESIDUAL_KIND_DIAGONAL, "diagonal"}};

inline constexpr EnumWord<laplace::v1::PosteriorStructure> kStructureWords[] = {
    {laplace::v1::POSTERIOR_STRUCTURE_LOW_RANK, "low_rank"},
    {laplace::v1::POSTERIOR_STRUCTURE_KFAC, "kfac"},
    {laplace::v1::POSTERIOR_STRUCTURE_LAST_LAYER, "last_layer"}};

inline constexpr EnumWord<laplace::v1::CurvatureKind> kCurvatureWords[] = {
    {laplace::v1::CURVATURE_KIND_GGN, "ggn"},
    {laplace::v1::CURVATURE_KIND_MC_FISHER, "mc_fisher"},
    {laplace::v1::CURVATURE_KIND_EMPIRICAL_FISHER, "empirical_fisher"},
    {laplace::v1::CURVATURE_KIND_HESSIAN, "hessian"}};

inline constexpr EnumWord<laplace::v1::KfacEigenvalues> kKfacEigenvaluesWords[] = {
    {laplace::v1::KFAC_EIGENVALUES_FACTORS, "factors"},
    {laplace::v1::KFAC_EIGENVALUES_EXACT, "exact"}};

inline constexpr EnumWord<laplace::v1::PriorMethod> kPriorMethodWords[] = {
    {laplace::v1::PRIOR_METHOD_GIVEN, "given"},
    {laplace::v1::PRIOR_METHOD_WEIGHT_DECAY, "weight_decay"},
    {laplace::v1::PRIOR_METHOD_EVIDENCE, "evidence"},
    {laplace::v1::PRIOR_METHOD_VALIDATION, "validation"}};

inline constexpr EnumWord<laplace::v1::NoiseMethod> kNoiseMethodWords[] = {
    {laplace::v1::NOISE_METHOD_GIVEN, "given"},
    {laplace::v1::NOISE_METHOD_MANIFEST, "manifest"},
    {laplace::v1::NOISE_METHOD_DATA, "data"},
    {laplace::v1::NOISE_METHOD_EVIDENCE, "evidence"}};

inline constexpr EnumWord<laplace::v1::NewtonVariant> kNewtonVariantWords[] = {
    {laplace::v1::NEWTON_VARIANT_DEBIASED, "debiased"},
    {laplace::v1::NEWTON_VARIANT_SINGLE, "single"},
    {laplace::v1::NEWTON_VARIANT_EQUAL_BUDGET, "equal_budget"},
    {laplace::v1::NEWTON_VARIANT_ORACLE, "oracle"}};

// INVALID_ARGUMENT about `field`: a number that is none of `known`, by the names of the API.
absl::Status UnknownNumber(const std::string& field,
                           const google::protobuf::EnumDescriptor& descriptor,
                           const std::vector<int>& known, int number);

// INVALID_ARGUMENT about `field` for a number that is not in the table and not UNSPECIFIED.
template <typename Enum, size_t kSize>
absl::StatusOr<std::string> WordOf(const EnumWord<Enum> (&table)[kSize], const std::string& field,
                                   Enum value) {
  if (value == Enum()) return std::string();
  std::vector<int> known;
  for (const EnumWord<Enum>& entry : table) {
    if (entry.value == value) return std::string(entry.word);
    known.push_back(entry.value);
  }
  return UnknownNumber(field, *google::protobuf::GetEnumDescriptor<Enum>(), known, value);
}

// UNSPECIFIED for a word that is not in the table.
template <typename Enum, size_t kSize>
Enum EnumOf(const EnumWord<Enum> (&table)[kSize], absl::string_view word) {
  for (const EnumWord<Enum>& entry : table) {
    if (entry.word == word) return entry.value;
  }
  return Enum();
}

}  // namespace laplaced
