// What mini-batches make of curvature and slopes, measured on one network: how far curvature along
// the directions that a batch chooses itself lies from the truth, what an independent batch says of
// it, and what conjugate gradients make of either. Writes CSV files, which the headers of spectra.h
// and cg_curves.h describe, and settings.csv (key,value). After Tatzel, Mucsanyi, Hackel, Hennig:
// Debiasing Mini-Batch Quadratics for Applications in Deep Learning (ICLR 2025).
//
// Numbers are means over repetitions with standard errors, ratios are ratios of means. The truth is
// D, a fixed random part of the training data that is in no batch. The same options give the same
// numbers, to rounding. --help lists them.
#include <cstdio>
#include <string>

#include "absl/strings/str_join.h"
#include "server/laplace/stopwatch.h"
#include "server/model/torch_runtime.h"
#include "tests/bench/paper/cg_curves.h"
#include "tests/bench/paper/experiment.h"
#include "tests/bench/paper/options.h"
#include "tests/bench/paper/spectra.h"
#include "tests/bench/paper/statistics.h"

namespace laplaced::paper {
namespace {

bool Has(const Options& options, const std::string& part) {
  for (const std::string& wanted : options.parts) {
    if (wanted == part) return true;
  }
  return false;
}

void WriteSettings(const Options& o, const Experiment& e, double seconds) {
  Csv csv(o.out, "settings.csv", "key,value");
  const auto add = [&](const char* key, auto value) { csv.NewRow() << std::string(key) << value; };
  const Quality on_d = Evaluate(e.risk, e.risk.network, e.d);
  add("network", o.name);
  add("n_parameters", e.risk.network.n_parameters());
  add("n_outputs", e.risk.network.n_outputs());
  add("weight_decay", e.risk.manifest.weight_decay);
  add("n_data", e.risk.size());
  add("d_size", o.d_size);
  add("loss_d", on_d.loss);
  add("accuracy_d", on_d.accuracy);
  add("repetitions", o.seeds);
  add("batch_sizes", absl::StrJoin(o.batch_sizes, " "));
  add("b2", o.b2);
  add("rank", o.rank);
  add("lanczos_tolerance", o.tolerance);
  add("cg_b1", o.cg_b1);
  add("cg_b2", o.cg_b2);
  add("cg_steps", o.cg_steps);
  add("dampings", absl::StrJoin(o.dampings, " "));
  add("oracle_size", o.oracle_size);
  add("early_steps", o.early.empty() ? o.early_steps : int64_t{0});
  add("cut_examples", o.cut_examples);
  add("curvature", std::string("ggn"));
  add("quick", int64_t{o.quick});
  add("seconds", seconds);
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  ReexecWithPassiveOpenMp(argv);
  const absl::Status ready =
      InitTorchRuntime(static_cast<int>(options.threads), /*allow_slow_blas=*/false);
  if (!ready.ok()) Die(std::string(ready.message()));
  const Stopwatch time;
  const Experiment experiment = LoadExperiment(options);
  if (Has(options, "spectra")) MeasureSpectra(options, experiment);
  const bool slopes = Has(options, "slopes"), curves = Has(options, "cg");
  if (slopes || curves) MeasureConjugateGradients(options, experiment, slopes, curves);
  WriteSettings(options, experiment, time.Seconds());
  std::printf("%s: %.0f s, files in %s\n", options.name.c_str(), time.Seconds(),
              options.out.c_str());
  return 0;
}

}  // namespace
}  // namespace laplaced::paper

int main(int argc, char** argv) { return laplaced::paper::Main(argc, argv); }
