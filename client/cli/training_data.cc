#include "client/cli/training_data.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/input_options.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

absl::StatusOr<PreparedData> Prepare(const std::string& name, const client::Model& model,
                                     Examples examples) {
  absl::Status status = ShapeForModel(model, name, examples.inputs);
  if (status.ok()) status = ShapeTargetsForModel(model, *examples.targets);
  if (!status.ok()) return status;
  absl::StatusOr<std::string> id = client::Client::DatasetId(examples.inputs, *examples.targets);
  if (!id.ok()) return id.status();
  return PreparedData{std::move(examples), *std::move(id)};
}

// Of the kind that the model's likelihood has.
absl::StatusOr<client::Array> ZeroTargets(const client::Model& model, int64_t rows) {
  if (model.likelihood == client::Likelihood::kCategorical) {
    return ::laplaced::AllocateArray(client::DType::kInt64, {rows});
  }
  return ::laplaced::AllocateArray(client::DType::kFloat32, {rows, model.n_outputs});
}

}  // namespace

void AddDataOptions(CLI::App& app, const std::string& flag, const std::string& labels_flag,
                    const std::string& what, bool required, ExampleFiles& files) {
  const std::string group = "Data";
  CLI::Option* inputs =
      app.add_option(
             flag, files.inputs,
             absl::StrCat(what, ": .npz with x and y, or a file of inputs (.npy, .npz, IDX) ",
                          "and one of labels"))
          ->type_name("FILE[,FILE]")
          ->required(required)
          ->group(group);
  app.add_option(labels_flag, files.targets, absl::StrCat("Labels or targets for ", flag))
      ->type_name("FILE")
      ->needs(inputs)
      ->group(group);
  AddRows(app, flag + "-rows", files.rows,
          absl::StrCat("Only these rows of ", flag, ", END excluded"))
      ->needs(inputs)
      ->group(group);
}

absl::StatusOr<PreparedData> PrepareData(const ExampleFiles& files, const client::Model& model,
                                         const std::string& labels_flag) {
  absl::StatusOr<Examples> examples = ReadExamples(files);
  if (!examples.ok()) return examples.status();
  if (!examples->targets) {
    return absl::InvalidArgumentError(absl::StrCat(
        files.inputs, ": holds no array y, targets or labels; name a file with ", labels_flag));
  }
  return Prepare(files.inputs, model, *std::move(examples));
}

absl::StatusOr<PreparedData> PrepareInputs(const ExampleFiles& files, const client::Model& model) {
  absl::StatusOr<Examples> examples = ReadExamples(files);
  if (!examples.ok()) return examples.status();
  if (!examples->targets) {
    // One example without a batch dimension becomes a batch first.
    const absl::Status status = ShapeForModel(model, files.inputs, examples->inputs);
    if (!status.ok()) return status;
    absl::StatusOr<client::Array> zeros = ZeroTargets(model, examples->inputs.rows());
    if (!zeros.ok()) return zeros.status();
    examples->targets = *std::move(zeros);
  }
  return Prepare(files.inputs, model, *std::move(examples));
}

absl::Status SendData(const client::Client& client, const PreparedData& data,
                      const std::string& what) {
  ProgressLine line(absl::StrCat("sending ", what));
  return client
      .EnsureDataset(data.examples.inputs, *data.examples.targets,
                     [&line](int64_t done, int64_t total) {
                       line.Update(static_cast<double>(done) / total,
                                   absl::StrCat(Count(done), "/", Count(total), " rows"));
                     })
      .status();
}

}  // namespace laplace::cli
