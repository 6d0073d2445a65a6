// laplace posterior ls|show|activate|update|calibrate
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
  ExampleFiles data;           // update and calibrate
  bool keep_inactive = false;  // likewise
  double target_id_rate = 0;   // calibrate
  std::string default_ood_score;
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

absl::Status Remove(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const ModelName& model = arguments.model;
  absl::Status status =
      (*client)->DeletePosterior(model.name, model.version, arguments.posterior_id);
  if (!status.ok()) return status;
  if (context.json) {
    Print(Json{{"id", arguments.posterior_id}, {"deleted", true}});
  } else {
    Print(absl::StrCat("posterior ", arguments.posterior_id, " of ",
                       VersionedName(model.name, model.version), " is deleted\n"));
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

absl::Status Calibrate(const Context& context, const Arguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, arguments.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<PreparedData> data = PrepareInputs(arguments.data, *model);
  if (!data.ok()) return data.status();
  const absl::Status sent = SendData(**client, *data, "calibration data");
  if (!sent.ok()) return sent;
  client::CalibrateRequest request;
  request.model = model->name;
  request.version = model->version;
  request.posterior_id = arguments.posterior_id;
  request.dataset_id = data->id;
  request.target_id_rate = arguments.target_id_rate;
  request.default_ood_score = arguments.default_ood_score;
  request.keep_inactive = arguments.keep_inactive;
  const absl::StatusOr<std::string> id =
      Follow(**client, "calibrating", [&](const client::OperationProgress& progress) {
        return (*client)->Calibrate(request, progress);
      });
  if (!id.ok()) return id.status();
  const auto posterior = (*client)->GetPosterior(model->name, model->version, *id);
  if (!posterior.ok()) return posterior.status();
  if (context.json) {
    Print(ToJson(*posterior));
  } else {
    Print(absl::StrCat("posterior ", posterior->id, posterior->active ? " (active)" : "", "\n\n",
                       ThresholdTable(*posterior)));
  }
  return absl::OkStatus();
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

// Options of what makes a new posterior from another one.
void AddStart(CLI::App& app, Arguments& arguments) {
  app.add_option("--posterior", arguments.posterior_id,
                 "Id of the posterior to start from, which stays (default the active one)")
      ->type_name("POSTERIOR");
  app.add_flag("--keep-inactive", arguments.keep_inactive, "Leave the active posterior as it is");
}

}  // namespace

void AddPosteriorVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "posterior", "List, describe, switch, delete, update and calibrate posteriors");
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

  const auto remove = std::make_shared<Arguments>();
  CLI::App* remove_app = AddCommand(
      *verb, context, "rm", "Delete a posterior for good; the active one cannot be deleted",
      "Example:\n  laplace posterior rm fashion_cnn 20240501-101500-5e21", Remove, remove);
  remove_app->add_option("POSTERIOR", remove->posterior_id, "Id of a posterior")->required();

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
  AddStart(*update_app, *update);

  const auto calibrate = std::make_shared<Arguments>();
  CLI::App* calibrate_app = AddCommand(
      *verb, context, "calibrate",
      "Set the thresholds of all OOD scores from in-distribution data, and activate the new "
      "posterior that this makes",
      "Example:\n"
      "  laplace posterior calibrate fashion_cnn --data held_out.npz --target-id-rate 0.01\n"
      "\n"
      "Ctrl-C, SIGTERM or SIGHUP cancels the calibration; a second one leaves at once.",
      Calibrate, calibrate);
  AddDataOptions(*calibrate_app, "--data", "--labels",
                 "In-distribution examples that training has not seen, with or without labels, "
                 "which are not used",
                 /*required=*/true, calibrate->data);
  calibrate_app
      ->add_option("--target-id-rate", calibrate->target_id_rate,
                   "Share of such data that thresholds aim to flag, above 0 and below 1 (default "
                   "what the posterior aims at)")
      ->type_name("X")
      ->check(Positive());
  calibrate_app
      ->add_option("--default-ood-score", calibrate->default_ood_score,
                   "The score that answers when a request names none (default as it is)")
      ->type_name("NAME");
  AddStart(*calibrate_app, *calibrate);
}

}  // namespace laplace::cli
