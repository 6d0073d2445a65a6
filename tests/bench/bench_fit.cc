// What debiasing buys and where it buys nothing: every structure, strategy and residual on one
// network and the same data, beside baselines of equal budget, as Markdown tables.
//
//   bench_fit --network fashion_cnn
//   bench_fit --network resnet20 --data FOLDER   (FOLDER by tests/bench/fetch_cifar10.py)
//
// The first table has one row per fit: quality of the probit predictive at delta = n_data *
// weight_decay and at the delta that validation data choose, and the distance to a reference (low
// rank, both batches large, layerwise residual; for K-FAC, which becomes another posterior with
// large batches, also to K-FAC with these). The second has the curvature by index on the batch that
// chose the directions, and on an independent one, over that on a third, large one. Numbers are
// mean +- standard error over seeds, which choose the batches; network and test images stay the
// same. Strategies of one seed share B1; equal_budget takes B1 and B2 together as its one batch,
// and two_batch_2k is there because cross_fit has twice the directions. All see the same first rows
// of the training data; N in the posterior is the manifest's. --help lists the options.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/curvature/jacobian_products.h"
#include "server/data/sampler.h"
#include "server/laplace/fit.h"
#include "server/laplace/kronecker_fit.h"
#include "server/laplace/last_layer_fit.h"
#include "server/laplace/predictive.h"
#include "server/laplace/stopwatch.h"
#include "server/model/parameter_selection.h"
#include "server/model/torch_runtime.h"
#include "tests/bench/networks.h"

namespace laplaced::bench {
namespace {

constexpr char kMnist[] = LAPLACED_SOURCE_DIR "/../shared/data/mnist_t10k/";
constexpr uint64_t kReferenceSeed = 1000;  // apart from the seeds of the rows
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "bench_fit: %s\n", message.c_str());
  std::exit(1);
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) Die(std::string(value.status().message()));
  return *std::move(value);
}

// --- Options ---

struct Option {
  const char* name;
  const char* value;
  const char* help;
};

constexpr Option kOptions[] = {
    {"network", "fashion_cnn", "fashion_cnn or resnet20"},
    {"data", "", "folder of the training and test data; fashion_cnn knows where Debian puts them"},
    {"seeds", "3", "how often batches are drawn"},
    {"rank", "50", "K"},
    {"b1", "128", "examples that choose directions"},
    {"b2", "1024", "examples that measure curvature"},
    {"train", "12000", "first rows of the training data, for all fits"},
    {"test", "1000", "first rows of the test data, and as many OOD images"},
    {"validation", "1000", "images that choose delta and the temperature"},
    {"reference-b1", "4096", "of the reference"},
    {"reference-b2", "4096", "of the reference; fewer if there are no more training rows"},
    {"reference-rank", "100", "of the reference"},
    {"tolerance", "1e-3", "of Lanczos"},
    {"structures", "low_rank,kfac,last_layer", "rows of the first table"},
    {"strategies", "none,equal_budget,two_batch,two_batch_2k,cross_fit,full_pass",
     "rows of the first table; kfac knows the first three"},
    {"residuals", "none,isotropic,layerwise,diagonal", "rows of the first table"},
    {"bias-b1", "64,256,1024", "|B1| in the second table; empty: no such table"},
    {"bias-rank", "50", "K in the second table"},
    {"bias-truth", "4096", "examples that the second table takes for the truth"},
    {"csv", "", "file for every number of every seed"},
};

class Options {
 public:
  Options(int argc, char** argv) {
    for (const Option& option : kOptions) values_[option.name] = option.value;
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      if (name == "--help") Help();
      if (name.rfind("--", 0) != 0 || values_.count(name.substr(2)) == 0 || i + 1 == argc) {
        Die(name + " is no option, or lacks its value; --help lists them");
      }
      values_[name.substr(2)] = argv[i + 1];
    }
  }

  const std::string& Text(const std::string& name) const { return values_.at(name); }

  int64_t Count(const std::string& name) const {
    int64_t count = 0;
    if (!absl::SimpleAtoi(Text(name), &count) || count < 1) {
      Die("--" + name + ": expected a positive number, got " + Text(name));
    }
    return count;
  }

  double Number(const std::string& name) const {
    double number = 0;
    if (!absl::SimpleAtod(Text(name), &number)) Die("--" + name + ": not a number: " + Text(name));
    return number;
  }

  std::vector<std::string> List(const std::string& name) const {
    return absl::StrSplit(Text(name), ',', absl::SkipEmpty());
  }

  bool Has(const std::string& list, const std::string& entry) const {
    const std::vector<std::string> entries = List(list);
    return std::find(entries.begin(), entries.end(), entry) != entries.end();
  }

 private:
  [[noreturn]] static void Help() {
    for (const Option& option : kOptions) {
      std::printf("  --%-15s %s [%s]\n", option.name, option.help, option.value);
    }
    std::exit(0);
  }

  std::map<std::string, std::string> values_;
};

