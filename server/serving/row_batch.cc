#include "server/serving/row_batch.h"

#include <cstring>
#include <exception>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/serving/answer_rows.h"

namespace laplaced {
namespace {

size_t RowBytes(const ArrayView& inputs) {
  auto bytes = static_cast<size_t>(ElementSize(inputs.dtype));
  for (size_t i = 1; i < inputs.shape.size(); ++i) bytes *= static_cast<size_t>(inputs.shape[i]);
  return bytes;
}

const char* RowsOf(const BatchPart& part) {
  const ArrayView& inputs = part.pending->request.inputs;
  return static_cast<const char*>(inputs.data) + static_cast<size_t>(part.begin) * RowBytes(inputs);
}

ArrayView InPlace(const BatchPart& part) {
  ArrayView view = part.pending->request.inputs;
  view.shape[0] = part.count;
  view.data = RowsOf(part);
  return view;
}

// The rows of all parts one after the other, in `buffer`, which is aligned for every type.
ArrayView Gather(const std::vector<BatchPart>& parts, std::unique_ptr<double[]>& buffer) {
  ArrayView view = parts[0].pending->request.inputs;
  const size_t row = RowBytes(view);
  view.shape[0] = 0;
  for (const BatchPart& part : parts) view.shape[0] += part.count;
  // Not make_unique, which would write zeros first.
  buffer.reset(
      new double[(static_cast<size_t>(view.shape[0]) * row + sizeof(double) - 1) / sizeof(double)]);
  char* to = reinterpret_cast<char*>(buffer.get());
  view.data = to;
  for (const BatchPart& part : parts) {
    const size_t bytes = static_cast<size_t>(part.count) * row;
    std::memcpy(to, RowsOf(part), bytes);
    to += bytes;
  }
  return view;
}

absl::StatusOr<Prediction> Run(const ServedModel& model, const ArrayView& inputs,
                               const PredictOptions& options, const ComputeContext& context) {
  return model.Predict(inputs, options, context);
}

absl::StatusOr<Scores> Run(const ServedModel& model, const ArrayView& inputs,
                           const ScoreOptions& options, const ComputeContext& context) {
  return model.Score(inputs, options, context);
}

template <typename Work>
absl::StatusOr<typename Work::Answer> Guarded(const PendingRequest& pending,
                                              const ArrayView& inputs, const Work& work,
                                              const ComputeContext& context) {
  try {
    return Run(*pending.request.model, inputs, work.options, context);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", error.what()));
  }
}

// Errors count rows from the beginning of the part.
absl::Status AboutPart(const BatchPart& part, const absl::Status& status) {
  if (part.begin == 0 || !absl::IsInvalidArgument(status)) return status;
  absl::Status result(status.code(), absl::StrCat(status.message(), " (rows counted from row ",
                                                  part.begin, " of the request)"));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& value) { result.SetPayload(url, value); });
  return result;
}

template <typename Work>
absl::Status ComputeAlone(const BatchPart& part, const ComputeContext& context) {
  auto& work = absl::get<Work>(part.pending->work);
  auto answer = Guarded(*part.pending, InPlace(part), work, context);
  if (!answer.ok()) return AboutPart(part, answer.status());
  if (part.count == part.pending->rows()) {
    work.answer = *std::move(answer);
  } else {
    AppendRows(*answer, 0, part.count, work.answer);
  }
  return absl::OkStatus();
}

template <typename Work>
std::vector<absl::Status> ComputeTogether(const std::vector<BatchPart>& parts,
                                          const ComputeContext& context) {
  std::vector<absl::Status> statuses(parts.size());
  if (parts.size() == 1) {
    statuses[0] = ComputeAlone<Work>(parts[0], context);
    return statuses;
  }
  const PendingRequest& first = *parts[0].pending;
  std::unique_ptr<double[]> buffer;
  const auto answer = Guarded(first, Gather(parts, buffer), absl::get<Work>(first.work), context);
  int64_t row = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const BatchPart& part = parts[i];
    if (answer.ok()) {
      AppendRows(*answer, row, part.count, absl::get<Work>(part.pending->work).answer);
    } else {
      statuses[i] = ComputeAlone<Work>(part, *part.pending->request.context);
    }
    row += part.count;
  }
  return statuses;
}

}  // namespace

std::vector<absl::Status> ComputeParts(const std::vector<BatchPart>& parts,
                                       const ComputeContext& context) {
  return absl::visit(
      [&](const auto& work) {
        return ComputeTogether<std::decay_t<decltype(work)>>(parts, context);
      },
      parts[0].pending->work);
}

}  // namespace laplaced
