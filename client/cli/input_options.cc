#include "client/cli/input_options.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/cli/batches.h"

namespace laplace::cli {

CLI::Option* AddRows(CLI::App& app, const std::string& flag, RowRange& rows,
                     const std::string& description) {
  return app
      .add_option_function<std::string>(
          flag,
          [&rows, flag](const std::string& text) {
            const absl::StatusOr<RowRange> range = ParseRowRange(text);
            if (!range.ok())
              throw CLI::ValidationError(flag, std::string(range.status().message()));
            rows = *range;
          },
          description)
      ->type_name("BEGIN:END");
}

void AddInputOptions(CLI::App& app, const std::string& kinds, InputOptions& options) {
  options.batch_size = kDefaultBatchSize;
  AddModelArgument(app, options.model);
  app.add_option("--input", options.files.inputs, absl::StrCat("Inputs: ", kinds))
      ->type_name("FILE")
      ->required();
  AddRows(app, "--rows", options.files.rows, "Only these rows of the file, END excluded");
  app.add_option("--limit", options.limit, "At most this many rows (default all)")
      ->type_name("N")
      ->check(Positive());
  app.add_option("--ood-score", options.ood_scores,
                 "OOD scores to compute, such as msp,variance (default the posterior's own)")
      ->type_name("NAME[,NAME...]")
      ->delimiter(',');
  app.add_option("--batch-size", options.batch_size, "Rows in one call (default 250)")
      ->type_name("N")
      ->check(Positive());
}

absl::StatusOr<Examples> ReadInput(const InputOptions& options, const client::Model& model) {
  absl::StatusOr<Examples> examples = ReadExamples(options.files);
  if (!examples.ok()) return examples.status();
  const absl::Status status = ShapeForModel(model, options.files.inputs, examples->inputs);
  if (!status.ok()) return status;
  const int64_t rows = examples->inputs.rows();
  if (options.limit > 0 && options.limit < rows) {
    examples->inputs = SliceRows(examples->inputs, 0, options.limit);
    if (examples->targets) examples->targets = SliceRows(*examples->targets, 0, options.limit);
  }
  return examples;
}

}  // namespace laplace::cli