// --- Network and data ---

struct Subject {
  std::string name;
  EmpiricalRisk risk;  // on the training rows that are used
  CapturePlan plan;
  Dataset validation = {}, test = {};
  std::string validation_source = {};
  at::Tensor ood = {};    // inputs; undefined if there are none
  double decay = 0;       // N beta
  double test_error = 0;  // of the network, over all test data
  int64_t all_test = 0;
};

Manifest FashionManifest() {
  const std::string path = LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn/model.json";
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return Must(ParseManifest(path, text.str()));
}

// As ../shared/data/README.md says.
Manifest ResNetManifest() {
  return Must(ParseManifest("resnet20", R"({"likelihood": "categorical",
      "input": {"shape": [3, 32, 32], "uint8_scale": 0.00392156862745098,
                "uint8_mean": [0.485, 0.456, 0.406], "uint8_std": [0.229, 0.224, 0.225]},
      "n_outputs": 10, "n_data": 50000, "weight_decay": 1e-4})"));
}

std::pair<Dataset, Dataset> ReadTrainAndTest(const std::string& network, std::string folder) {
  if (network == "fashion_cnn") {
    if (folder.empty()) folder = "/usr/share/datasets/fashion-mnist";
    const auto read = [&](const std::string& split) {
      Dataset data = Must(ReadDataset(folder + "/" + split + "-images-idx3-ubyte.gz",
                                      folder + "/" + split + "-labels-idx1-ubyte.gz"));
      data.inputs = data.inputs.unsqueeze(1);
      return data;
    };
    return {read("train"), read("t10k")};
  }
  if (folder.empty()) Die("--data FOLDER is needed: run tests/bench/fetch_cifar10.py FOLDER first");
  const auto read = [&](const std::string& split) {
    return Must(
        ReadDataset(folder + "/" + split + "_images.npy", folder + "/" + split + "_labels.npy"));
  };
  return {read("train"), read("test")};
}

// MNIST digits in the network's input shape: a black margin, and the same in every channel.
at::Tensor ReadDigits(const std::vector<int64_t>& shape, int64_t limit) {
  if (!std::filesystem::exists(kMnist)) return {};
  const Dataset digits = Must(ReadDataset(absl::StrCat(kMnist, "t10k-images-idx3-ubyte.gz"),
                                          absl::StrCat(kMnist, "t10k-labels-idx1-ubyte.gz")));
  const int64_t n = std::min(limit, digits.size()), margin = (shape[1] - 28) / 2;
  return at::constant_pad_nd(digits.inputs.narrow(0, 0, n).unsqueeze(1),
                             {margin, margin, margin, margin})
      .expand({n, shape[0], shape[1], shape[2]})
      .contiguous();
}

double ErrorRate(const EmpiricalRisk& risk, const Dataset& data) {
  int64_t wrong = 0;
  for (int64_t begin = 0; begin < data.size(); begin += 256) {
    const Dataset part = data.Slice(begin, std::min<int64_t>(begin + 256, data.size()));
    const at::Tensor f = risk.network.Forward(risk.NetworkInput(part.inputs));
    wrong += (f.argmax(1) != part.targets).sum().item<int64_t>();
  }
  return static_cast<double>(wrong) / static_cast<double>(data.size());
}

Subject LoadSubject(const Options& options) {
  const std::string name = options.Text("network");
  std::vector<BenchNetwork> networks = LoadBenchNetworks();
  const auto found = std::find_if(networks.begin(), networks.end(),
                                  [&](const BenchNetwork& net) { return net.name == name; });
  if (found == networks.end()) Die("there is no network " + name);
  const Manifest manifest = name == "fashion_cnn" ? FashionManifest() : ResNetManifest();
  const auto [train, test] = ReadTrainAndTest(name, options.Text("data"));

  const int64_t n_train = options.Count("train"), n_test = options.Count("test"),
                n_validation = options.Count("validation");
  if (n_train > manifest.n_data || n_train > train.size()) Die("--train: too many rows");
  Subject subject{name,
                  {found->network, manifest.likelihood, manifest, train.Slice(0, n_train)},
                  found->capture};
  int64_t for_test = test.size();
  if (train.size() >= manifest.n_data + n_validation) {
    subject.validation = train.Slice(manifest.n_data, manifest.n_data + n_validation);
    subject.validation_source = "training rows that the network never saw";
  } else {
    // The network saw all training rows.
    for_test -= n_validation;
    if (for_test < 1) Die("--validation: too many rows");
    subject.validation = test.Slice(for_test, test.size());
    subject.validation_source = "the last test rows, none of which is tested on";
  }
  if (n_test > for_test) Die("--test: too many rows");
  subject.test = test.Slice(0, n_test);
  subject.ood = ReadDigits(manifest.input_shape, n_test);
  subject.decay = static_cast<double>(manifest.n_data) * manifest.weight_decay;
  subject.test_error = ErrorRate(subject.risk, test);
  subject.all_test = test.size();
  return subject;
}

