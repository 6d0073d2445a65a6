// A registry with a small trained-like classifier in it, its data, and the real server over it, for
// integration tests.
//
// The network "mlp" version 1 maps 4 numbers to 3 classes (51 parameters, tanh); its labels are
// drawn from its own predictions, so a fit makes sense. Failures to set up abort the test program.
#pragma once

#include <memory>
#include <string>

#include "client/cpp/client.h"
#include "formats/array.h"
#include "server/app/server.h"
#include "server/model/network.h"
#include "tests/support/temp_folder.h"

namespace laplaced::integration {

class World {
 public:
  World();

  const std::string& root() const { return folder_.path(); }
  std::string ModelFolder() const { return root() + "/models/mlp/1"; }
  std::string PosteriorFolder(const std::string& id) const {
    return ModelFolder() + "/posteriors/" + id;
  }

  // Starts the server in this process, with other settings than usual where `changes` has some;
  // `Stop` or another Start ends it.
  void Start(const laplace::v1::ServerConfig& changes = {});
  void Stop() { server_.reset(); }
  const std::string& address() const { return server_->address(); }

  std::unique_ptr<laplace::client::Client> Connect() const { return Connect(address()); }
  static std::unique_ptr<laplace::client::Client> Connect(const std::string& address);

  // Uploads the data and fits; returns the posterior's id. Fits take well under a second.
  std::string Fit(const laplace::client::Client& client, uint64_t seed = 0) const;
  laplace::client::FitRequest FitRequest(const laplace::client::Client& client) const;

  const Network& network() const { return network_; }
  const Array& train_inputs() const { return train_inputs_; }
  const Array& train_targets() const { return train_targets_; }
  const Array& test_inputs() const { return test_inputs_; }

 private:
  test_support::TempFolder folder_;
  Network network_;
  Array train_inputs_, train_targets_, validation_inputs_, validation_targets_, test_inputs_;
  std::unique_ptr<Server> server_;
};

// Float32 array of a tensor's values; int64 for integer tensors.
Array ToArray(const at::Tensor& tensor);
at::Tensor ToTensor(const Array& array);

}  // namespace laplaced::integration
