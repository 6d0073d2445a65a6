// laplace models load|ls|show|unload
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/context.h"
#include "client/cli/json_output.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Model;

// Characters of a model's message in a list; `laplace models show` prints all of it.
constexpr size_t kNoteWidth = 60;

std::string InputText(const Model& model) {
  return absl::StrCat(::laplaced::DTypeName(model.input_dtype),
                      model.accepts_uint8 ? " or uint8 " : " ", Shape(model.input_shape));
}

std::string WeightDecay(const Model& model) {
  const std::string text = Number(model.weight_decay);
  if (model.bias_weight_decay == model.weight_decay) return text;
  return absl::StrCat(text, ", of biases and scales ", Number(model.bias_weight_decay));
}

std::string Description(const Model& model) {
  std::vector<std::pair<std::string, std::string>> lines = {
      {"model", VersionedName(model.name, model.version)}, {"state", StateName(model.state)}};
  lines.emplace_back(model.state == client::ModelState::kReady ? "note" : "reason",
                     model.state_message);
  if (model.state == client::ModelState::kReady) {
    lines.insert(lines.end(),
                 {{"description", model.description},
                  {"likelihood", LikelihoodName(model.likelihood)},
                  {"input", InputText(model)},
                  {"outputs", Count(model.n_outputs)},
                  {model.likelihood == client::Likelihood::kBernoulli ? "labels" : "classes",
                   absl::StrJoin(model.class_names, ", ")},
                  {"parameters",
                   absl::StrCat(Count(model.n_parameters), " in ",
                                model.captured_parameters.size() + model.generic_parameters.size(),
                                " tensors")},
                  {"  on the slow path", absl::StrJoin(model.generic_parameters, ", ")},
                  {"  of the last layer", absl::StrJoin(model.last_layer_parameters, ", ")},
                  {"training examples", Count(model.n_data)},
                  {"weight decay", WeightDecay(model)},
                  {"noise", model.likelihood == client::Likelihood::kGaussian
                                ? absl::StrCat("standard deviation ", Number(model.sigma_noise))
                                : ""},
                  {"checkpoint", ShortHash(model.checkpoint_sha256)},
                  {"memory", absl::StrCat(Count((model.memory_bytes + 1023) / 1024), " KiB")},
                  {"posterior", model.active_posterior_id.empty() ? "none yet: run laplace fit"
                                                                  : model.active_posterior_id}});
  }
  std::vector<std::pair<std::string, std::string>> filled;
  for (auto& line : lines) {
    if (!line.second.empty()) filled.push_back(std::move(line));
  }
  return NameValueList(filled);
}

// A column of notes only if there are any.
std::string ModelTable(const std::vector<Model>& models) {
  std::vector<Table::Column> columns = {{"MODEL"},
                                        {"STATE"},
                                        {"LIKELIHOOD"},
                                        {"INPUT"},
                                        {"OUTPUTS", Table::Align::kRight},
                                        {"PARAMETERS", Table::Align::kRight},
                                        {"POSTERIOR"}};
  const bool notes = std::any_of(models.begin(), models.end(),
                                 [](const Model& model) { return !model.state_message.empty(); });
  if (notes) columns.push_back({"NOTE"});
  Table table(columns);
  for (const Model& model : models) {
    std::vector<std::string> cells = {VersionedName(model.name, model.version),
                                      StateName(model.state)};
    if (model.state == client::ModelState::kReady) {
      cells.insert(cells.end(),
                   {LikelihoodName(model.likelihood), InputText(model), Count(model.n_outputs),
                    Count(model.n_parameters),
                    model.active_posterior_id.empty() ? "none" : model.active_posterior_id});
    }
    cells.resize(columns.size());
    if (notes) cells.back() = Shortened(model.state_message, kNoteWidth);
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

void PrintModel(const Context& context, const Model& model) {
  if (context.json) {
    Print(ToJson(model));
  } else {
    Print(Description(model));
  }
}

absl::Status Load(const Context& context, const ModelName& name) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Model> model = (*client)->LoadModel(name.name, name.version);
  if (!model.ok()) return model.status();
  PrintModel(context, *model);
  return absl::OkStatus();
}

absl::Status Show(const Context& context, const ModelName& name) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Model> model = (*client)->GetModel(name.name, name.version);
  if (!model.ok()) return model.status();
  PrintModel(context, *model);
  return absl::OkStatus();
}

absl::Status Unload(const Context& context, const ModelName& name) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::Status status = (*client)->UnloadModel(name.name, name.version);
  if (!status.ok()) return status;
  const std::string text = VersionedName(name.name, name.version);
  if (context.json) {
    Print(Json{{"unloaded", text}});
  } else {
    Print(absl::StrCat("unloaded ", text, "; its files stay in the registry\n"));
  }
  return absl::OkStatus();
}

absl::Status List(const Context& context) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::vector<Model>> models = (*client)->ListModels();
  if (!models.ok()) return models.status();
  if (context.json) {
    Json json = {{"models", Json::array()}};
    for (const Model& model : *models) json["models"].push_back(ToJson(model));
    Print(json);
    return absl::OkStatus();
  }
  if (models->empty()) {
    Print(std::string("no models: put one into <registry>/models/NAME/VERSION/\n"));
    return absl::OkStatus();
  }
  Print(ModelTable(*models));
  return absl::OkStatus();
}

using ModelCommand = absl::Status (*)(const Context&, const ModelName&);

void AddModelCommand(CLI::App& verb, Context& context, const std::string& name,
                     const std::string& description, const std::string& example,
                     ModelCommand command) {
  CLI::App* app = verb.add_subcommand(name, description);
  const auto model = std::make_shared<ModelName>();
  AddModelArgument(*app, *model);
  SetExample(*app, example);
  app->callback([&context, model, command] {
    context.command = [&context, model, command] { return command(context, *model); };
  });
}

}  // namespace

void AddModelsVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand("models", "Load, list, describe and unload models");
  verb->require_subcommand(1);
  SetExample(*verb, "Example:\n  laplace models load fashion_cnn");
  AddModelCommand(*verb, context, "load", "Read a checkpoint of the registry and make it servable",
                  "Example:\n  laplace models load fashion_cnn/1", Load);
  CLI::App* list = verb->add_subcommand("ls", "List the models of the registry");
  SetExample(*list, "Example:\n  laplace models ls --output json");
  list->callback([&context] { context.command = [&context] { return List(context); }; });
  AddModelCommand(*verb, context, "show", "Describe one model",
                  "Example:\n  laplace models show fashion_cnn", Show);
  AddModelCommand(*verb, context, "unload", "Stop serving a model; its files stay",
                  "Example:\n  laplace models unload fashion_cnn", Unload);
}

}  // namespace laplace::cli