// --- Metrics ---

enum Column {
  kNll,
  kEce,
  kNllTuned,
  kEceTuned,
  kLogDelta,
  kTrace,
  kKl,
  kKlOwn,
  kAuroc,
  kSeconds,
  kColumns
};

struct ColumnFormat {
  const char* name;
  const char* heading;
  int decimals;
};

constexpr ColumnFormat kFormats[kColumns] = {
    {"nll", "NLL", 4},
    {"ece", "ECE", 4},
    {"nll_tuned", "NLL tuned", 4},
    {"ece_tuned", "ECE tuned", 4},
    {"log10_delta", "log10 δ/Nβ", 1},
    {"trace_ratio", "tr V / ref", 3},
    {"kl", "KL(ref‖·)", 4},
    {"kl_own", "KL(kfac ref‖·)", 4},
    {"auroc", "AUROC", 3},
    {"seconds", "s", 1},
};

using Metrics = std::array<double, kColumns>;  // NaN: does not apply

Metrics NoMetrics() {
  Metrics metrics;
  metrics.fill(kNan);
  return metrics;
}

double Mean(const at::Tensor& values) { return values.mean().item<double>(); }

// Everything below takes log probabilities, [n, C] fp64.

double Nll(const at::Tensor& log_p, const at::Tensor& labels) {
  return -Mean(log_p.gather(1, labels.unsqueeze(1)));
}

// Expected calibration error over 15 equal bins of confidence.
double Ece(const at::Tensor& log_p, const at::Tensor& labels) {
  constexpr int64_t kBins = 15;
  const auto [log_confidence, answer] = log_p.max(1);
  const at::Tensor confidence = log_confidence.exp();
  const at::Tensor right = (answer == labels).to(at::kDouble);
  const at::Tensor bin = (confidence * kBins).ceil().sub(1).clamp(0, kBins - 1).to(at::kLong);
  // |sum of (right - confidence)| by bin is the bin's weight times its gap, times n.
  const at::Tensor gaps = at::zeros({kBins}, at::kDouble).index_add(0, bin, right - confidence);
  return gaps.abs().sum().item<double>() / static_cast<double>(labels.size(0));
}

double Kl(const at::Tensor& log_p, const at::Tensor& log_q) {
  return Mean((log_p.exp() * (log_p - log_q)).sum(1));
}

// Mann-Whitney: share of pairs in the right order, ties count half.
double Auroc(const at::Tensor& in, const at::Tensor& out) {
  const at::Tensor difference = out.unsqueeze(1) - in.unsqueeze(0);
  return Mean((difference > 0).to(at::kDouble) + 0.5 * (difference == 0).to(at::kDouble));
}

double EntropyAuroc(const at::Tensor& log_p, const at::Tensor& log_p_ood) {
  return log_p_ood.defined() ? Auroc(Entropy(log_p.exp()), Entropy(log_p_ood.exp())) : kNan;
}

at::Tensor LogProbit(const at::Tensor& f, const at::Tensor& variance) {
  return at::log_softmax(ModeratedLogits(f, variance), 1);
}

struct Reference {
  at::Tensor log_p;  // at delta = N beta; undefined before there is one
  double trace = 0;  // mean tr V
};

// Half decades of delta / (N beta) that are tried at all, and where the search starts.
constexpr int kLowest = -2, kHighest = 6, kStart = 3;

// Evaluates posteriors over the parameters of one network.
class Evaluator {
 public:
  Evaluator(const Subject& subject, const Network& network, const CapturePlan& plan)
      : subject_(subject), network_(network), plan_(plan) {}

