#include "client/cli/follow.h"

#include "absl/strings/str_cat.h"
#include "client/cli/curvature_tables.h"
#include "client/cli/json_output.h"
#include "client/cli/posterior_report.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "client/cpp/errors.h"

namespace laplace::cli {

absl::StatusOr<std::string> Follow(const client::Client& client, const std::string& what,
                                   const Run& run) {
  const InterruptFlag interrupt;
  bool started = false;
  absl::StatusOr<std::string> id;
  {
    ProgressLine line(what);
    id = run([&](const client::Operation& operation) {
      started = true;
      line.Update(operation);
      return !interrupt.raised();
    });
  }
  if (!id.ok() && !started) return ExplainRefusal(client, id.status());
  return id;
}

absl::Status ExplainRefusal(const client::Client& client, const absl::Status& refusal) {
  if (!absl::IsResourceExhausted(refusal)) return refusal;
  const auto operations = client.ListOperations();
  if (!operations.ok()) return refusal;
  std::string message(refusal.message());
  for (const client::Operation& operation : *operations) {
    if (operation.finished()) continue;
    absl::StrAppend(&message, "; running: ", operation.id, " (", operation.description, ", ",
                    Percent(operation.fraction), " done), watch it with: laplace operations watch ",
                    operation.id, ", or cancel it with: laplace operations cancel ", operation.id);
  }
  return client::WithMessage(refusal, message);
}

absl::Status PrintPosterior(const Context& context, const client::Client& client,
                            const client::Model& model, const std::string& id) {
  const auto posterior = client.GetPosterior(model.name, model.version, id);
  if (!posterior.ok()) return posterior.status();
  if (context.json) {
    Print(ToJson(*posterior));
  } else {
    Print(absl::StrCat(PosteriorSummary(*posterior), "\n", CurvatureTables(*posterior, 5)));
  }
  return absl::OkStatus();
}

}  // namespace laplace::cli
