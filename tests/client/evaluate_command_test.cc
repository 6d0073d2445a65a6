// `laplace evaluate` as a process, against the fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "formats/npz.h"
#include "tests/client/fake_server.h"

namespace laplace::client {
namespace {

using ::laplaced::Array;
using ::laplaced::DType;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Array Bytes(std::vector<int64_t> shape, const std::vector<uint8_t>& values) {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = std::move(shape);
  array.bytes.assign(values.begin(), values.end());
  return array;
}

class Evaluate : public ::testing::Test {
 protected:
  Evaluate() {
    folder_ = ::testing::TempDir() + "/evaluate_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
    // The fake calls class 0, 1, 2, 1; `variance` is 5, 6, 200, 7 and any other score 0, 1, 2, 1.
    const Array x = Bytes({4, 2}, {0, 5, 1, 6, 2, 200, 1, 7});
    Write("test", {{"x", x}, {"y", Bytes({4}, {0, 1, 2, 2})}});
    Write("bare", {{"x", x}});
    Write("near", {{"x", Bytes({4, 2}, {9, 150, 8, 6, 7, 250, 6, 120})}});
    Write("far", {{"x", Bytes({2, 2}, {1, 255, 0, 255})}});
    server_.ChangePosterior([](v1::Posterior& posterior) {
      for (const char* name : {"msp", "variance"}) {
        v1::OodThreshold& threshold = *posterior.add_ood_thresholds();
        threshold.set_score(name);
        threshold.set_count(50);
        threshold.set_rate_lower(0.02);
        threshold.set_rate_upper(0.09);
        posterior.add_available_ood_scores(name);
      }
    });
  }
  ~Evaluate() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::map<std::string, Array>& arrays) const {
    ASSERT_TRUE(::laplaced::WriteNpz(File(name), arrays).ok());
  }
  std::string File(const std::string& name) const {
    return absl::StrCat(folder_, "/", name, ".npz");
  }

  Outcome Run(const std::string& arguments) const {
    const std::string command = absl::StrCat(
        "XDG_CONFIG_HOME=", folder_, " LAPLACE_SERVER=", server_.address(), " ", LAPLACE_COMMAND,
        " ", arguments, " >", folder_, "/out 2>", folder_, "/err </dev/null");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadText(folder_ + "/out"),
            ReadText(folder_ + "/err")};
  }

  // `laplace evaluate digits --id test.npz --ood near.npz --ood far.npz` and more.
  std::string Both(const std::string& more = "") const {
    return absl::StrCat("evaluate digits --id ", File("test"), " --ood ", File("near"), " --ood ",
                        File("far"), " ", more);
  }

  FakeServer server_;
  std::string folder_;
};