  // All but the seconds. `own` is the reference of the same structure, if that is another. `keep`,
  // if given, receives what later rows are compared with.
  Metrics Evaluate(const FittedCurvature& fitted, const Reference& reference,
                   const Reference& own = {}, Reference* keep = nullptr) const {
    const Manifest& manifest = subject_.risk.manifest;
    Posterior posterior;
    posterior.structure = fitted.MakeStructure(PriorScale(network_, manifest));
    posterior.n_data = manifest.n_data;
    const auto precisions = [&](double delta) {
      return posterior.WithPriorPrecision(delta).precisions();
    };
    const double tuned = subject_.decay * std::pow(10, 0.5 * Tune(posterior));
    const Linearized test = Linearize(*posterior.structure, subject_.test.inputs,
                                      {precisions(subject_.decay), precisions(tuned)});
    const at::Tensor log_p = LogProbit(test.f, test.variance[0]);
    const at::Tensor log_p_tuned = LogProbit(test.f, test.variance[1]);
    const double trace = Mean(test.variance[0].sum(1));
    if (keep != nullptr) *keep = {log_p, trace};

    Metrics metrics = NoMetrics();
    metrics[kNll] = Nll(log_p, subject_.test.targets);
    metrics[kEce] = Ece(log_p, subject_.test.targets);
    metrics[kNllTuned] = Nll(log_p_tuned, subject_.test.targets);
    metrics[kEceTuned] = Ece(log_p_tuned, subject_.test.targets);
    metrics[kLogDelta] = std::log10(tuned / subject_.decay);
    if (reference.log_p.defined()) {
      metrics[kTrace] = trace / reference.trace;
      metrics[kKl] = Kl(reference.log_p, log_p);
    }
    if (own.log_p.defined()) metrics[kKlOwn] = Kl(own.log_p, log_p);
    if (subject_.ood.defined()) {
      const Linearized ood =
          Linearize(*posterior.structure, subject_.ood, {precisions(subject_.decay)});
      metrics[kAuroc] = EntropyAuroc(log_p, LogProbit(ood.f, ood.variance[0]));
    }
    return metrics;
  }

 private:
  // The half decade with the least validation NLL, by going downhill from kStart: every precision
  // costs a diagonal residual as much as a pass of its own.
  int Tune(const Posterior& posterior) const {
    std::map<int, double> nll;
    for (int centre = kStart;;) {
      std::vector<int> wanted;
      std::vector<Precisions> at;
      for (int i = std::max(centre - 1, kLowest); i <= std::min(centre + 1, kHighest); ++i) {
        if (nll.count(i) > 0) continue;
        wanted.push_back(i);
        const double delta = subject_.decay * std::pow(10, 0.5 * i);
        at.push_back(posterior.WithPriorPrecision(delta).precisions());
      }
      const Linearized validation = Linearize(*posterior.structure, subject_.validation.inputs, at);
      for (size_t i = 0; i < wanted.size(); ++i) {
        nll[wanted[i]] =
            Nll(LogProbit(validation.f, validation.variance[i]), subject_.validation.targets);
      }
      const int best = std::min_element(nll.begin(), nll.end(), [](const auto& a, const auto& b) {
                         return a.second < b.second;
                       })->first;
      if (best == centre || best == kLowest || best == kHighest) return best;
      centre = best;
    }
  }

  // f and variances of all `raw` inputs.
  Linearized Linearize(const Structure& structure, const at::Tensor& raw,
                       const std::vector<Precisions>& at) const {
    const int64_t step = ExamplesPerStep(network_);
    LinearizeRequest request;
    request.variance_at = at;
    std::vector<at::Tensor> f;
    std::vector<std::vector<at::Tensor>> variance(at.size());
    for (int64_t begin = 0; begin < raw.size(0); begin += step) {
      const at::Tensor x =
          subject_.risk.NetworkInput(raw.narrow(0, begin, std::min(step, raw.size(0) - begin)));
      const Linearized part = Must(structure.Linearize(network_, plan_, x, request));
      f.push_back(part.f);
      for (size_t i = 0; i < at.size(); ++i) variance[i].push_back(part.variance[i]);
    }
    Linearized all;
    all.f = at::cat(f);
    for (const std::vector<at::Tensor>& parts : variance) all.variance.push_back(at::cat(parts));
    return all;
  }

  const Subject& subject_;
  const Network& network_;
  const CapturePlan& plan_;
};

// The network alone, and with its outputs divided by the temperature that validation data choose.
struct Baselines {
  Metrics map, scaled;
  double temperature = 1;
};

