// Predicts clothes, handwritten digits and spoiled clothes through the client library, and prints
// what came out.
//
// The server must serve a Fashion-MNIST model with an active posterior. Everything printed is
// computed here from the server's answers. Exits with 0 if every step worked, with 1 otherwise.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/batches.h"
#include "client/cli/context.h"
#include "client/cli/detection_metrics.h"
#include "client/cli/examples.h"
#include "client/cli/metrics.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "client/cpp/client.h"
#include "client/demo/odd_images.h"

namespace laplace::demo {
namespace {

using cli::Percent;
using cli::Table;
using client::Prediction;

constexpr int64_t kSpoiledImages = 1000;
constexpr double kSpoiledNoise = 60;

struct Arguments {
  std::string server;
  std::string model = "fashion_cnn";
  std::string images;
  std::string labels;
  std::string digits;
};

// Inputs of one kind, what they really are, and what the server says about them.
struct Group {
  std::string kind;
  client::Array inputs;
  std::vector<int64_t> labels;
  Prediction prediction;
};

absl::StatusOr<std::vector<Group>> ReadGroups(const Arguments& arguments,
                                              const client::Model& model) {
  absl::StatusOr<cli::Examples> clothes =
      cli::ReadExamples({arguments.images, arguments.labels, {}});
  if (!clothes.ok()) return clothes.status();
  if (!clothes->targets) return absl::InvalidArgumentError("the clothes have no labels");
  absl::StatusOr<std::vector<int64_t>> labels =
      cli::ClassLabels(*clothes->targets, model.n_outputs);
  if (!labels.ok()) return labels.status();
  absl::StatusOr<LabelledImages> digits = ReadUciDigits(arguments.digits);
  if (!digits.ok()) return digits.status();

  std::vector<Group> groups;
  groups.push_back({"clothes", std::move(clothes->inputs), *std::move(labels), {}});
  groups.push_back({"digit", std::move(digits->images), std::move(digits->labels), {}});
  client::Array spoiled = TurnedAndNoisy(groups[0].inputs, kSpoiledImages, kSpoiledNoise, 0);
  const std::vector<int64_t>& all = groups[0].labels;
  groups.push_back({"spoiled",
                    std::move(spoiled),
                    {all.begin(), all.begin() + std::min<int64_t>(all.size(), kSpoiledImages)},
                    {}});
  for (Group& group : groups) {
    const absl::Status status = cli::ShapeForModel(model, group.kind, group.inputs);
    if (!status.ok()) return status;
  }
  return groups;
}

absl::Status PredictGroup(const client::Client& client, const client::Model& model,
                          const std::vector<std::string>& scores, Group& group) {
  client::PredictRequest request;
  request.model = model.name;
  request.version = model.version;
  request.inputs = group.inputs;
  request.ood_scores = scores;
  cli::ProgressLine line(absl::StrCat("predicting ", group.kind));
  absl::StatusOr<Prediction> prediction = cli::PredictRows(
      client, request, cli::kDefaultBatchSize, [&line](int64_t done, int64_t total) {
        line.Update(static_cast<double>(done) / total,
                    absl::StrCat(cli::Count(done), "/", cli::Count(total), " images"));
      });
  if (!prediction.ok()) return prediction.status();
  group.prediction = *std::move(prediction);
  if (group.prediction.ood_scores.size() != scores.size() ||
      !group.prediction.ood_scores[0].threshold) {
    return absl::FailedPreconditionError(
        "the posterior has no OOD threshold; fit it with validation data");
  }
  return absl::OkStatus();
}

// The first rows whose prediction is right (or wrong), each of another true class.
std::vector<int64_t> Pick(const Group& group, bool right, size_t count) {
  std::vector<int64_t> rows;
  std::set<int64_t> seen;
  for (int64_t row = 0; row < group.prediction.batch && rows.size() < count; ++row) {
    const int64_t predicted = cli::ArgMax(group.prediction.mean, group.prediction.outputs, row);
    if ((predicted == group.labels[row]) != right) continue;
    if (seen.insert(group.labels[row]).second) rows.push_back(row);
  }
  return rows;
}

void AddRow(const client::Model& model, const Group& group, const std::string& kind, int64_t row,
            const std::string& true_class, Table& table) {
  const Prediction& prediction = group.prediction;
  const int64_t predicted = cli::ArgMax(prediction.mean, prediction.outputs, row);
  const int64_t at = row * prediction.outputs + predicted;
  const double epistemic = prediction.epistemic[row];
  const double total = epistemic + prediction.aleatoric[row];
  table.AddRow({kind, true_class, model.class_names[predicted],
                cli::Probability(prediction.map_mean[at]), cli::Probability(prediction.mean[at]),
                absl::StrFormat("%.0f %%", total > 0 ? 100 * epistemic / total : 0),
                prediction.ood_scores[0].is_ood[row] ? "YES" : "no"});
}

std::string ExampleTable(const client::Model& model, const std::vector<Group>& groups) {
  Table table({{"WHAT IT IS"},
               {"TRUE CLASS"},
               {"PREDICTED"},
               {"BEFORE", Table::Align::kRight},
               {"AFTER", Table::Align::kRight},
               {"EPISTEMIC", Table::Align::kRight},
               {"OOD?"}});
  const Group& clothes = groups[0];
  for (int64_t row : Pick(clothes, true, 4)) {
    AddRow(model, clothes, "clothes, right", row, model.class_names[clothes.labels[row]], table);
  }
  for (int64_t row : Pick(clothes, false, 3)) {
    AddRow(model, clothes, "clothes, wrong", row, model.class_names[clothes.labels[row]], table);
  }
  for (int64_t row = 0; row < std::min<int64_t>(3, groups[1].prediction.batch); ++row) {
    const std::string name = absl::StrCat("handwritten ", groups[1].labels[row]);
    AddRow(model, groups[1], "not clothes", row, name, table);
  }
  for (int64_t row = 0; row < std::min<int64_t>(2, groups[2].prediction.batch); ++row) {
    AddRow(model, groups[2], "turned, noisy", row, model.class_names[groups[2].labels[row]], table);
  }
  return table.ToString();
}

std::string QualityTable(const Group& clothes) {
  const int64_t classes = clothes.prediction.outputs;
  const std::vector<float>& before = clothes.prediction.map_mean;
  const std::vector<float>& after = clothes.prediction.mean;
  const std::vector<int64_t>& labels = clothes.labels;
  const auto decimals = [](double value) { return absl::StrFormat("%.4f", value); };
  const auto percent = [](double share) { return absl::StrFormat("%.2f %%", 100 * share); };
  Table table({{"ON ALL TEST CLOTHES"},
               {"BEFORE", Table::Align::kRight},
               {"AFTER", Table::Align::kRight},
               {"HOW TO READ IT"}});
  table.AddRow({"accuracy", percent(cli::Accuracy(before, classes, labels)),
                percent(cli::Accuracy(after, classes, labels)), "share of images named correctly"});
  table.AddRow({"NLL", decimals(cli::NegativeLogLikelihood(before, classes, labels)),
                decimals(cli::NegativeLogLikelihood(after, classes, labels)),
                "surprise at the truth in nats; lower is better"});
  table.AddRow({"ECE", decimals(cli::ExpectedCalibrationError(before, classes, labels)),
                decimals(cli::ExpectedCalibrationError(after, classes, labels)),
                "gap between stated probability and hit rate; 0 is best"});
  return table.ToString();
}

double FlaggedShare(const client::OodScore& score) {
  const double flagged = std::count(score.is_ood.begin(), score.is_ood.end(), true);
  return flagged / score.is_ood.size();
}

std::string OodTable(const std::vector<Group>& groups) {
  Table table({{"OOD SCORE"},
               {"AUROC DIGITS", Table::Align::kRight},
               {"AUROC SPOILED", Table::Align::kRight},
               {"FLAGGED CLOTHES", Table::Align::kRight},
               {"DIGITS", Table::Align::kRight},
               {"SPOILED", Table::Align::kRight}});
  for (size_t i = 0; i < groups[0].prediction.ood_scores.size(); ++i) {
    const client::OodScore& clothes = groups[0].prediction.ood_scores[i];
    std::vector<std::string> cells = {absl::StrCat(clothes.name, i == 0 ? " (default)"
                                                                 : clothes.name == "msp"
                                                                     ? " (plain network)"
                                                                     : "")};
    for (size_t g = 1; g < groups.size(); ++g) {
      const double auroc = cli::Auroc(clothes.values, groups[g].prediction.ood_scores[i].values);
      cells.push_back(absl::StrFormat("%.3f", auroc));
    }
    for (const Group& group : groups) {
      if (clothes.threshold) {
        cells.push_back(Percent(FlaggedShare(group.prediction.ood_scores[i])));
      }
    }
    table.AddRow(cells);
  }
  return table.ToString();
}

absl::Status RunDemo(const Arguments& arguments) {
  auto client = client::Client::Connect(arguments.server);
  if (!client.ok()) return client.status();
  const absl::StatusOr<client::Model> model = (*client)->GetModel(arguments.model);
  if (!model.ok()) return model.status();
  if (model->likelihood != client::Likelihood::kCategorical ||
      static_cast<int64_t>(model->class_names.size()) != model->n_outputs) {
    return absl::FailedPreconditionError(
        absl::StrCat("model ", model->name, " is no classifier with named classes"));
  }
  const absl::StatusOr<client::Posterior> posterior = (*client)->GetPosterior(model->name);
  if (!posterior.ok()) return posterior.status();
  absl::StatusOr<std::vector<Group>> groups = ReadGroups(arguments, *model);
  if (!groups.ok()) return groups.status();

  std::vector<std::string> scores = {posterior->default_ood_score};
  if (scores[0] != "msp") scores.push_back("msp");
  const absl::Time start = absl::Now();
  int64_t images = 0;
  for (Group& group : *groups) {
    if (absl::Status status = PredictGroup(**client, *model, scores, group); !status.ok()) {
      return status;
    }
    images += group.prediction.batch;
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);

  const client::OodScore& score = (*groups)[0].prediction.ood_scores[0];
  std::cout
      << "\n"
      << ExampleTable(*model, *groups) << "\n"
      << "BEFORE and AFTER are the probability of the predicted class from the plain network and\n"
      << "under the Laplace posterior.\n"
      << "EPISTEMIC is the share of the uncertainty that more training data could remove.\n"
      << "OOD? is YES if the score '" << score.name
      << "' is above what nearly all validation clothes stay below.\n\n"
      << QualityTable((*groups)[0]) << "\n"
      << OodTable(*groups) << "\n"
      << "AUROC is the chance that an odd image scores above a piece of clothing: 1 is perfect, "
         "0.5\n"
      << "is a coin.\n"
      << "FLAGGED should be near " << Percent(score.target_id_rate)
      << " for clothes, the rate that the threshold aims at, and high for the rest.\n"
      << "SPOILED are test clothes, turned by a quarter and covered with noise.\n\n"
      << cli::Count(images) << " images predicted in " << cli::Seconds(seconds)
      << " through gRPC; posterior " << posterior->id << ", " << posterior->rank
      << " directions of " << cli::Count(posterior->n_parameters) << " dimensions.\n";
  return absl::OkStatus();
}

}  // namespace
}  // namespace laplace::demo

int main(int argc, char** argv) {
  laplace::demo::Arguments arguments;
  CLI::App app("Predicts clothes and things that are not clothes, and prints what came out.",
               "fashion_demo");
  app.add_option("--server", arguments.server, "Address of the server")->required();
  app.add_option("--model", arguments.model, "Name of the model");
  app.add_option("--images", arguments.images, "Test images of Fashion-MNIST")->required();
  app.add_option("--labels", arguments.labels, "Test labels of Fashion-MNIST")->required();
  app.add_option("--digits", arguments.digits, "digits.csv.gz of scikit-learn")->required();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = laplace::demo::RunDemo(arguments);
  if (status.ok()) return 0;
  std::cerr << laplace::cli::ErrorText(status);
  return 1;
}
