// A gRPC server for tests of the client: answers from a script, fails and delays on demand, and
// counts.
//
// Implements the generated services on a free local port. It knows one model, `digits/3` (two
// pixels in, three classes out, uint8 allowed), and one posterior of it. Predictions: class (first
// pixel mod 3) with probability 0.8, plain network 0.9; the score `variance` of a row is its second
// pixel, flagged above 100, any other score its first pixel, without a threshold. Function samples
// are the draw's number times 1000 plus the row's second pixel. Streams are answered like single
// requests. Thread-safe; lives until it is destroyed.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "laplace/v1/model.pb.h"
#include "laplace/v1/operation.pb.h"
#include "laplace/v1/posterior.pb.h"
#include "laplace/v1/prediction.pb.h"

namespace laplace::client {

// A status with google.rpc details, as the real server sends them.
grpc::Status ErrorWithField(grpc::StatusCode code, const std::string& message,
                            const std::string& field, const std::string& description);
grpc::Status ErrorWithRetryDelay(grpc::StatusCode code, const std::string& message,
                                 absl::Duration delay);

class FakeServer {
 public:
  // On a free port unless one is named.
  explicit FakeServer(const std::string& listen = "127.0.0.1:0");
  ~FakeServer();

  std::string address() const;

  // The next call of `method`, such as "GetModel", ends with this; several queue up.
  void FailNext(const std::string& method, const grpc::Status& status);
  // Calls of `method` take this much longer from now on, or until they are cancelled.
  void Delay(const std::string& method, absl::Duration delay);
  int Calls(const std::string& method) const;

  // State and message of the model from now on; unless READY it is described by nothing else, as
  // the real server does.
  void SetModelState(v1::ModelState state, const std::string& message);
  // Replaces the answer to ListOperations.
  void SetOperations(std::vector<v1::Operation> operations);
  // What WatchOperation sends for any operation, in order; each stream starts where the one before
  // was dropped.
  void SetOperationScript(std::vector<v1::Operation> script);
  // The next watch stream ends with `status` after `messages` messages.
  void DropNextWatch(int messages, const grpc::Status& status);
  // Watches send the first state of the script again and again until CancelOperation, then
  // CANCELLED.
  void RunUntilCancelled();

  // Data sets that were uploaded completely, by id.
  std::vector<std::string> DatasetIds() const;
  // Rows of each chunk of the last upload, and all its input and target bytes.
  struct LastUpload {
    v1::DatasetHeader header;
    std::vector<int64_t> chunk_rows;
    std::string input_bytes;
    std::string target_bytes;
  };
  LastUpload Upload() const;

  // What becomes of a PredictStream.
  struct StreamFault {
    int answers = 0;                         // it gives so many,
    int reads = 0;                           // takes so many batches more without an answer,
    grpc::Status status = grpc::Status::OK;  // and ends with this;
    bool silent = false;                     // or says no more until the client leaves
    std::string posterior_id = {};           // the posterior that its answers name
    int64_t row_shift = 0;                   // added to the first row that its answers name
  };
  // Of the next stream; several queue up.
  void FaultNextStream(const StreamFault& fault);
  // Of every stream from now on.
  void FaultEveryStream(const StreamFault& fault);
  // Every stream so far: how it started, and the rows of each batch that was read.
  struct StreamRecord {
    v1::PredictStreamStart start;
    std::vector<int64_t> batch_rows;
  };
  std::vector<StreamRecord> Streams() const;
  // The posterior that answers from now on; streams that ask for another one are refused.
  void SetActivePosterior(const std::string& id);
  // The mode that AUTO means from now on, EXACT at first.
  void SetChosenMode(v1::VarianceMode mode);

  v1::FitPosteriorRequest LastFit() const;
  v1::UpdatePosteriorRequest LastUpdate() const;
  v1::CalibrateOodRequest LastCalibration() const;
  v1::PredictRequest LastPredict() const;
  // Changes the model and the posterior that the server describes from now on.
  void ChangeModel(const std::function<void(v1::Model&)>& change);
  void ChangePosterior(const std::function<void(v1::Posterior&)>& change);
  // Replaces the answer to Predict.
  void SetPrediction(const v1::PredictResponse& response);
  void SetServing(bool serving);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace laplace::client
