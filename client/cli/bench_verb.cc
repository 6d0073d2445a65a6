// laplace bench
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/context.h"
#include "client/cli/mode_options.h"
#include "client/cli/table.h"
#include "client/cpp/load_generator.h"

namespace laplace::cli {
namespace {

using client::LoadResult;
using client::Quantile;

struct BenchOptions {
  ModelName model;
  bool score = false;
  int64_t rows = 1;
  std::vector<std::string> ood_scores;
  ModeOptions mode;
  std::string priority = "interactive";
  std::vector<int> concurrency;
  std::vector<double> rates;
  double seconds = 10;
  double warm_up_seconds = 2;
  double deadline_ms = 60000;
  int connections = 4;
};

// Standard normal numbers, or bytes for a model that takes raw pixels: what a server does does not
// depend on them.
absl::StatusOr<laplaced::Array> RandomRows(const client::Model& model, int64_t rows) {
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

template <typename Request>
void Fill(const BenchOptions& options, laplaced::Array inputs, Request& request) {
  request.model = options.model.name;
  request.version = options.model.version;
  request.inputs = std::move(inputs);
  request.ood_scores = options.ood_scores;
  request.variance_mode = ToVarianceMode(options.mode.mode);
  request.samples = options.mode.samples;
  request.seed = options.mode.seed;
  request.priority =
      options.priority == "bulk" ? client::Priority::kBulk : client::Priority::kInteractive;
}

absl::StatusOr<LoadResult> RunOne(const Context& context, const client::ClientOptions& connection,
                                  const BenchOptions& options, const laplaced::Array& inputs,
                                  const client::LoadOptions& load) {
  if (options.score) {
    client::ScoreRequest request;
    Fill(options, inputs, request);
    return client::GenerateLoad(context.server, connection, request, load);
  }
  client::PredictRequest request;
  Fill(options, inputs, request);
  return client::GenerateLoad(context.server, connection, request, load);
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.2f", 1e3 * seconds); }

// Answers by latency, in bins that double.
std::vector<std::pair<double, int64_t>> Histogram(const std::vector<double>& sorted) {
  std::vector<std::pair<double, int64_t>> bins;
  size_t at = 0;
  for (double upper = 1.0 / 16384; at < sorted.size(); upper *= 2) {
    const auto end =
        std::upper_bound(sorted.begin() + static_cast<int64_t>(at), sorted.end(), upper);
    const auto count = end - sorted.begin() - static_cast<int64_t>(at);
    if (count > 0 || !bins.empty()) bins.emplace_back(upper, count);
    at += static_cast<size_t>(count);
  }
  return bins;
}

Json ToJson(const client::LoadOptions& load, const LoadResult& result, int64_t rows) {
  Json json;
  if (load.concurrency > 0) json["concurrency"] = load.concurrency;
  if (load.rate > 0) json["rate"] = load.rate;
  json["seconds"] = result.seconds;
  json["offered"] = result.offered;
  json["not_sent"] = result.not_sent;
  json["generator_behind_seconds"] = result.behind_seconds;
  json["codes"] = Json(result.codes);
  json["answers_per_second"] = static_cast<double>(result.latency.size()) / result.seconds;
  json["rows_per_second"] =
      static_cast<double>(rows * static_cast<int64_t>(result.latency.size())) / result.seconds;
  const std::pair<const char*, const std::vector<double>*> parts[] = {
      {"latency_seconds", &result.latency},
      {"queue_seconds", &result.queue},
      {"compute_seconds", &result.compute},
      {"overhead_seconds", &result.overhead}};
  for (const auto& [name, values] : parts) {
    json[name] = {{"p50", Quantile(*values, 0.5)},
                  {"p90", Quantile(*values, 0.9)},
                  {"p99", Quantile(*values, 0.99)},
                  {"p999", Quantile(*values, 0.999)},
                  {"max", Quantile(*values, 1)}};
  }
  Json bins = Json::array();
  for (const auto& [upper, count] : Histogram(result.latency)) {
    bins.push_back({{"up_to_seconds", upper}, {"count", count}});
  }
  json["latency_histogram"] = std::move(bins);
  return json;
}

void AddRow(const client::LoadOptions& load, const LoadResult& result, Table& table) {
  std::string others;
  for (const auto& [code, count] : result.codes) {
    if (code == "OK") continue;
    absl::StrAppend(&others, others.empty() ? "" : ", ", code, " ", Count(count));
  }
  if (result.not_sent > 0) {
    absl::StrAppend(&others, others.empty() ? "" : ", ", "not sent ", Count(result.not_sent));
  }
  table.AddRow(
      {load.rate > 0 ? absl::StrCat(load.rate, "/s") : absl::StrCat(load.concurrency, " in flight"),
       absl::StrFormat("%.1f", static_cast<double>(result.latency.size()) / result.seconds),
       Milliseconds(Quantile(result.latency, 0.5)), Milliseconds(Quantile(result.latency, 0.99)),
       Milliseconds(Quantile(result.latency, 1)), Milliseconds(Quantile(result.queue, 0.5)),
       Milliseconds(Quantile(result.compute, 0.5)), Milliseconds(Quantile(result.overhead, 0.5)),
       Milliseconds(Quantile(result.overhead, 0.99)), others});
}

absl::Status Bench(const Context& context, const BenchOptions& options) {
  auto connection = context.Options();
  if (!connection.ok()) return connection.status();
  auto client = client::Client::Connect(context.server, *connection);
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.model);
  if (!model.ok()) return model.status();
  const auto inputs = RandomRows(*model, options.rows);
  if (!inputs.ok()) return inputs.status();

  std::vector<client::LoadOptions> loads;
  client::LoadOptions load;
  load.duration = absl::Seconds(options.seconds);
  load.warm_up = absl::Seconds(options.warm_up_seconds);
  load.deadline = absl::Milliseconds(options.deadline_ms);
  load.connections = options.connections;
  for (const int concurrency : options.concurrency) {
    loads.push_back(load);
    loads.back().concurrency = concurrency;
  }
  for (const double rate : options.rates) {
    loads.push_back(load);
    loads.back().rate = rate;
  }
  if (loads.empty()) {
    loads.push_back(load);
    loads.back().concurrency = 1;
  }

  using Align = Table::Align;
  Table table({{"LOAD", Align::kRight},
               {"ANSWERS/S", Align::kRight},
               {"P50 MS", Align::kRight},
               {"P99 MS", Align::kRight},
               {"MAX MS", Align::kRight},
               {"QUEUE", Align::kRight},
               {"COMPUTE", Align::kRight},
               {"OVERHEAD", Align::kRight},
               {"P99", Align::kRight},
               {"OTHER OUTCOMES"}});
  Json runs = Json::array();
  for (const client::LoadOptions& one : loads) {
    const auto result = RunOne(context, *connection, options, *inputs, one);
    if (!result.ok()) return result.status();
    AddRow(one, *result, table);
    runs.push_back(ToJson(one, *result, options.rows));
  }
  if (context.json) {
    Print(Json{{"model", VersionedName(model->name, model->version)},
               {"method", options.score ? "score" : "predict"},
               {"rows", options.rows},
               {"runs", std::move(runs)}});
  } else {
    Print(table.ToString());
  }
  return absl::OkStatus();
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
  verb->add_option("--rows", options->rows, "Rows of a call, made of chance (default 1)")
      ->type_name("N")
      ->check(Positive());
  verb->add_option("--concurrency", options->concurrency,
                   "Calls in flight at all times, such as 1,8,64 (default 1)")
      ->type_name("N,...")
      ->delimiter(',')
      ->check(Positive());
  verb->add_option("--rate", options->rates,
                   "Calls per second at random times, such as 50,500; latency counts from the time "
                   "at which a call was meant to begin")
      ->type_name("R,...")
      ->delimiter(',')
      ->check(Positive());
  verb->add_option("--duration", options->seconds, "Seconds of each run (default 10)")
      ->type_name("SECONDS")
      ->check(Positive());
  verb->add_option("--warm-up", options->warm_up_seconds,
                   "Seconds of load before each run that do not count (default 2)")
      ->type_name("SECONDS");
  verb->add_option("--deadline", options->deadline_ms, "Of each call (default 60000)")
      ->type_name("MS")
      ->check(Positive());
  verb->add_option("--connections", options->connections, "Connections to the server (default 4)")
      ->type_name("N")
      ->check(Positive());
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
             "  laplace bench fashion_cnn --rate 40,400,2000 --deadline 250 --output json");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Bench(context, *options); };
  });
}

}  // namespace laplace::cli
