// laplace bench
#include <algorithm>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/bench_report.h"
#include "client/cli/context.h"
#include "client/cli/examples.h"
#include "client/cli/mode_options.h"
#include "client/cli/table.h"
#include "client/cpp/load_generator.h"

namespace laplace::cli {
namespace {

using client::LoadResult;

// A sweep looks for the peak with so many calls in flight, because few do not keep a server busy
// that computes what waits together, and many may be refused, which costs it time. Then it offers
// shares of the peak.
constexpr int kSweepConcurrency[] = {8, 16, 32, 64};
constexpr double kSweepRates[] = {0.1, 0.5, 0.9, 1.5, 5};

struct BenchOptions {
  ModelName model;
  bool score = false;
  std::string input;
  int64_t rows = 1;
  std::vector<std::string> ood_scores;
  ModeOptions mode;
  std::string priority = "interactive";
  std::vector<int> concurrency;
  std::vector<double> rates;
  bool sweep = false;
  std::string arrivals = "poisson";
  double seconds = 10;
  double warm_up_seconds = 2;
  double deadline_ms = 60000;
  int connections = 4;
  int max_in_flight = 10000;
};

// Standard normal numbers, or bytes for a model that takes raw pixels: what a server does does not
// depend on them.
absl::StatusOr<client::Array> RandomRows(const client::Model& model, int64_t rows) {
  std::vector<int64_t> shape = {rows};
  shape.insert(shape.end(), model.input_shape.begin(), model.input_shape.end());
  const auto dtype = model.accepts_uint8 ? laplaced::DType::kUint8 : laplaced::DType::kFloat32;
  auto array = laplaced::AllocateArray(dtype, shape);
  if (!array.ok()) return array.status();
  std::mt19937 random(1);
  if (model.accepts_uint8) {
    for (char& byte : array->bytes) byte = static_cast<char>(random() & 0xff);
    return array;
  }
  std::normal_distribution<float> normal;
  float* values = array->data<float>();
  for (size_t i = 0; i < array->bytes.size() / sizeof(float); ++i) values[i] = normal(random);
  return array;
}

// The inputs of the calls, which are sent in turn: `options.rows` rows each.
absl::StatusOr<std::vector<client::Array>> Inputs(const BenchOptions& options,
                                                  const client::Model& model) {
  constexpr int64_t kMostCalls = 1000;
  if (options.input.empty()) {
    auto rows = RandomRows(model, options.rows);
    if (!rows.ok()) return rows.status();
    return std::vector<client::Array>{*std::move(rows)};
  }
  ExampleFiles files;
  files.inputs = options.input;
  files.inputs_only = true;
  auto examples = ReadExamples(files);
  if (!examples.ok()) return examples.status();
  const absl::Status shaped = ShapeForModel(model, options.input, examples->inputs);
  if (!shaped.ok()) return shaped;
  const int64_t calls = std::min(examples->inputs.rows() / options.rows, kMostCalls);
  if (calls == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--input: ", options.input, " has ",
                                                   examples->inputs.rows(), " rows, fewer than ",
                                                   options.rows, " of one call (--rows)"));
  }
  std::vector<client::Array> inputs;
  for (int64_t i = 0; i < calls; ++i) {
    inputs.push_back(SliceRows(examples->inputs, i * options.rows, options.rows));
  }
  return inputs;
}

template <typename Request>
std::vector<Request> Requests(const BenchOptions& options,
                              const std::vector<client::Array>& inputs) {
  Request request;
  request.model = options.model.name;
  request.version = options.model.version;
  request.ood_scores = options.ood_scores;
  request.variance_mode = ToVarianceMode(options.mode.mode);
  request.samples = options.mode.samples;
  request.seed = options.mode.seed;
  request.priority =
      options.priority == "bulk" ? client::Priority::kBulk : client::Priority::kInteractive;
  std::vector<Request> requests(inputs.size(), request);
  for (size_t i = 0; i < inputs.size(); ++i) requests[i].inputs = inputs[i];
  return requests;
}