Baselines EvaluateBaselines(const Subject& subject, const Reference& reference) {
  const auto outputs = [&](const at::Tensor& raw) {
    std::vector<at::Tensor> f;
    for (const at::Tensor& part : raw.split(256)) {
      f.push_back(subject.risk.network.Forward(subject.risk.NetworkInput(part)));
    }
    return at::cat(f).to(at::kDouble);
  };
  const at::Tensor f = outputs(subject.test.inputs), held_out = outputs(subject.validation.inputs);
  const at::Tensor ood = subject.ood.defined() ? outputs(subject.ood) : at::Tensor();
  const auto log_p = [](const at::Tensor& logits, double temperature) {
    return logits.defined() ? at::log_softmax(logits / temperature, 1) : logits;
  };
  Baselines result{NoMetrics(), NoMetrics()};
  double best = std::numeric_limits<double>::infinity();
  for (int i = -200; i <= 200; ++i) {
    const double temperature = std::exp(0.01 * i);
    const double nll = Nll(log_p(held_out, temperature), subject.validation.targets);
    if (nll < best) {
      best = nll;
      result.temperature = temperature;
    }
  }
  const auto fill = [&](Metrics& metrics, double temperature, Column nll, Column ece) {
    const at::Tensor of_test = log_p(f, temperature);
    metrics[nll] = Nll(of_test, subject.test.targets);
    metrics[ece] = Ece(of_test, subject.test.targets);
    metrics[kKl] = Kl(reference.log_p, of_test);
    metrics[kAuroc] = EntropyAuroc(of_test, log_p(ood, temperature));
  };
  fill(result.map, 1, kNll, kEce);
  fill(result.scaled, result.temperature, kNllTuned, kEceTuned);
  return result;
}

// --- Tables ---

// "1.234 ± 0.056"; without the error for one seed; a dash if it does not apply.
std::string MeanAndError(const std::vector<double>& values, int decimals) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double v : values) mean += v / n;
  if (std::isnan(mean)) return "–";
  for (const double v : values) squares += (v - mean) * (v - mean);
  const std::string text = absl::StrFormat("%.*f", decimals, mean);
  if (values.size() < 2) return text;
  return absl::StrFormat("%s ± %.*f", text, decimals, std::sqrt(squares / (n - 1) / n));
}

// Every number of every seed, as it comes.
class Csv {
 public:
  Csv(const std::string& path, std::string network) : network_(std::move(network)) {
    if (path.empty()) return;
    file_.open(path);
    if (!file_) Die("cannot write " + path);
    file_ << "table,network,structure,strategy,residual,b1,index,seed,metric,value\n";
  }

  // `row`: structure, strategy, residual, b1 and index, with commas.
  void Add(const std::string& table, const std::string& row, int64_t seed,
           const std::string& metric, double value) {
    if (!file_.is_open() || std::isnan(value)) return;
    file_ << absl::StrFormat("%s,%s,%s,%d,%s,%.10g", table, network_, row, seed, metric, value)
          << std::endl;
  }

 private:
  std::string network_;
  std::ofstream file_;
};

class FitTable {
 public:
  explicit FitTable(Csv& csv) : csv_(csv) {}

  // Rows stand in the order in which they are first seen.
  void Add(const std::string& structure, const std::string& strategy, const std::string& residual,
           int64_t seed, const Metrics& metrics) {
    const std::array<std::string, 3> key = {structure, strategy, residual};
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.key == key; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{key, {}});
    row->seeds.push_back(metrics);
    for (size_t c = 0; c < kColumns; ++c) {
      csv_.Add("fit", absl::StrCat(structure, ",", strategy, ",", residual, ",,"), seed,
               kFormats[c].name, metrics[c]);
    }
  }

  void Print() const {
    std::string heading = "| structure | strategy | residual, or eigenvalues |",
                rule = "|---|---|---|";
    for (const ColumnFormat& column : kFormats) {
      absl::StrAppend(&heading, " ", column.heading, " |");
      absl::StrAppend(&rule, "---|");
    }
    std::printf("%s\n%s\n", heading.c_str(), rule.c_str());
    for (const Row& row : rows_) {
      std::string line = absl::StrCat("| ", row.key[0], " | ", row.key[1], " | ", row.key[2], " |");
      for (size_t c = 0; c < kColumns; ++c) {
        std::vector<double> values;
        for (const Metrics& metrics : row.seeds) values.push_back(metrics[c]);
        absl::StrAppend(&line, " ", MeanAndError(values, kFormats[c].decimals), " |");
      }
      std::printf("%s\n", line.c_str());
    }
  }

 private:
  struct Row {
    std::array<std::string, 3> key;
    std::vector<Metrics> seeds;
  };

  Csv& csv_;
  std::vector<Row> rows_;
};

// --- Fits ---

