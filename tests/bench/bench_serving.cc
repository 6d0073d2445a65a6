// What serving costs (make bench-serving): calls of laplaced with a model that computes nothing,
// beside gRPC itself, with the same requests from the same generator on the same machine.
//
// "echo" sends a message of 3 kB back as it came, without looking at it: gRPC and nothing else.
// "protobuf" takes the request apart and sends an empty answer. The others are the whole server.
// Every server is a process of its own; rounds alternate between them, so that a noisy moment does
// not hit one alone.
#include <grpcpp/grpcpp.h>
#include <inference/grpc_predict_v2.pb.h>
#include <laplace/v1/prediction.grpc.pb.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/table.h"
#include "client/cpp/load_run.h"
#include "server/app/config.h"
#include "server/app/server.h"
#include "tests/bench/identity_model.h"
#include "tests/bench/served_process.h"
#include "tests/support/fake_model_host.h"
#include "tests/support/temp_folder.h"

namespace laplaced::bench {
namespace {

namespace v1 = laplace::v1;
using laplace::cli::Table;
using laplace::client::LoadMethod;
using laplace::client::LoadOptions;
using laplace::client::LoadResult;
using laplace::client::ServerSeconds;

// Sends what came, as bytes.
class Echo final
    : public v1::PredictionService::WithRawCallbackMethod_Predict<v1::PredictionService::Service> {
 public:
  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* call,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override {
    *response = *request;
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

class Protobuf final : public v1::PredictionService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* call, const v1::PredictRequest*,
                                    v1::PredictResponse*) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

template <typename Service>
int ServeBare() {
  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  ServeUntilParentEnds(absl::StrCat("127.0.0.1:", port));
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

int ServeLaplaced() {
  const test_support::TempFolder registry;
  v1::ServerConfig config = DefaultConfig();
  config.set_registry(registry.path());
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("off");
  config.set_load("none");
  ServerBackend backend;
  backend.make_model_host = [](const Repository&, const ModelHostOptions&) {
    return MakeIdentityHost();
  };
  backend.make_fit_service = [](const Repository&, const DatasetStore&, ModelHost& models,
                                Operations& operations) {
    return std::make_unique<test_support::FakeFitService>(models, operations);
  };
  const auto server = Server::Start(config, backend);
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  ServeUntilParentEnds((*server)->address());
  return 0;
}

int Serve(const std::string& kind) {
  if (kind == "echo") return ServeBare<Echo>();
  if (kind == "protobuf") return ServeBare<Protobuf>();
  return ServeLaplaced();
}

std::vector<float> Inputs() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(kIdentityInputs);
  for (float& value : values) value = normal(random);
  return values;
}

grpc::ByteBuffer Bytes(const google::protobuf::Message& message) {
  grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

template <typename Response>
ServerSeconds TimingOf(grpc::ByteBuffer& answer) {
  Response response;
  if (!grpc::SerializationTraits<Response>::Deserialize(&answer, &response).ok()) return {};
  return {response.timing().queue_seconds(), response.timing().compute_seconds()};
}

template <typename Request>
LoadMethod Native(const std::string& name) {
  Request request;
  request.set_model(kIdentityName);
  v1::Tensor& inputs = *request.mutable_inputs();
  const std::vector<float> values = Inputs();
  inputs.set_dtype(v1::DATA_TYPE_FLOAT32);
  inputs.add_shape(1);
  inputs.add_shape(kIdentityInputs);
  inputs.mutable_float32_values()->Assign(values.begin(), values.end());
  LoadMethod method;
  method.path = absl::StrCat("/laplace.v1.PredictionService/", name);
  method.requests.push_back(Bytes(request));
  return method;
}

LoadMethod ModelInfer() {
  inference::ModelInferRequest request;
  request.set_model_name(kIdentityName);
  auto& input = *request.add_inputs();
  input.set_name("input");
  input.set_datatype("FP32");
  input.add_shape(1);
  input.add_shape(kIdentityInputs);
  const std::vector<float> values = Inputs();
  request.add_raw_input_contents(values.data(), values.size() * sizeof(float));
  LoadMethod method;
  method.path = "/inference.GRPCInferenceService/ModelInfer";
  method.requests.push_back(Bytes(request));
  return method;
}

struct Subject {
  std::string name;
  std::reference_wrapper<const ServedProcess> server;
  LoadMethod method;
};

// Over all rounds.
struct Measured {
  LoadResult load;
  double cpu_seconds = 0;
};

void Run(const Subject& subject, int concurrency, double seconds, Measured& measured) {
  LoadOptions options;
  options.concurrency = concurrency;
  options.warm_up = absl::ZeroDuration();
  options.connections = std::min(concurrency, 4);
  options.duration = absl::Seconds(seconds / 10);
  const auto warm = RunLoad(subject.server.get().address(), {}, subject.method, options);
  options.duration = absl::Seconds(seconds);
  const double cpu = subject.server.get().CpuSeconds();
  const auto run = RunLoad(subject.server.get().address(), {}, subject.method, options);
  if (!warm.ok() || !run.ok() || run->latency.count() != run->offered || run->offered == 0) {
    std::fprintf(stderr, "calls of %s failed: %s\n", subject.name.c_str(),
                 run.ok() ? run->codes.begin()->first.c_str() : run.status().ToString().c_str());
    std::exit(1);
  }
  measured.cpu_seconds += subject.server.get().CpuSeconds() - cpu;
  measured.load.seconds += run->seconds;
  measured.load.latency.Merge(run->latency);
  measured.load.overhead.Merge(run->overhead);
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3f", 1e3 * seconds); }

void AddRow(const std::string& name, int concurrency, const Measured& m, double echo,
            Table& table) {
  const LoadResult& load = m.load;
  const bool timed = load.overhead.count() > 0;
  const double calls = load.goodput();
  table.AddRow(
      {name, absl::StrCat(concurrency), absl::StrFormat("%.0f", calls),
       Milliseconds(load.latency.Quantile(0.5)), Milliseconds(load.latency.Quantile(0.99)),
       timed ? Milliseconds(load.overhead.Quantile(0.5)) : "",
       timed ? Milliseconds(load.overhead.Quantile(0.99)) : "",
       absl::StrFormat("%.0f", 1e6 * m.cpu_seconds / static_cast<double>(load.latency.count())),
       absl::StrFormat("%.0f %%", 100 * calls / echo)});
}

int Bench(const std::vector<int>& concurrency, double seconds, int rounds,
          const std::string& only) {
  const ServedProcess echo("echo"), protobuf("protobuf"), laplaced("laplaced");
  LoadMethod predict = Native<v1::PredictRequest>("Predict");
  std::vector<Subject> subjects = {{"gRPC echo", echo, predict},
                                   {"gRPC and protobuf", protobuf, predict}};
  predict.server_seconds = TimingOf<v1::PredictResponse>;
  LoadMethod score = Native<v1::ScoreRequest>("Score");
  score.server_seconds = TimingOf<v1::ScoreResponse>;
  subjects.push_back({"Predict", laplaced, std::move(predict)});
  subjects.push_back({"Score", laplaced, std::move(score)});
  subjects.push_back({"ModelInfer", laplaced, ModelInfer()});
  if (!only.empty()) {
    const auto other = [&](const Subject& subject) {
      return &subject.server.get() == &laplaced && subject.name != only;
    };
    subjects.erase(std::remove_if(subjects.begin() + 1, subjects.end(), other), subjects.end());
    subjects.erase(subjects.begin() + 1);
  }

  using Align = Table::Align;
  Table table({{"call"},
               {"in flight", Align::kRight},
               {"calls/s", Align::kRight},
               {"p50, ms", Align::kRight},
               {"p99", Align::kRight},
               {"overhead p50, ms", Align::kRight},
               {"p99", Align::kRight},
               {"server CPU, us/call", Align::kRight},
               {"of echo", Align::kRight}});
  for (const int calls : concurrency) {
    std::vector<Measured> measured(subjects.size());
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < subjects.size(); ++i) Run(subjects[i], calls, seconds, measured[i]);
    }
    for (size_t i = 0; i < subjects.size(); ++i) {
      AddRow(subjects[i].name, calls, measured[i], measured[0].load.goodput(), table);
    }
  }
  std::printf("One row of %d float32 values (%.1f kB) a call, %u cores, %d rounds of %.1f s.\n\n%s",
              static_cast<int>(kIdentityInputs), 4e-3 * kIdentityInputs,
              std::thread::hardware_concurrency(), rounds, seconds, table.ToMarkdown().c_str());
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("What serving costs: laplaced with a model that computes nothing, beside bare gRPC");
  std::vector<int> concurrency = {1, 8, 64};
  double seconds = 2;
  int rounds = 3;
  std::string only, serve;
  app.add_option("--concurrency", concurrency, "Calls in flight (default 1,8,64)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", seconds, "Of each round (default 2)")->check(CLI::PositiveNumber);
  app.add_option("--rounds", rounds, "Of all calls (default 3)")->check(CLI::PositiveNumber);
  app.add_option("--only", only, "Of laplaced's calls, and the echo: Predict, Score or ModelInfer")
      ->check(CLI::IsMember({"Predict", "Score", "ModelInfer"}));
  app.add_option("--serve", serve, "Be one of the servers: echo, protobuf, laplaced")->group("");
  CLI11_PARSE(app, argc, argv);
  // As laplaced does, and for the others alike.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return serve.empty() ? Bench(concurrency, seconds, rounds, only) : Serve(serve);
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) { return laplaced::bench::Main(argc, argv); }