// Everything that a run needs but its load.
class Runner {
 public:
  Runner(const Context& context, client::ClientOptions connection, const BenchOptions& options,
         const std::vector<client::Array>& inputs)
      : server_(context.server), connection_(std::move(connection)), score_(options.score) {
    if (score_) {
      scores_ = Requests<client::ScoreRequest>(options, inputs);
    } else {
      predictions_ = Requests<client::PredictRequest>(options, inputs);
    }
  }

  absl::Status Add(const client::LoadOptions& load, double of_peak, std::vector<BenchRun>& runs) {
    auto result = score_ ? client::GenerateLoad(server_, connection_, scores_, load)
                         : client::GenerateLoad(server_, connection_, predictions_, load);
    if (!result.ok()) return result.status();
    runs.push_back({load, *std::move(result), of_peak});
    return absl::OkStatus();
  }

 private:
  const std::string server_;
  const client::ClientOptions connection_;
  const bool score_;
  std::vector<client::PredictRequest> predictions_;
  std::vector<client::ScoreRequest> scores_;
};

client::LoadOptions LoadOf(const BenchOptions& options) {
  client::LoadOptions load;
  load.duration = absl::Seconds(options.seconds);
  load.warm_up = absl::Seconds(options.warm_up_seconds);
  load.deadline = absl::Milliseconds(options.deadline_ms);
  load.connections = options.connections;
  load.max_in_flight = options.max_in_flight;
  load.constant_gaps = options.arrivals == "constant";
  return load;
}

absl::StatusOr<std::vector<BenchRun>> Series(Runner& runner, const client::LoadOptions& load,
                                             const std::vector<int>& concurrency,
                                             const std::vector<double>& rates) {
  std::vector<BenchRun> runs;
  client::LoadOptions one = load;
  for (const int calls : concurrency) {
    one.concurrency = calls;
    const absl::Status status = runner.Add(one, 0, runs);
    if (!status.ok()) return status;
  }
  one.concurrency = 0;
  for (const double rate : rates) {
    one.rate = rate;
    const absl::Status status = runner.Add(one, 0, runs);
    if (!status.ok()) return status;
  }
  return runs;
}

absl::StatusOr<std::vector<BenchRun>> Sweep(Runner& runner, client::LoadOptions load,
                                            std::vector<int> concurrency) {
  if (concurrency.empty()) {
    concurrency.assign(std::begin(kSweepConcurrency), std::end(kSweepConcurrency));
  }
  auto runs = Series(runner, load, concurrency, {});
  if (!runs.ok()) return runs.status();
  const double peak = PeakOf(*runs);
  if (peak == 0) {
    return absl::UnavailableError(
        "no call was answered in time, so there is no peak to offer "
        "shares of; look at it with --concurrency 1");
  }
  for (const double of_peak : kSweepRates) {
    load.rate = of_peak * peak;
    const absl::Status status = runner.Add(load, of_peak, *runs);
    if (!status.ok()) return status;
  }
  return runs;
}

void PrintRuns(const Context& context, const BenchOptions& options, const client::Model& model,
               const std::vector<BenchRun>& runs) {
  const Overload overload = options.sweep ? OverloadOf(runs) : Overload{};
  if (!context.json) {
    Print(BenchTable(runs));
    if (options.sweep) {
      Print(absl::StrFormat(
          "At %g times the peak: p99 of the answers %.1f times that of the lowest rate, "
          "answers %s of the peak.\n",
          overload.times_peak, overload.p99_ratio, Percent(overload.goodput)));
    }
    return;
  }
  Json json = {{"model", VersionedName(model.name, model.version)},
               {"method", options.score ? "score" : "predict"},
               {"rows", options.rows},
               {"runs", Json::array()}};
  for (const BenchRun& run : runs) json["runs"].push_back(BenchJson(run, options.rows));
  if (options.sweep) {
    json["overload"] = {{"of_peak", overload.times_peak},
                        {"p99_ratio", overload.p99_ratio},
                        {"goodput_ratio", overload.goodput}};
  }
  Print(json);
}