struct ResidualName {
  const char* name;
  ResidualKind kind;
};

constexpr ResidualName kResiduals[] = {{"none", ResidualKind::kNone},
                                       {"isotropic", ResidualKind::kIsotropic},
                                       {"layerwise", ResidualKind::kLayerwise},
                                       {"diagonal", ResidualKind::kDiagonal}};

class Bench {
 public:
  Bench(const Options& options, Subject subject)
      : options_(options),
        subject_(std::move(subject)),
        whole_(subject_, subject_.risk.network, subject_.plan),
        csv_(options.Text("csv"), subject_.name),
        table_(csv_) {
    const int64_t n = subject_.risk.size();
    CheckRoom("b1 + b2", options_.Count("b1") + options_.Count("b2"));
    CheckRoom("reference-b1 + 1", options_.Count("reference-b1") + 1);
    reference_b2_ = std::min(options_.Count("reference-b2"), n - options_.Count("reference-b1"));
    truth_ = options_.Count("bias-truth");
    for (const std::string& size : options_.List("bias-b1")) {
      int64_t b1 = 0;
      if (!absl::SimpleAtoi(size, &b1) || b1 < 1) Die("--bias-b1: not a size: " + size);
      CheckRoom("bias-b1 + b2 + 1", b1 + options_.Count("b2") + 1);
      bias_sizes_.push_back(b1);
      truth_ = std::min(truth_, n - b1 - options_.Count("b2"));
    }
  }

  void Run() {
    Describe();
    FitReference();
    if (options_.Has("structures", "last_layer")) FitLastLayerRow();
    if (options_.Has("structures", "kfac")) FitKfacReference();
    for (int64_t seed = 1; seed <= options_.Count("seeds"); ++seed) {
      if (options_.Has("structures", "low_rank")) FitLowRankRows(seed);
      if (options_.Has("structures", "kfac")) FitKfacRows(seed);
    }
    table_.Print();
    std::fflush(stdout);
    if (!bias_sizes_.empty()) PrintBias();
  }

 private:
  void CheckRoom(const std::string& what, int64_t needed) const {
    if (needed > subject_.risk.size()) {
      Die(absl::StrCat("--train: ", subject_.risk.size(), " rows are too few for ", what, " = ",
                       needed));
    }
  }

  void Describe() const {
    std::printf(
        "%s: P = %d, N = %d, Nβ = %g; the network errs on %.2f %% of all %d test images.\n"
        "K = %d, |B1| = %d, |B2| = %d out of the first %d training rows, %d seeds; %d test images; "
        "%d validation images (%s); OOD: %s.\n"
        "Reference: K = %d, |B1| = %d, |B2| = %d.\n\n",
        subject_.name.c_str(), static_cast<int>(subject_.risk.network.n_parameters()),
        static_cast<int>(subject_.risk.manifest.n_data), subject_.decay, 100 * subject_.test_error,
        static_cast<int>(subject_.all_test), static_cast<int>(options_.Count("rank")),
        static_cast<int>(options_.Count("b1")), static_cast<int>(options_.Count("b2")),
        static_cast<int>(subject_.risk.size()), static_cast<int>(options_.Count("seeds")),
        static_cast<int>(subject_.test.size()), static_cast<int>(subject_.validation.size()),
        subject_.validation_source.c_str(),
        subject_.ood.defined() ? absl::StrCat(subject_.ood.size(0), " MNIST digits").c_str()
                               : "none, MNIST is not there",
        static_cast<int>(options_.Count("reference-rank")),
        static_cast<int>(options_.Count("reference-b1")), static_cast<int>(reference_b2_));
    std::fflush(stdout);
  }

  // Says on stderr what was done, since it takes long.
  void Note(const std::string& what, double fit_seconds) {
    std::fprintf(stderr, "%7.0f s  %s: fit %.1f s, evaluated in %.1f s\n", total_.Seconds(),
                 what.c_str(), fit_seconds, total_.Seconds() - noted_ - fit_seconds);
    noted_ = total_.Seconds();
  }

  LowRankOptions MakeLowRankOptions(uint64_t seed) const {
    LowRankOptions low_rank;
    low_rank.rank = options_.Count("rank");
    low_rank.direction_batch_size = options_.Count("b1");
    low_rank.curvature_batch_size = options_.Count("b2");
    low_rank.lanczos_tolerance = options_.Number("tolerance");
    low_rank.seed = seed;
    return low_rank;
  }