TEST_F(Evaluate, AsksOnceForEachFileAndRanksTheScores) {
  const Outcome outcome = Run(Both("--bootstrap 100"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.Calls("Predict"), 1);
  EXPECT_EQ(server_.Calls("Score"), 2);
  EXPECT_THAT(outcome.err, HasSubstr("predicting id"));
  EXPECT_THAT(outcome.err, HasSubstr("scoring near"));
  EXPECT_THAT(outcome.err, HasSubstr("resampling"));
  EXPECT_THAT(outcome.out, HasSubstr("digits/3, posterior p-1, ID: 4 examples of "));
  EXPECT_THAT(outcome.out, HasSubstr("\naccuracy "));
  EXPECT_THAT(outcome.out, HasSubstr("\nvariance (default) "));
  EXPECT_THAT(outcome.out, HasSubstr("from 100 resamples (seed 0)"));
  EXPECT_LT(outcome.out.find("variance (default)"), outcome.out.find("\nmsp "));
}

TEST_F(Evaluate, JsonCarriesEverything) {
  const Outcome outcome = Run(Both("--output json --bootstrap 50 --seed 7 --confidence 0.9"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["model"], "digits");
  EXPECT_EQ(json["version"], 3);
  EXPECT_EQ(json["posterior_id"], "p-1");
  EXPECT_EQ(json["likelihood"], "categorical");
  EXPECT_EQ(json["variance_mode"], "exact");
  EXPECT_EQ(json["bootstrap"], Json({{"replicates", 50}, {"confidence", 0.9}, {"seed", 7}}));
  EXPECT_EQ(json["id"]["n"], 4);
  EXPECT_EQ(json["ood"][1], Json({{"name", "far"}, {"file", File("far")}, {"n", 2}}));
  for (const char* who : {"plain_network", "laplace"}) {
    const Json& metrics = json["metrics"][who];
    EXPECT_EQ(metrics.size(), 4u);
    for (const char* name : {"accuracy", "nll", "ece", "brier"}) {
      EXPECT_TRUE(metrics[name]["value"].is_number()) << name;
      EXPECT_EQ(metrics[name]["interval"].size(), 2u) << name;
    }
    EXPECT_EQ(metrics["accuracy"]["value"], 0.75);
  }
  // Rows 0 to 2 are right with 0.8 and 0.1 twice; row 3 says 0.8 for a wrong class.
  EXPECT_NEAR(json["metrics"]["laplace"]["brier"]["value"], (3 * 0.06 + 0.64 + 0.81 + 0.01) / 4,
              1e-6);
  const Json& best = json["scores"][0];
  EXPECT_EQ(best["name"], "variance");
  EXPECT_EQ(best["default"], true);
  EXPECT_EQ(best["threshold"], Json({{"value", 100.0}, {"target_id_rate", 0.05}}));
  EXPECT_EQ(best["id_flagged"]["value"], 0.25);
  EXPECT_EQ(best["calibration"], Json({{"n", 50}, {"rate_lower", 0.02}, {"rate_upper", 0.09}}));
  EXPECT_EQ(best["mean_auroc"]["value"], (11.5 / 16 + 1) / 2);
  for (const char* name :
       {"auroc", "aupr_in", "aupr_out", "fpr95_ood_positive", "fpr95_id_positive", "flagged"}) {
    EXPECT_EQ(best["ood"]["near"][name]["interval"].size(), 2u) << name;
  }
  EXPECT_EQ(best["ood"]["near"]["auroc"]["value"], 11.5 / 16);
  EXPECT_EQ(best["ood"]["near"]["flagged"]["value"], 0.75);
  EXPECT_EQ(json["scores"][1]["name"], "msp");
  EXPECT_FALSE(json["scores"][1].contains("threshold"));
  EXPECT_EQ(json["scores"][1]["ood"]["near"]["auroc"]["value"], 1);
  EXPECT_EQ(Run(Both("--output json --bootstrap 50 --seed 7 --confidence 0.9")).out, outcome.out);
  // The common option before the verb means the same.
  EXPECT_EQ(Run("--output json " + Both("--bootstrap 50 --seed 7 --confidence 0.9")).out,
            outcome.out);
}

TEST_F(Evaluate, MarkdownTablesAreWhole) {
  const Outcome outcome = Run(Both("--output markdown --bootstrap 20"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("### near: 4 examples of"));
  int tables = 0;
  size_t columns = 0;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(outcome.out, '\n'))) {
    const size_t pipes = std::count(line.begin(), line.end(), '|');
    if (pipes > 0 && columns == 0) ++tables;
    if (pipes > 0 && columns > 0) {
      EXPECT_EQ(pipes, columns) << line;
    }
    columns = pipes;
  }
  EXPECT_EQ(tables, 4);
}

TEST_F(Evaluate, WithoutLabelsOnlyScoresAreJudged) {
  const Outcome outcome = Run(
      absl::StrCat("evaluate digits --output json --id ", File("bare"), " --ood ", File("near")));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.Calls("Predict"), 0);
  EXPECT_EQ(server_.Calls("Score"), 2);
  const Json json = Json::parse(outcome.out);
  EXPECT_FALSE(json.contains("metrics"));
  EXPECT_EQ(json["scores"].size(), 2u);
}

