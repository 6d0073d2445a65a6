#include "client/cli/mode_options.h"

#include <utility>

namespace laplace::cli {
namespace {

constexpr std::pair<client::VarianceMode, const char*> kNames[] = {
    {client::VarianceMode::kAuto, "auto"},
    {client::VarianceMode::kExact, "exact"},
    {client::VarianceMode::kTopClasses, "top-classes"},
    {client::VarianceMode::kSampled, "sampled"},
    {client::VarianceMode::kLastLayer, "last-layer"}};

}  // namespace

void AddModeOptions(CLI::App& app, const std::vector<std::string>& modes, ModeOptions& options) {
  AddChoice(app, "--mode", options.mode, modes,
            "How variances are computed (default auto: by estimated cost; exact for ordinary "
            "networks)");
  app.add_option("--samples", options.samples,
                 "Functions to draw with --mode sampled (default 64: variances to 18 %)")
      ->type_name("N")
      ->check(Positive());
  app.add_option("--seed", options.seed, "Seed of the functions that are drawn (default 0)")
      ->type_name("N");
}

client::VarianceMode ToVarianceMode(const std::string& name) {
  for (const auto& [mode, known] : kNames) {
    if (name == known) return mode;
  }
  return client::VarianceMode::kDefault;
}

const char* VarianceModeName(client::VarianceMode mode) {
  for (const auto& [known, name] : kNames) {
    if (known == mode) return name;
  }
  return "none";
}

}  // namespace laplace::cli
