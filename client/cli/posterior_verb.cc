// laplace posterior ls|show|activate|update
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/curvature_tables.h"
#include "client/cli/fit_words.h"
#include "client/cli/follow.h"
#include "client/cli/json_output.h"
#include "client/cli/posterior_report.h"
#include "client/cli/table.h"
#include "client/cli/training_data.h"

namespace laplace::cli {
namespace {

using client::Posterior;

struct Arguments {
  ModelName model;
  std::string posterior_id;
  bool all = false;            // show
  ExampleFiles data;           // update
  bool keep_inactive = false;  // update
};

absl::Status List(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::vector<Posterior>> posteriors =
      (*client)->ListPosteriors(arguments.model.name, arguments.model.version);
  if (!posteriors.ok()) return posteriors.status();
  if (context.json) {
    Json json = {{"posteriors", Json::array()}};
    for (const Posterior& posterior : *posteriors) json["posteriors"].push_back(ToJson(posterior));
    Print(json);
    return absl::OkStatus();
  }
  if (posteriors->empty()) {
    Print(absl::StrCat("no posteriors yet: run laplace fit ", arguments.model.name, "\n"));
    return absl::OkStatus();
  }
  Table table({{"POSTERIOR"},
               {"ACTIVE"},
               {"STRUCTURE"},
               {"RANK", Table::Align::kRight},
               {"DEBIASING"},
               {"PRIOR PRECISION", Table::Align::kRight},
               {"LOG EVIDENCE", Table::Align::kRight},
               {"CREATED"}});
  for (const Posterior& posterior : *posteriors) {
    table.AddRow({posterior.id, posterior.active ? "yes" : "",
                  WordOf(kStructureWords, posterior.options.structure),
                  posterior.rank > 0 ? absl::StrCat(posterior.rank) : "",
                  WordOf(kDebiasingWords, posterior.options.debiasing),
                  Number(posterior.prior_precision), Number(posterior.log_marginal_likelihood),
                  posterior.create_time});
  }
  Print(table.ToString());
  return absl::OkStatus();
}

absl::Status Show(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Posterior> posterior = (*client)->GetPosterior(
      arguments.model.name, arguments.model.version, arguments.posterior_id);
  if (!posterior.ok()) return posterior.status();
  if (context.json) {
    Print(ToJson(*posterior));
  } else {
    Print(absl::StrCat(PosteriorSummary(*posterior), "\n",
                       CurvatureTables(*posterior, arguments.all ? -1 : 10)));
  }
  return absl::OkStatus();
}

absl::Status Activate(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Posterior> posterior = (*client)->ActivatePosterior(
      arguments.model.name, arguments.model.version, arguments.posterior_id);
  if (!posterior.ok()) return posterior.status();
  if (context.json) {
    Print(ToJson(*posterior));
  } else {
    Print(absl::StrCat("posterior ", posterior->id, " of ",
                       VersionedName(posterior->model, posterior->version),
                       " answers requests from now on\n"));
  }
  return absl::OkStatus();
}

absl::Status Update(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, arguments.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<PreparedData> data = PrepareData(arguments.data, *model, "--labels");
  if (!data.ok()) return data.status();
  if (absl::Status status = SendData(**client, *data, "new data"); !status.ok()) return status;
  client::UpdateRequest request;
  request.model = model->name;
  request.version = model->version;
  request.posterior_id = arguments.posterior_id;
  request.dataset_id = data->id;
  request.keep_inactive = arguments.keep_inactive;
  const absl::StatusOr<std::string> id =
      Follow(**client, "updating", [&](const client::OperationProgress& progress) {
        return (*client)->Update(request, progress);
      });
  if (!id.ok()) return id.status();
  return PrintPosterior(context, **client, *model, *id);
}

using Command = absl::Status (*)(const Context&, const Arguments&);

// A subcommand with MODEL; the caller adds the rest.
CLI::App* AddCommand(CLI::App& verb, Context& context, const std::string& name,
                     const std::string& description, const std::string& example, Command command,
                     const std::shared_ptr<Arguments>& arguments) {
  CLI::App* app = verb.add_subcommand(name, description);
  AddModelArgument(*app, arguments->model);
  SetExample(*app, example);
  app->callback([&context, arguments, command] {
    context.command = [&context, arguments, command] { return command(context, *arguments); };
  });
  return app;
}

}  // namespace

void AddPosteriorVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("posterior", "List, describe, switch and update posteriors");
  verb->require_subcommand(1);
  SetExample(*verb, "Example:\n  laplace posterior show fashion_cnn");

  AddCommand(*verb, context, "ls", "List the posteriors of a model, newest first",
             "Example:\n  laplace posterior ls fashion_cnn", List, std::make_shared<Arguments>());

  const auto show = std::make_shared<Arguments>();
  CLI::App* show_app =
      AddCommand(*verb, context, "show", "Describe a posterior and its curvature",
                 "Example:\n  laplace posterior show fashion_cnn --all", Show, show);
  show_app->add_option("POSTERIOR", show->posterior_id,
                       "Id of a posterior (default the active one)");
  show_app->add_flag("--all", show->all,
                     "Print every direction, not only ten, and every parameter tensor");

  const auto activate = std::make_shared<Arguments>();
  CLI::App* activate_app =
      AddCommand(*verb, context, "activate", "Make a posterior the one that answers requests",
                 "Example:\n  laplace posterior activate fashion_cnn 20240501-101500-5e21",
                 Activate, activate);
  activate_app->add_option("POSTERIOR", activate->posterior_id, "Id of a posterior")->required();

  const auto update = std::make_shared<Arguments>();
  CLI::App* update_app = AddCommand(
      *verb, context, "update",
      "Stream more training data into a posterior, and activate the new one that this makes",
      "Example:\n"
      "  laplace posterior update fashion_cnn --data new.npz\n"
      "\n"
      "Ctrl-C, SIGTERM or SIGHUP cancels the update; a second one leaves at once.",
      Update, update);
  AddDataOptions(*update_app, "--data", "--labels", "Examples that the posterior has not seen",
                 /*required=*/true, update->data);
  update_app
      ->add_option("--posterior", update->posterior_id,
                   "Id of the posterior to start from, which stays (default the active one)")
      ->type_name("POSTERIOR");
  update_app->add_flag("--keep-inactive", update->keep_inactive,
                       "Leave the active posterior as it is");
}

}  // namespace laplace::cli
