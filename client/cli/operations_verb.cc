// laplace operations ls|watch|cancel
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/json_output.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Operation;

std::string ResultText(const Operation& operation) {
  if (operation.model_version > 0) return absl::StrCat("version ", operation.model_version);
  return operation.posterior_id.empty() ? operation.error_message : operation.posterior_id;
}

absl::Status List(const Context& context) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::vector<Operation>> operations = (*client)->ListOperations();
  if (!operations.ok()) return operations.status();
  if (context.json) {
    Json json = {{"operations", Json::array()}};
    for (const Operation& operation : *operations) json["operations"].push_back(ToJson(operation));
    Print(json);
    return absl::OkStatus();
  }
  Table table({{"OPERATION"},
               {"STATE"},
               {"WHAT"},
               {"DONE", Table::Align::kRight},
               {"STARTED"},
               {"RESULT"}});
  for (const Operation& operation : *operations) {
    table.AddRow({operation.id, StateName(operation.state), operation.description,
                  Percent(operation.fraction), operation.start_time, ResultText(operation)});
  }
  Print(operations->empty() ? std::string("no operations\n") : table.ToString());
  return absl::OkStatus();
}

absl::Status Watch(const Context& context, const std::string& id) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  absl::StatusOr<Operation> last;
  {
    ProgressLine line(id);
    last = (*client)->WatchOperation(id, [&line](const Operation& operation) {
      line.Update(operation);
      return true;
    });
  }
  if (!last.ok()) return last.status();
  if (context.json) Print(ToJson(*last));
  const absl::StatusOr<std::string> result = client::OperationResult(*last);
  if (!result.ok()) return result.status();
  if (context.json) return absl::OkStatus();
  Print(last->model_version > 0
            ? absl::StrCat("version ", last->model_version, ": ", last->result, "\n")
            : absl::StrCat("posterior ", *result, "\n"));
  return absl::OkStatus();
}

absl::Status Cancel(const Context& context, const std::string& id) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Operation> operation = (*client)->CancelOperation(id);
  if (!operation.ok()) return operation.status();
  if (context.json) {
    Print(ToJson(*operation));
  } else if (operation->finished()) {
    Print(absl::StrCat("operation ", id, " is over: ", StateName(operation->state), "\n"));
  } else {
    Print(absl::StrCat("operation ", id, " was asked to stop\n"));
  }
  return absl::OkStatus();
}

using Command = absl::Status (*)(const Context&, const std::string&);

void AddCommand(CLI::App& verb, Context& context, const std::string& name,
                const std::string& description, const std::string& example, Command command) {
  CLI::App* app = verb.add_subcommand(name, description);
  const auto id = std::make_shared<std::string>();
  app->add_option("OPERATION", *id, "Id of an operation, from laplace operations ls")->required();
  SetExample(*app, example);
  app->callback([&context, id, command] {
    context.command = [&context, id, command] { return command(context, *id); };
  });
}

}  // namespace

void AddOperationsVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("operations", "List, follow and cancel long-running work");
  verb->require_subcommand(1);
  SetExample(*verb, "Example:\n  laplace operations ls");
  CLI::App* list = verb->add_subcommand("ls", "List operations, newest first");
  SetExample(*list, "Example:\n  laplace operations ls");
  list->callback([&context] { context.command = [&context] { return List(context); }; });
  AddCommand(*verb, context, "watch", "Follow an operation to its end",
             "Example:\n  laplace operations watch op-5e21", Watch);
  AddCommand(*verb, context, "cancel", "Ask an operation to stop",
             "Example:\n  laplace operations cancel op-5e21", Cancel);
}

}  // namespace laplace::cli
