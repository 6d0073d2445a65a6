// How a Client behaves towards the server: deadlines, retries, message sizes. A plain value.
//
// Every call has a deadline, and it covers all attempts and the waits between them. Retries are for
// calls that may safely be repeated, which is every call except starting a fit, an update or a
// calibration:
// UNAVAILABLE is tried again with exponential backoff and jitter, RESOURCE_EXHAUSTED only if the
// server said when to come back, and then never earlier than that.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace laplace::client {

struct RetryPolicy {
  // Attempts in all, the first included; 1 turns retries off.
  int max_attempts = 4;
  absl::Duration initial_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);
  // Growth of the backoff from one attempt to the next. Each wait is drawn from the upper half of
  // the backoff.
  double multiplier = 2;
};

struct TlsOptions {
  // The connection is encrypted and the server proves who it is.
  bool enabled = false;
  // PEM file of the authorities that may vouch for the server; empty: those of the system.
  std::string ca_cert_file;
  // PEM files of the client's own certificate and its key, for servers that ask for one.
  std::string client_cert_file;
  std::string client_key_file;
  // The name that the server's certificate is to bear, if it is not that of the target.
  std::string server_name;
};

struct ClientOptions {
  // Calls that read or change state: lists, descriptions, activation, cancellation, health.
  absl::Duration timeout = absl::Seconds(10);
  // LoadModel, which reads and tries a checkpoint; starting a fit, an update, a calibration or a
  // Newton step, which reads its data sets.
  absl::Duration load_timeout = absl::Minutes(2);
  // Predict and Score, and every answer of PredictStream and ScoreStream.
  absl::Duration predict_timeout = absl::Seconds(60);
  // EnsureDataset, from the first byte to the server's receipt.
  absl::Duration upload_timeout = absl::Minutes(15);
  // Fit, Update, Calibrate and WatchOperation, from start to end of the operation. Following stops
  // then; the operation itself goes on.
  absl::Duration operation_timeout = absl::Hours(24);
  // One watch stream; a longer operation is watched through several.
  absl::Duration watch_timeout = absl::Minutes(10);
  // One stream of rows; more of them go through several. The last part of it, half of it or twice
  // predict_timeout, is kept for answers that are outstanding.
  absl::Duration stream_timeout = absl::Minutes(10);

  RetryPolicy retry;

  TlsOptions tls;
  // Bearer token that every call shows. Refused without TLS, unless the server is on this machine.
  std::string token;

  // Rows of an upload travel in messages of about this size.
  int64_t upload_chunk_bytes = 256 * 1024;
  // Largest answer that is accepted.
  int max_receive_bytes = 64 * 1024 * 1024;
};

}  // namespace laplace::client
