// laplace_example HOST:PORT MODEL: loads a classifier and predicts two examples of chance.
#include <iostream>
#include <random>

#include "client/cpp/client.h"

namespace {

absl::Status Run(const std::string& target, const std::string& name) {
  laplace::client::ClientOptions options;
  options.predict_timeout = absl::Seconds(10);
  const auto client = laplace::client::Client::Connect(target, options);
  if (!client.ok()) return client.status();

  const auto model = (*client)->LoadModel(name);
  if (!model.ok()) return model.status();

  laplace::client::PredictRequest request;
  request.model = model->name;
  request.inputs.shape = model->input_shape;
  request.inputs.shape.insert(request.inputs.shape.begin(), 2);  // [B, input_shape...]
  int64_t numbers = 1;
  for (const int64_t size : request.inputs.shape) numbers *= size;
  request.inputs.bytes.resize(numbers * sizeof(float));
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < numbers; ++i) request.inputs.data<float>()[i] = normal(random);

  const auto answer = (*client)->Predict(request);
  if (!answer.ok()) return answer.status();
  for (int64_t row = 0; row < 2; ++row) {
    std::cout << "mean";
    for (int64_t c = 0; c < model->n_outputs; ++c) {
      std::cout << ' ' << answer->mean[row * model->n_outputs + c];
    }
    std::cout << ", epistemic " << answer->epistemic[row] << '\n';
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: laplace_example HOST:PORT MODEL\n";
    return 2;
  }
  const absl::Status status = Run(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status << '\n';
  return status.ok() ? 0 : 1;
}