  std::shared_ptr<const LowRankFit> FitOne(const LowRankOptions& low_rank, double* seconds) const {
    LowRankCost cost;
    std::vector<std::string> warnings;
    auto fit = Must(FitLowRank(subject_.risk, subject_.plan, low_rank, {}, &cost, &warnings));
    *seconds = cost.lanczos_seconds + cost.curvature_seconds;
    for (const std::string& warning : warnings) {
      std::fprintf(stderr, "           %s\n", warning.c_str());
    }
    return fit;
  }

  void FitReference() {
    LowRankOptions low_rank = MakeLowRankOptions(kReferenceSeed);
    low_rank.rank = options_.Count("reference-rank");
    low_rank.direction_batch_size = options_.Count("reference-b1");
    low_rank.curvature_batch_size = reference_b2_;
    double seconds = 0;
    const auto fit = FitOne(low_rank, &seconds);
    Metrics metrics = whole_.Evaluate(*fit, {}, {}, &reference_);
    metrics[kTrace] = 1;
    metrics[kKl] = 0;
    metrics[kSeconds] = seconds;
    table_.Add("reference", "two_batch", "layerwise", 0, metrics);
    const CurvatureReport report = fit->Report();
    Note(absl::StrFormat("reference (trace %.4g, %.0f %% of it outside the directions)",
                         report.trace, 100 * report.residual_share),
         seconds);
    const Baselines baselines = EvaluateBaselines(subject_, reference_);
    table_.Add("MAP", "–", "–", 0, baselines.map);
    table_.Add(absl::StrFormat("temperature %.2f", baselines.temperature), "–", "–", 0,
               baselines.scaled);
  }

  void FitLastLayerRow() {
    EmpiricalRisk risk = subject_.risk;
    risk.network = Must(risk.network.Restrict(LastLayerParameters(risk.network)).Clone());
    const CapturePlan plan = FindCapturedParameters(risk.network);
    const Stopwatch time;
    const auto fit = Must(FitLastLayer(risk, plan, {}, nullptr));
    const double seconds = time.Seconds();
    Metrics metrics = Evaluator(subject_, risk.network, plan).Evaluate(*fit, reference_);
    metrics[kSeconds] = seconds;
    table_.Add("last_layer", "all rows", "exact", 0, metrics);
    Note("last_layer", seconds);
  }

  void FitLowRankRows(int64_t seed) {
    const int64_t b1 = options_.Count("b1"), b2 = options_.Count("b2");
    for (const std::string& strategy : options_.List("strategies")) {
      LowRankOptions low_rank = MakeLowRankOptions(seed);
      // Measured once with all statistics; the other residuals follow from those.
      low_rank.residual = options_.Has("residuals", "diagonal") ? ResidualKind::kDiagonal
                                                                : ResidualKind::kLayerwise;
      if (strategy == "none" || strategy == "equal_budget") {
        low_rank.debiasing = Debiasing::kNone;
        if (strategy == "equal_budget") low_rank.direction_batch_size = b1 + b2;
      } else if (strategy == "two_batch_2k") {
        low_rank.rank *= 2;
      } else if (strategy == "cross_fit") {
        low_rank.debiasing = Debiasing::kCrossFit;
      } else if (strategy == "full_pass") {
        low_rank.debiasing = Debiasing::kFullPass;
      } else if (strategy != "two_batch") {
        Die("--strategies: there is no " + strategy);
      }
      double seconds = 0;
      const auto fit = FitOne(low_rank, &seconds);
      for (const ResidualName& residual : kResiduals) {
        if (!options_.Has("residuals", residual.name)) continue;
        LowRankFit::Parts parts = fit->parts();
        parts.residual = residual.kind;
        Metrics metrics = whole_.Evaluate(LowRankFit(std::move(parts)), reference_);
        metrics[kSeconds] = seconds;
        table_.Add("low_rank", strategy, residual.name, seed, metrics);
      }
      Note(absl::StrCat("seed ", seed, " low_rank ", strategy), seconds);
    }
  }

  void FitKfacRow(const std::string& strategy, const KroneckerOptions& kronecker, Reference* keep) {
    const Stopwatch time;
    const auto fit = Must(FitKronecker(subject_.risk, subject_.plan, kronecker, nullptr, nullptr));
    const double seconds = time.Seconds();
    const auto seed = static_cast<int64_t>(kronecker.seed);
    const std::string values = kronecker.exact ? "exact" : "factors";
    Metrics metrics = whole_.Evaluate(*fit, reference_, kfac_reference_, keep);
    metrics[kSeconds] = seconds;
    table_.Add(keep != nullptr ? "kfac reference" : "kfac", strategy, values, seed, metrics);
    Note(absl::StrCat("seed ", seed, " kfac ", strategy, ", ", values), seconds);
  }

