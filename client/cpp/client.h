// Client of a laplaced server: load a model, fit a posterior, predict with uncertainty, score
// inputs.
//
//   auto client = laplace::client::Client::Connect("127.0.0.1:8033");
//   auto model = (*client)->LoadModel("fashion_cnn");
//   auto data = (*client)->EnsureDataset(images, labels);
//   auto posterior_id = (*client)->Fit({"fashion_cnn", 0, data->id});
//   auto answer = (*client)->Predict({"fashion_cnn", 0, batch});
//
// One channel, shared by all calls. Thread-safe: any number of threads may call at the same time,
// and callbacks run on the thread that made the call. Every call is bounded in time and repeated
// where that is safe (options.h). Errors are the server's code and message with the offending field
// attached (errors.h); UNAVAILABLE says which address did not answer, INTERNAL that an answer
// contradicts itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/fit_types.h"
#include "client/cpp/options.h"
#include "client/cpp/stream_types.h"
#include "client/cpp/types.h"

namespace laplace::client {

// Rows that were sent, and how many there are.
using UploadProgress = std::function<void(int64_t done, int64_t total)>;

// Sees every state of an operation. Returning false stops: Fit, Update, Calibrate and
// NewtonStep cancel the operation, WatchOperation only looks away.
using OperationProgress = std::function<bool(const Operation&)>;

class Client {
 public:
  // Prepares a channel to "host:port"; the connection is made by the first call. INVALID_ARGUMENT
  // for an empty target or options that make no sense.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& target,
                                                         const ClientOptions& options = {});
  ~Client();

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  absl::StatusOr<Model> LoadModel(const std::string& name, int64_t version = 0) const;
  absl::Status UnloadModel(const std::string& name, int64_t version = 0) const;
  absl::StatusOr<std::vector<Model>> ListModels() const;
  absl::StatusOr<Model> GetModel(const std::string& name, int64_t version = 0) const;

  // Makes sure that the server has this data set and returns its description; sends rows only if
  // the server lacks them. Inputs [N, ...] are float32, float64 or uint8. Targets [N] of any
  // integer type are class labels, targets [N, C] of a float type are regression targets, or 0s and
  // 1s for a Bernoulli likelihood.
  // INVALID_ARGUMENT if the two do not fit together.
  absl::StatusOr<Dataset> EnsureDataset(const Array& inputs, const Array& targets,
                                        const UploadProgress& progress = nullptr) const;
  // The id that EnsureDataset would use, without asking the server.
  static absl::StatusOr<std::string> DatasetId(const Array& inputs, const Array& targets);

  // Fits a posterior, follows the work to its end, and returns the posterior's id. Survives dropped
  // connections. CANCELLED if the callback stopped it, the operation's own error if it failed.
  absl::StatusOr<std::string> Fit(const FitRequest& request,
                                  const OperationProgress& progress = nullptr) const;
  // Only starts it. Never repeated by the client: a lost answer could mean a second fit.
  absl::StatusOr<Operation> StartFit(const FitRequest& request) const;

  // Streams more data into a posterior, likewise, and returns the id of the new posterior.
  absl::StatusOr<std::string> Update(const UpdateRequest& request,
                                     const OperationProgress& progress = nullptr) const;
  absl::StatusOr<Operation> StartUpdate(const UpdateRequest& request) const;

  // Sets the thresholds of a posterior's OOD scores anew, likewise, and returns the id of the new
  // posterior.
  absl::StatusOr<std::string> Calibrate(const CalibrateRequest& request,
                                        const OperationProgress& progress = nullptr) const;
  absl::StatusOr<Operation> StartCalibrate(const CalibrateRequest& request) const;

  // Moves a checkpoint closer to the minimum of its training objective, likewise, and returns the
  // operation, whose model_version is the new version of the model. FAILED_PRECONDITION, with
  // nothing written, if held-out examples say that the model would not get better.
  absl::StatusOr<Operation> NewtonStep(const NewtonRequest& request,
                                       const OperationProgress& progress = nullptr) const;
  absl::StatusOr<Operation> StartNewtonStep(const NewtonRequest& request) const;

  // Follows an operation until it ends (or the callback returns false) and returns its last state.
  absl::StatusOr<Operation> WatchOperation(const std::string& id,
                                           const OperationProgress& progress = nullptr) const;
  absl::StatusOr<Operation> GetOperation(const std::string& id) const;
  absl::StatusOr<Operation> CancelOperation(const std::string& id) const;
  absl::StatusOr<std::vector<Operation>> ListOperations() const;

  // Newest first, without spectra.
  absl::StatusOr<std::vector<Posterior>> ListPosteriors(const std::string& model,
                                                        int64_t version = 0) const;
  // An empty id means the active one.
  absl::StatusOr<Posterior> GetPosterior(const std::string& model, int64_t version = 0,
                                         const std::string& posterior_id = "") const;
  absl::StatusOr<Posterior> ActivatePosterior(const std::string& model, int64_t version,
                                              const std::string& posterior_id) const;
  // For good. FAILED_PRECONDITION for the active one. Repeated like other calls, but then NOT_FOUND
  // counts as done: the answer to the attempt before was lost.
  absl::Status DeletePosterior(const std::string& model, int64_t version,
                               const std::string& posterior_id) const;

  absl::StatusOr<Prediction> Predict(const PredictRequest& request) const;
  absl::StatusOr<Scores> Score(const ScoreRequest& request) const;

  // Predict and Score for any number of rows: `request` says how and has no inputs, `source` yields
  // batches, and `sink` gets the answer to each of them once and in order. At most two batches are
  // held and under way, so an answer may wait for one more batch from a slow source. All answers
  // come from one version and one posterior, in one mode. A stream that breaks off (UNAVAILABLE, or
  // RESOURCE_EXHAUSTED with a time to come back) is taken up at the first row without an answer, as
  // often as the retry policy allows in a row without any answer; FAILED_PRECONDITION if the server
  // has another posterior by then, DEADLINE_EXCEEDED if a batch has no answer within
  // predict_timeout. Errors of source and sink are returned as they are. OK: every row was
  // answered.
  absl::Status PredictStream(const PredictRequest& request, const RowSource& source,
                             const PredictionSink& sink, const StreamOptions& options = {}) const;
  absl::Status ScoreStream(const ScoreRequest& request, const RowSource& source,
                           const ScoresSink& sink, const StreamOptions& options = {}) const;

  // State of the server, or of one service of it. NOT_FOUND for a service that the server does not
  // know.
  absl::StatusOr<HealthState> Health(const std::string& service = "") const;

  // What Connect was given.
  const std::string& target() const;

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

// Result of an operation that has ended: its posterior id (empty after a Newton step), or why there
// is none.
absl::StatusOr<std::string> OperationResult(const Operation& operation);

}  // namespace laplace::client