TEST_F(Evaluate, WithoutOodDataOnlyPredictionsAreJudged) {
  const Outcome outcome = Run("evaluate digits --id " + File("test"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.Calls("Score"), 0);
  EXPECT_THAT(outcome.out, HasSubstr("Brier score"));
  EXPECT_THAT(outcome.out, HasSubstr("ID FLAGGED"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("AUROC")));
  const Json json = Json::parse(Run("evaluate digits --output json --id " + File("test")).out);
  EXPECT_EQ(json["ood"].size(), 0u);
  EXPECT_FALSE(json["scores"][0].contains("mean_auroc"));
}

TEST_F(Evaluate, WithNeitherThereIsNothingToDo) {
  const Outcome outcome = Run("evaluate digits --id " + File("bare"));
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("holds no labels, and no --ood is given"));
  EXPECT_EQ(server_.Calls("Score"), 0);
}

TEST_F(Evaluate, TakesNamedScoresLimitsBatchesAndSets) {
  const Outcome outcome =
      Run(absl::StrCat("evaluate digits --output json --bootstrap 0 --limit 3 --batch-size 2 ",
                       "--ood-score energy,variance --mode last-layer --id ", File("test"),
                       " --ood noise=", File("near")));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.Calls("Predict"), 2);
  EXPECT_EQ(server_.Calls("Score"), 2);
  EXPECT_EQ(server_.LastPredict().variance_mode(), v1::VARIANCE_MODE_LAST_LAYER);
  EXPECT_EQ(server_.LastPredict().ood_scores(0), "energy");
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["ood"][0]["name"], "noise");
  EXPECT_EQ(json["ood"][0]["n"], 3);
  EXPECT_EQ(json["variance_mode"], "last-layer");
  EXPECT_EQ(json["scores"][0]["name"], "energy");
  EXPECT_FALSE(json["scores"][0]["mean_auroc"].contains("interval"));
}

TEST_F(Evaluate, WritesTheScoresOfEveryExample) {
  const std::string path = File("scores");
  ASSERT_EQ(Run(Both("--scores " + path)).exit_code, 0);
  const auto arrays = ::laplaced::ReadNpz(path);
  ASSERT_TRUE(arrays.ok()) << arrays.status();
  EXPECT_EQ(arrays->size(), 6u);
  const Array& near = arrays->at("near/variance");
  ASSERT_EQ(near.dtype, DType::kFloat64);
  EXPECT_EQ(std::vector<double>(near.data<double>(), near.data<double>() + 4),
            (std::vector<double>{150, 6, 250, 120}));
  EXPECT_EQ(arrays->at("id/msp").data<double>()[2], 2);
}

TEST_F(Evaluate, RefusesAPosteriorThatChangesUnderway) {
  server_.ChangePosterior([](v1::Posterior& posterior) { posterior.set_id("p-9"); });
  const Outcome outcome = Run(Both());
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("posterior p-1 answered for id, expected p-9"));
  EXPECT_THAT(outcome.err, HasSubstr("ABORTED"));
}

TEST_F(Evaluate, MistakesInUsageExitWithTwoAndBadFilesWithOne) {
  for (const char* arguments :
       {"evaluate digits", "evaluate --id f.npz", "evaluate digits --id f.npz --confidence 1",
        "evaluate digits --id f.npz --bootstrap -1", "evaluate digits --id f.npz --bootstrap x",
        "evaluate digits --id f.npz --output yaml", "evaluate digits --id f.npz --limit 0",
        "evaluate digits --id f.npz --mode top-classes", "evaluate digits --id f.npz --ood"}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments << "\n" << outcome.err;
    EXPECT_EQ(outcome.out, "") << arguments;
  }
  const Outcome missing = Run(Both("--ood /nowhere/f.npz"));
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_EQ(server_.Calls("Predict"), 0) << "files are read before anything is computed";
  EXPECT_EQ(Run(Both("--ood near=" + File("far"))).exit_code, 1);
}

}  // namespace
}  // namespace laplace::client