absl::Status Bench(const Context& context, const BenchOptions& options) {
  auto connection = context.Options();
  if (!connection.ok()) return connection.status();
  auto client = client::Client::Connect(context.server, *connection);
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.model);
  if (!model.ok()) return model.status();
  const auto inputs = Inputs(options, *model);
  if (!inputs.ok()) return inputs.status();
  Runner runner(context, *std::move(connection), options, *inputs);
  const bool nothing = options.concurrency.empty() && options.rates.empty();
  const auto runs =
      options.sweep ? Sweep(runner, LoadOf(options), options.concurrency)
                    : Series(runner, LoadOf(options),
                             nothing ? std::vector<int>{1} : options.concurrency, options.rates);
  if (!runs.ok()) return runs.status();
  PrintRuns(context, options, *model, *runs);
  return absl::OkStatus();
}

void AddLoadOptions(CLI::App& verb, BenchOptions& options) {
  verb.add_option("--concurrency", options.concurrency,
                  "Calls in flight at all times, such as 1,8,64 (default 1)")
      ->type_name("N,...")
      ->delimiter(',')
      ->check(Positive());
  CLI::Option* rate = verb.add_option("--rate", options.rates,
                                      "Calls per second, such as 50,500; latency counts from the "
                                      "time at which a call was meant to begin")
                          ->type_name("R,...")
                          ->delimiter(',')
                          ->check(Positive());
  verb.add_flag("--sweep", options.sweep,
                "Find the peak with --concurrency calls in flight (default 8,16,32,64), then offer "
                "0.1, 0.5, 0.9, 1.5 and 5 times as much")
      ->excludes(rate);
  AddChoice(verb, "--arrivals", options.arrivals, {"poisson", "constant"},
            "When calls of --rate begin: by chance or at even distances (default poisson)");
  verb.add_option("--duration", options.seconds, "Seconds of each run (default 10)")
      ->type_name("SECONDS")
      ->check(Positive());
  verb.add_option("--warm-up", options.warm_up_seconds,
                  "Seconds of load before each run that do not count (default 2)")
      ->type_name("SECONDS");
  verb.add_option("--deadline", options.deadline_ms, "Of each call (default 60000)")
      ->type_name("MS")
      ->check(Positive());
  verb.add_option("--connections", options.connections, "Connections to the server (default 4)")
      ->type_name("N")
      ->check(Positive());
  verb.add_option("--max-in-flight", options.max_in_flight,
                  "With --rate: calls beyond these are counted, not sent (default 10000)")
      ->type_name("N")
      ->check(Positive());
}

}  // namespace

void AddBenchVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "bench",
      "Measure a server under load: latencies, throughput, refusals. Closed loop with "
      "--concurrency, open loop with --rate; several values make several runs");
  const auto options = std::make_shared<BenchOptions>();
  AddModelArgument(*verb, options->model);
  verb->add_flag("--score", options->score, "Score instead of predicting");
  verb->add_option("--input", options->input,
                   "Inputs to send in turn: .npy, .npz (array x or inputs) or IDX, plain or "
                   "gzipped (default: made of chance)")
      ->type_name("FILE");
  verb->add_option("--rows", options->rows, "Rows of a call (default 1)")
      ->type_name("N")
      ->check(Positive());
  AddLoadOptions(*verb, *options);
  verb->add_option("--ood-score", options->ood_scores,
                   "Scores to ask for, such as energy,knn (default the posterior's)")
      ->type_name("NAME,...")
      ->delimiter(',');
  AddChoice(*verb, "--priority", options->priority, {"interactive", "bulk"},
            "Who goes first when requests wait (default interactive)");
  AddModeOptions(*verb, {"auto", "exact", "sampled", "last-layer"}, options->mode);
  SetExample(*verb,
             "Example:\n"
             "  laplace bench fashion_cnn --concurrency 1,8,64\n"
             "  laplace bench fashion_cnn --rate 40,400,2000 --deadline 250 --output json\n"
             "  laplace bench fashion_cnn --sweep");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Bench(context, *options); };
  });
}

}  // namespace laplace::cli