  // What K-FAC becomes with large batches is another posterior than low rank's.
  void FitKfacReference() {
    KroneckerOptions kronecker;
    kronecker.direction_batch_size = options_.Count("reference-b1");
    kronecker.curvature_batch_size = reference_b2_;
    kronecker.seed = kReferenceSeed;
    FitKfacRow("two_batch", kronecker, &kfac_reference_);
  }

  void FitKfacRows(int64_t seed) {
    for (const std::string strategy : {"none", "equal_budget", "two_batch"}) {
      if (!options_.Has("strategies", strategy)) continue;
      for (const bool exact : {false, true}) {
        KroneckerOptions kronecker;
        kronecker.direction_batch_size =
            options_.Count("b1") + (strategy == "equal_budget" ? options_.Count("b2") : 0);
        kronecker.curvature_batch_size = options_.Count("b2");
        kronecker.debias = strategy == "two_batch";
        kronecker.exact = exact;
        kronecker.seed = seed;
        FitKfacRow(strategy, kronecker, nullptr);
      }
    }
  }

  void PrintBias() {
    const int64_t b2 = options_.Count("b2"), rank = options_.Count("bias-rank");
    std::vector<int64_t> indices;
    for (const int64_t i : {1, 2, 5, 10, 20, 50}) {
      if (i <= rank) indices.push_back(i);
    }
    std::printf(
        "\nCurvature along direction i over that on %d independent examples:\n\n"
        "| \\|B1\\| | measured on |",
        static_cast<int>(truth_));
    for (const int64_t i : indices) std::printf(" i = %d |", static_cast<int>(i));
    std::printf("\n|---|---|");
    for (size_t i = 0; i < indices.size(); ++i) std::printf("---|");
    std::printf("\n");
    for (const int64_t b1 : bias_sizes_) {
      std::vector<std::vector<double>> biased(indices.size()), debiased(indices.size());
      for (int64_t seed = 1; seed <= options_.Count("seeds"); ++seed) {
        LowRankOptions low_rank = MakeLowRankOptions(seed);
        low_rank.direction_batch_size = b1;
        low_rank.rank = rank;
        double seconds = 0;
        const auto fit = FitOne(low_rank, &seconds);
        const at::Tensor rows =
            DisjointBatches(subject_.risk.size(), {b1, b2, truth_}, low_rank.seed)[2];
        const at::Tensor truth =
            Must(MeasureCurvature(subject_.risk, subject_.plan, rows, fit->parts().directions))
                .along.mean;
        const auto ratios = [&](const at::Tensor& along, const char* metric,
                                std::vector<std::vector<double>>& into) {
          for (size_t i = 0; i < indices.size(); ++i) {
            // The batch may have had fewer directions to give.
            const bool there = indices[i] <= truth.numel();
            into[i].push_back(there ? (along / truth)[indices[i] - 1].item<double>() : kNan);
            csv_.Add("bias", absl::StrCat("low_rank,,,", b1, ",", indices[i]), seed, metric,
                     into[i].back());
          }
        };
        ratios(fit->parts().ritz, "biased_ratio", biased);
        ratios(fit->parts().statistics[0].along.mean, "debiased_ratio", debiased);
        Note(absl::StrCat("seed ", seed, " bias with |B1| = ", b1), seconds);
      }
      const auto print = [&](const std::string& on, const std::vector<std::vector<double>>& all) {
        std::printf("| %d | %s |", static_cast<int>(b1), on.c_str());
        for (const std::vector<double>& values : all) {
          std::printf(" %s |", MeanAndError(values, 2).c_str());
        }
        std::printf("\n");
      };
      print("B1 (biased)", biased);
      print(absl::StrCat("B2 of ", b2, " (debiased)"), debiased);
      std::fflush(stdout);
    }
  }

  const Options& options_;
  const Subject subject_;
  const Evaluator whole_;
  Csv csv_;
  FitTable table_;
  Reference reference_, kfac_reference_;
  int64_t reference_b2_ = 0, truth_ = 0;
  std::vector<int64_t> bias_sizes_;
  const Stopwatch total_;
  double noted_ = 0;
};

int Main(int argc, char** argv) {
  ReexecWithPassiveOpenMp(argv);
  const Options options(argc, argv);
  if (const absl::Status status = InitTorchRuntime(0, false); !status.ok()) {
    Die(std::string(status.message()));
  }
  Bench(options, LoadSubject(options)).Run();
  return 0;
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) { return laplaced::bench::Main(argc, argv); }
