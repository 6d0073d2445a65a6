#include "tests/integration/world.h"

#include <torch/script.h>

#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "server/app/config.h"
#include "server/model/input_transform.h"
#include "server/model/torch_runtime.h"
#include "tests/reference/networks.h"

namespace laplaced::integration {
namespace {

constexpr char kManifest[] =
    R"({"likelihood": "categorical", "input": {"shape": [4], "dtype": "float32"},
  "n_outputs": 3, "class_names": ["a", "b", "c"], "n_data": 300, "weight_decay": 0.01})";

torch::jit::Module MakeMlp() {
  return reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                               "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                               "  return torch.linear(h, self.w2, self.b2)\n",
                               at::kFloat, 5, 1.0);
}

at::Tensor Inputs(int64_t n, uint64_t seed) {
  return reference::RandomNormal({n, 4}, seed, at::kFloat);
}

// One label per example, the most likely class after adding Gumbel noise: a draw from softmax(f).
at::Tensor Labels(const Network& network, const at::Tensor& x, uint64_t seed) {
  const at::Tensor noise = reference::RandomNormal({x.size(0), 3}, seed, at::kFloat);
  return (network.Forward(x) + noise).argmax(1);
}

}  // namespace

Array ToArray(const at::Tensor& tensor) {
  const bool labels = at::isIntegralType(tensor.scalar_type(), true);
  const at::Tensor t = tensor.to(labels ? at::kLong : at::kFloat).contiguous();
  Array array{labels ? DType::kInt64 : DType::kFloat32, t.sizes().vec(), ""};
  array.bytes.assign(static_cast<const char*>(t.data_ptr()), t.nbytes());
  return array;
}

at::Tensor ToTensor(const Array& array) {
  return AliasArray({array.dtype, array.shape, array.bytes.data()}).clone();
}

World::World() : network_(reference::MakeNetwork(MakeMlp(), {4}, 3)) {
  std::filesystem::create_directories(ModelFolder());
  test_support::WriteFileBytes(ModelFolder() + "/model.json", kManifest);
  MakeMlp().save(ModelFolder() + "/model.pt");
  const at::Tensor train = Inputs(300, 1), validation = Inputs(100, 2);
  train_inputs_ = ToArray(train);
  train_targets_ = ToArray(Labels(network_, train, 11));
  validation_inputs_ = ToArray(validation);
  validation_targets_ = ToArray(Labels(network_, validation, 12));
  test_inputs_ = ToArray(Inputs(40, 3));
}

void World::Start(const laplace::v1::ServerConfig& changes) {
  server_.reset();
  laplace::v1::ServerConfig config = DefaultConfig();
  config.set_registry(root());
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("off");
  config.set_max_batch_size(64);
  config.set_max_dataset_bytes(int64_t{1} << 20);
  config.set_drain_seconds(5);
  config.set_compute_threads(1);
  config.MergeFrom(changes);
  ServerBackend backend;
  backend.make_model_host = MakeModelHost;
  backend.make_fit_service = MakeFitService;
  backend.on_compute_thread = InitTorchThread;
  auto server = Server::Start(config, backend);
  if (!server.ok()) throw std::runtime_error(server.status().ToString());
  server_ = *std::move(server);
}

std::unique_ptr<laplace::client::Client> World::Connect(const std::string& address) {
  laplace::client::ClientOptions options;
  options.retry.max_attempts = 1;
  auto client = laplace::client::Client::Connect(address, options);
  if (!client.ok()) throw std::runtime_error(client.status().ToString());
  return *std::move(client);
}

laplace::client::FitRequest World::FitRequest(const laplace::client::Client& client) const {
  laplace::client::FitRequest request;
  request.model = "mlp";
  const auto train = client.EnsureDataset(train_inputs_, train_targets_);
  const auto validation = client.EnsureDataset(validation_inputs_, validation_targets_);
  if (!train.ok() || !validation.ok()) throw std::runtime_error(train.status().ToString());
  request.train_dataset_id = train->id;
  request.validation_dataset_id = validation->id;
  request.options.rank = 8;
  request.options.direction_batch_size = 100;
  request.options.curvature_batch_size = 200;
  return request;
}

std::string World::Fit(const laplace::client::Client& client, uint64_t seed) const {
  auto request = FitRequest(client);
  request.options.seed = seed;
  const auto id = client.Fit(request);
  if (!id.ok()) throw std::runtime_error(id.status().ToString());
  return *id;
}

}  // namespace laplaced::integration
