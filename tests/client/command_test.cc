// The command line as a process, against the fake server: results, exit codes, JSON, and --help
// word by word.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "formats/npz.h"
#include "tests/client/command_fixture.h"
#include "tests/client/fake_server.h"

namespace laplace::client {
namespace {

using ::laplaced::Array;
using ::laplaced::DType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

TEST_F(Command, HelpIsAsPublished) {
  const std::map<std::string, std::string> pages = {{"laplace", ""},
                                                    {"models", "models"},
                                                    {"models_load", "models load"},
                                                    {"models_ls", "models ls"},
                                                    {"models_show", "models show"},
                                                    {"models_unload", "models unload"},
                                                    {"fit", "fit"},
                                                    {"posterior", "posterior"},
                                                    {"posterior_ls", "posterior ls"},
                                                    {"posterior_show", "posterior show"},
                                                    {"posterior_activate", "posterior activate"},
                                                    {"posterior_rm", "posterior rm"},
                                                    {"posterior_update", "posterior update"},
                                                    {"posterior_calibrate", "posterior calibrate"},
                                                    {"operations", "operations"},
                                                    {"operations_ls", "operations ls"},
                                                    {"operations_watch", "operations watch"},
                                                    {"operations_cancel", "operations cancel"},
                                                    {"predict", "predict"},
                                                    {"score", "score"},
                                                    {"evaluate", "evaluate"},
                                                    {"bench", "bench"},
                                                    {"token", "token"},
                                                    {"completion", "completion"},
                                                    {"health", "health"}};
  for (const auto& [name, verb] : pages) {
    const Outcome outcome = Run(verb + " --help");
    EXPECT_EQ(outcome.exit_code, 0) << verb;
    EXPECT_THAT(outcome.out, HasSubstr("Example:")) << verb;
    const std::string path = absl::StrCat(LAPLACE_GOLDEN_FOLDER, "/", name, ".txt");
    // Set this variable to write the files anew after a change that was meant.
    if (std::getenv("LAPLACE_UPDATE_GOLDEN")) std::ofstream(path) << outcome.out;
    EXPECT_EQ(outcome.out, ReadText(path)) << path;
  }
}

TEST_F(Command, MistakesInUsageExitWithTwo) {
  for (const char* arguments : {"",
                                "frobnicate",
                                "models",
                                "models load",
                                "models load digits/x",
                                "fit digits",
                                "predict digits",
                                "predict digits --input f.npy --limit 0",
                                "score digits --input",
                                "predict digits --input f.npy --rows 9:5",
                                "fit digits --train f.npz --debiasing maybe",
                                "models ls --output yaml",
                                "health --timeout -1",
                                "health --wait 0",
                                "fit digits --train f.npz --structure dense",
                                "fit digits --train f.npz --temperature 0",
                                "fit digits --train f.npz --memory-limit 2GB",
                                "fit digits --train f.npz --curvature exact",
                                "fit digits --train f.npz --fisher-samples x",
                                "posterior update digits",
                                "posterior rm digits",
                                "completion fish",
                                "posterior calibrate digits",
                                "posterior calibrate digits --data f.npz --target-id-rate 0",
                                "posterior update digits --data f.npz --data-rows 9:5"}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments << "\n" << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("--help")) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
  }
}

TEST_F(Command, ErrorsOfServerAndFilesExitWithOne) {
  const Outcome unknown = Run("models show nobody");
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(unknown.err, "laplace: no model named 'nobody' (NOT_FOUND)\n");
  EXPECT_EQ(Run("predict digits --input /nowhere/f.npy").exit_code, 1);
  const Outcome unreachable = Run("models ls --server 127.0.0.1:1");
  EXPECT_EQ(unreachable.exit_code, 1);
  EXPECT_THAT(unreachable.err, HasSubstr("127.0.0.1:1"));
}

TEST_F(Command, TheFieldOfARefusedRequestIsShown) {
  server_.FailNext("LoadModel", ErrorWithField(grpc::StatusCode::INVALID_ARGUMENT, "bad request",
                                               "name", "at most 128 characters"));
  EXPECT_EQ(Run("models load digits").err,
            "laplace: bad request (INVALID_ARGUMENT)\n  name: at most 128 characters\n");
}

TEST_F(Command, ModelsAreLoadedListedShownAndUnloaded) {
  const Outcome loaded = Run("models load digits");
  EXPECT_EQ(loaded.exit_code, 0) << loaded.err;
  EXPECT_THAT(loaded.out, HasSubstr("digits/3"));
  EXPECT_THAT(loaded.out, HasSubstr("zero, one, two"));
  const Outcome list = Run("models ls");
  EXPECT_THAT(list.out, HasSubstr("digits/3  ready      categorical  float32 or uint8 [1, 2]"));
  EXPECT_THAT(list.out, HasSubstr("shirts/1  available\n"));
  EXPECT_EQ(Json::parse(Run("models ls --output json").out)["models"].size(), 2u);
  EXPECT_EQ(Json::parse(Run("--output json models show digits").out)["n_parameters"], 12345);
  EXPECT_EQ(Run("models unload digits/3").exit_code, 0);
}

TEST_F(Command, AModelThatIsNotLoadedIsNotUsed) {
  server_.SetModelState(v1::MODEL_STATE_FAILED, "dropout is left on");
  for (const std::string verb :
       {"fit digits --train ", "predict digits --input ", "score digits --input "}) {
    const Outcome outcome = Run(verb + DataFile());
    EXPECT_EQ(outcome.exit_code, 1) << verb;
    EXPECT_EQ(outcome.err,
              "laplace: model digits/3: expected a loaded one (state ready), its state is failed "
              "(dropout is left on); load it with: laplace models load digits/3 "
              "(FAILED_PRECONDITION)\n");
  }
  server_.SetModelState(v1::MODEL_STATE_AVAILABLE, "");
  EXPECT_THAT(Run("predict digits --input " + DataFile()).err,
              HasSubstr("its state is available; load it with: laplace models load digits/3"));
}

TEST_F(Command, ModelsShowWhatTheServerSaysAboutTheirState) {
  EXPECT_THAT(Run("models ls").out, Not(HasSubstr("NOTE")));
  const std::string reason =
      "parameter features.0.weight holds 3 values that are\nnot finite: train the network again";
  server_.SetModelState(v1::MODEL_STATE_FAILED, reason);
  const std::string list = Run("models ls").out;
  EXPECT_THAT(list, HasSubstr("parameter features.0.weight holds 3 values that are not f...\n"));
  EXPECT_THAT(list, HasSubstr("shirts/1  available\n"));
  EXPECT_EQ(Run("models show digits").out,
            "model   digits/3\n"
            "state   failed\n"
            "reason  parameter features.0.weight holds 3 values that are\n"
            "        not finite: train the network again\n");
  server_.SetModelState(v1::MODEL_STATE_READY, "posterior p-9 is damaged");
  EXPECT_THAT(Run("models ls").out, HasSubstr("p-1        posterior p-9 is damaged\n"));
  EXPECT_THAT(Run("models show digits").out, HasSubstr("posterior p-9 is damaged\n"));
}

TEST_F(Command, FitIsCancelledBySignalsThatEndPrograms) {
  v1::Operation running;
  running.set_state(v1::OPERATION_STATE_RUNNING);
  running.set_description("fit digits/3");
  const std::string data = DataFile();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    FakeServer server;
    server.SetOperationScript({running});
    server.RunUntilCancelled();
    // The shell writes its process id and becomes the command.
    const std::string command = absl::StrCat(
        "echo $$ >", folder_, "/pid; exec ", LAPLACE_COMMAND, " fit digits --server ",
        server.address(), " --train ", data, " >", folder_, "/out 2>", folder_, "/err </dev/null");
    auto status =
        std::async(std::launch::async, [&command] { return std::system(command.c_str()); });
    const auto over = [&status](std::chrono::milliseconds wait) {
      return status.wait_for(wait) == std::future_status::ready;
    };
    while (server.Calls("WatchOperation") == 0 && !over(std::chrono::milliseconds(5))) {
    }
    ASSERT_FALSE(over(std::chrono::milliseconds(0))) << ReadText(folder_ + "/err");
    const pid_t pid = std::stoi(ReadText(folder_ + "/pid"));
    ASSERT_GT(pid, 1);
    kill(pid, signal);
    const int code = status.get();
    EXPECT_TRUE(WIFEXITED(code) && WEXITSTATUS(code) == 1) << signal;
    EXPECT_EQ(server.Calls("CancelOperation"), 1) << signal;
    EXPECT_THAT(ReadText(folder_ + "/err"), HasSubstr("fit digits/3 was cancelled (CANCELLED)"));
  }
}

TEST_F(Command, ARefusedFitNamesTheOneThatRuns) {
  v1::Operation done;
  done.set_id("op-8");
  done.set_state(v1::OPERATION_STATE_SUCCEEDED);
  v1::Operation running;
  running.set_id("op-9");
  running.set_state(v1::OPERATION_STATE_RUNNING);
  running.set_description("fit shirts/1");
  running.set_fraction(0.25);
  server_.SetOperations({running, done});
  for (const char* flag : {"", " --no-wait"}) {
    server_.FailNext("FitPosterior", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                         "too many fits", absl::Seconds(9)));
    const Outcome fit = Run("fit digits --train " + DataFile() + flag);
    EXPECT_EQ(fit.exit_code, 1);
    EXPECT_THAT(fit.err, HasSubstr("too many fits; running: op-9 (fit shirts/1, 25.0 % done), "
                                   "watch it with: laplace operations watch op-9, or cancel it "
                                   "with: laplace operations cancel op-9 (RESOURCE_EXHAUSTED)\n"));
    EXPECT_THAT(fit.err, Not(HasSubstr("op-8")));
  }
}

TEST_F(Command, FitSendsDataFollowsAndReports) {
  ScriptASuccess();
  const Outcome fit =
      Run(absl::StrCat("fit digits --train ", DataFile(), " --train-rows 0:3 ", "--validation ",
                       DataFile(), " --validation-rows 3: --rank 2 --debiasing none --seed 9"));
  EXPECT_EQ(fit.exit_code, 0) << fit.err;
  EXPECT_THAT(fit.err, HasSubstr("fitting 40 %  directions 4/10"));
  EXPECT_THAT(fit.err, Not(HasSubstr("\r")));
  EXPECT_THAT(fit.out, HasSubstr("p-1 (active)"));
  EXPECT_THAT(fit.out, HasSubstr("note: only a fake"));
  EXPECT_EQ(server_.DatasetIds().size(), 2u);
  const v1::FitPosteriorRequest sent = server_.LastFit();
  EXPECT_EQ(sent.options().rank(), 2);
  EXPECT_EQ(sent.options().seed(), 9u);
  EXPECT_EQ(sent.options().debiasing(), v1::DEBIASING_STRATEGY_NONE);
  EXPECT_NE(sent.train_dataset_id(), sent.validation_dataset_id());
}

TEST_F(Command, FitReusesAPosteriorOfTheSameDataAndOptions) {
  ScriptASuccess();
  const std::string arguments = "fit digits --reuse --train " + DataFile();
  EXPECT_EQ(Run(arguments).exit_code, 0);
  EXPECT_EQ(server_.Calls("FitPosterior"), 1);
  EXPECT_EQ(Run(arguments).exit_code, 0);
  EXPECT_EQ(server_.Calls("FitPosterior"), 1);
  ScriptASuccess();
  EXPECT_EQ(Run(arguments + " --rank 3").exit_code, 0);
  EXPECT_EQ(server_.Calls("FitPosterior"), 2);
}

TEST_F(Command, FitSendsEveryOption) {
  ScriptASuccess();
  const Outcome fit = Run(absl::StrCat(
      "fit digits --train ", DataFile(), " --structure kfac --curvature mc-fisher ",
      "--parameters 'head.*,fc.weight' --kfac-eigenvalues factors --prior-method evidence ",
      "--temperature 0.5 --noise-method data --relative-error 0.1 --memory-limit 2M ",
      "--fisher-samples 3 --variance-correction --debiasing full-pass --residual diagonal"));
  EXPECT_EQ(fit.exit_code, 0) << fit.err;
  const v1::FitOptions sent = server_.LastFit().options();
  EXPECT_EQ(sent.structure(), v1::POSTERIOR_STRUCTURE_KFAC);
  EXPECT_EQ(sent.curvature(), v1::CURVATURE_KIND_MC_FISHER);
  EXPECT_THAT(sent.parameters(), ElementsAre("head.*", "fc.weight"));
  EXPECT_EQ(sent.kfac_eigenvalues(), v1::KFAC_EIGENVALUES_FACTORS);
  EXPECT_EQ(sent.prior_method(), v1::PRIOR_METHOD_EVIDENCE);
  EXPECT_EQ(sent.temperature(), 0.5);
  EXPECT_EQ(sent.noise_method(), v1::NOISE_METHOD_DATA);
  EXPECT_FALSE(sent.has_sigma_noise());
  EXPECT_EQ(sent.target_relative_standard_error(), 0.1);
  EXPECT_EQ(sent.memory_limit_bytes(), 2 << 20);
  EXPECT_EQ(sent.fisher_samples(), 3);
  EXPECT_TRUE(sent.variance_correction());
  EXPECT_EQ(sent.debiasing(), v1::DEBIASING_STRATEGY_FULL_PASS);
  EXPECT_EQ(sent.residual(), v1::RESIDUAL_KIND_DIAGONAL);
}

TEST_F(Command, FitDoesNotReuseAnUpdatedPosterior) {
  ScriptASuccess();
  const std::string arguments = "fit digits --reuse --train " + DataFile();
  EXPECT_EQ(Run(arguments).exit_code, 0);
  server_.ChangePosterior([](v1::Posterior& p) { p.set_parent_posterior_id("p-0"); });
  ScriptASuccess();
  EXPECT_EQ(Run(arguments).exit_code, 0);
  EXPECT_EQ(server_.Calls("FitPosterior"), 2);
}

TEST_F(Command, UpdateSendsDataFollowsAndReports) {
  ScriptASuccess();
  const Outcome update = Run(absl::StrCat("posterior update digits/3 --data ", DataFile(),
                                          " --data-rows 1:3 --posterior p-0 --keep-inactive"));
  EXPECT_EQ(update.exit_code, 0) << update.err;
  EXPECT_THAT(update.err, HasSubstr("sending new data"));
  EXPECT_THAT(update.err, HasSubstr("updating 40 %  directions 4/10"));
  EXPECT_THAT(update.out, HasSubstr("p-1 (active)"));
  EXPECT_EQ(server_.Upload().header.n_rows(), 2);
  const v1::UpdatePosteriorRequest sent = server_.LastUpdate();
  EXPECT_EQ(sent.model(), "digits");
  EXPECT_EQ(sent.version(), 3);
  EXPECT_EQ(sent.posterior_id(), "p-0");
  EXPECT_EQ(sent.dataset_id(), server_.DatasetIds()[0]);
  EXPECT_TRUE(sent.keep_inactive());
  ScriptASuccess();
  EXPECT_EQ(
      Json::parse(Run("posterior update digits --output json --data " + DataFile()).out)["id"],
      "p-1");
  EXPECT_EQ(server_.LastUpdate().posterior_id(), "");
  EXPECT_FALSE(server_.LastUpdate().keep_inactive());
}

TEST_F(Command, ARefusedUpdateNamesWhatRuns) {
  v1::Operation running;
  running.set_id("op-9");
  running.set_state(v1::OPERATION_STATE_RUNNING);
  running.set_description("fit shirts/1");
  server_.SetOperations({running});
  server_.FailNext("UpdatePosterior", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                          "too many fits", absl::Seconds(9)));
  const Outcome update = Run("posterior update digits --data " + DataFile());
  EXPECT_EQ(update.exit_code, 1);
  EXPECT_THAT(update.err, HasSubstr("too many fits; running: op-9 (fit shirts/1"));
}

TEST_F(Command, UpdateWithoutLabelsSaysWhichOptionNamesThem) {
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {1, 2};
  x.bytes = "ab";
  const std::string path = folder_ + "/x.npz";
  ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", x}}).ok());
  EXPECT_THAT(Run("posterior update digits --data " + path).err,
              HasSubstr("name a file with --labels"));
}

TEST_F(Command, FitWithoutLabelsSaysWhichOptionNamesThem) {
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {1, 2};
  x.bytes = "ab";
  const std::string path = folder_ + "/x.npz";
  ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", x}}).ok());
  const Outcome fit = Run("fit digits --train " + path);
  EXPECT_EQ(fit.exit_code, 1);
  EXPECT_THAT(fit.err, HasSubstr("--train-labels"));
}

TEST_F(Command, PredictPrintsARowForEachInputAndMetricsForLabels) {
  const Outcome table = Run("predict digits --input " + DataFile());
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.out,
            "ROW  TRUE CLASS  PREDICTED  PROBABILITY  PLAIN NETWORK  EPISTEMIC  ALEATORIC  "
            "variance  OOD\n"
            "  0  zero        zero             0.800          0.900       0.25       0.75         "
            "5  no\n"
            "  1  one         one              0.800          0.900       0.25       0.75         "
            "6  no\n"
            "  2  two         two              0.800          0.900       0.25       0.75       "
            "200  yes\n"
            "  3  two         one              0.800          0.900       0.25       0.75         "
            "7  no\n"
            "\n"
            "               ACCURACY    NLL   ECE\n"
            "plain network    75.0 %  0.828  0.15\n"
            "with Laplace     75.0 %  0.743  0.05\n");
  EXPECT_EQ(Run("predict nobody --input " + DataFile()).exit_code, 1);
}

TEST_F(Command, PredictAnswersInJsonToo) {
  const Outcome outcome =
      Run("predict digits --output json --rows 1:3 --link mc --input " + DataFile());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const Json json = Json::parse(outcome.out);
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][0]["row"], 1);
  EXPECT_EQ(json["rows"][1]["class_name"], "two");
  EXPECT_EQ(json["rows"][1]["ood_scores"]["variance"]["is_ood"], true);
  EXPECT_EQ(json["metrics"]["laplace"]["accuracy"], 1.0);
  EXPECT_EQ(server_.LastPredict().link_approx(), v1::LINK_APPROX_MC);
}

TEST_F(Command, PredictTakesAModeAndSaysWhatItMeans) {
  const std::string input = " --input " + DataFile();
  const Outcome sampled =
      Run("predict digits --mode sampled --samples 32 --seed 4 --temperature 2 "
          "--link laplace-bridge --limit 2" +
          input);
  EXPECT_EQ(sampled.exit_code, 0) << sampled.err;
  EXPECT_THAT(sampled.out, HasSubstr("variances over 32 functions drawn from the posterior, each "
                                     "to 25.0 % (standard error)"));
  const v1::PredictRequest sent = server_.LastPredict();
  EXPECT_EQ(sent.variance_mode(), v1::VARIANCE_MODE_SAMPLED);
  EXPECT_EQ(sent.samples(), 32);
  EXPECT_EQ(sent.seed(), 4u);
  EXPECT_EQ(sent.temperature(), 2);
  EXPECT_EQ(sent.link_approx(), v1::LINK_APPROX_LAPLACE_BRIDGE);
  const Outcome top = Run("predict digits --mode top-classes --top-classes 1 --limit 2" + input);
  EXPECT_THAT(top.out, HasSubstr("variances of the 1 likeliest classes of each row only; the "
                                 "others together have at most 25.0 %"));
  const Json json = Json::parse(
      Run("predict digits --mode top-classes --top-classes 1 --output json" + input).out);
  EXPECT_EQ(json["variance"]["mode"], "top-classes");
  EXPECT_EQ(json["rows"][3]["variance_outputs"], Json::array({1}));
  EXPECT_EQ(json["rows"][3]["functional_variance"].size(), 1u);
  EXPECT_EQ(json["rows"][3]["left_out_bound"], 0.25);
  EXPECT_EQ(Run("predict digits --mode best" + input).exit_code, 2);
}

TEST_F(Command, FunctionsJoinAcrossCallsAndJointCovariancesDoNot) {
  const std::string input = " --output json --input " + DataFile();
  const Outcome outcome =
      Run("predict digits --function-samples 2 --seed 3 --batch-size 3" + input);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.Calls("Predict"), 2);
  EXPECT_EQ(server_.LastPredict().variance_mode(), v1::VARIANCE_MODE_EXACT)
      << "the mode that answered the first rows";
  EXPECT_EQ(server_.LastPredict().seed(), 3u);
  const Json rows = Json::parse(outcome.out)["rows"];
  const int pixels[] = {5, 6, 200, 7};
  for (size_t row = 0; row < 4; ++row) {
    ASSERT_EQ(rows[row]["function_samples"].size(), 2u);
    EXPECT_EQ(rows[row]["function_samples"][0],
              Json::array({pixels[row], pixels[row], pixels[row]}));
    EXPECT_EQ(rows[row]["function_samples"][1][2], 1000 + pixels[row]);
  }
  EXPECT_EQ(Json::parse(outcome.out)["variance"]["estimated_flops"], 2000);

  const Outcome joint = Run("predict digits --joint-covariance --batch-size 4" + input);
  EXPECT_EQ(joint.exit_code, 0) << joint.err;
  // Output 1 of row 2 with output 0 of row 3.
  EXPECT_EQ(Json::parse(joint.out)["joint_covariance"][2][1][3][0], (2 * 3 + 1) * 12 + 9);
  const Outcome split = Run("predict digits --joint-covariance --batch-size 3" + input);
  EXPECT_EQ(split.exit_code, 1);
  EXPECT_THAT(split.err, HasSubstr("takes one call"));
  const Outcome table = Run("predict digits --joint-covariance --input " + DataFile());
  EXPECT_EQ(table.exit_code, 1);
  EXPECT_THAT(table.err, HasSubstr("--output json"));
}

// One row of three independent labels.
v1::PredictResponse LabelAnswer() {
  v1::PredictResponse response;
  const auto set = [](v1::Tensor& tensor, const std::vector<float>& values) {
    tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
    tensor.add_shape(2);
    tensor.add_shape(3);
    tensor.mutable_float32_values()->Add(values.begin(), values.end());
  };
  set(*response.mutable_mean(), {0.75f, 0.25f, 0.5f, 0.125f, 0.25f, 0.375f});
  set(*response.mutable_map_mean(), {0.9f, 0.1f, 0.4f, 0.1f, 0.6f, 0.3f});
  set(*response.mutable_functional_mean(), std::vector<float>(6, 1));
  set(*response.mutable_functional_variance(), std::vector<float>(6, 1));
  set(*response.mutable_epistemic(), {0.25f, 0, 0.5f, 0, 0, 0});
  set(*response.mutable_aleatoric(), {0.25f, 0.25f, 0.25f, 0, 0, 0.5f});
  return response;
}

TEST_F(Command, PredictListsTheLabelsOfAMultiLabelModel) {
  server_.ChangeModel([](v1::Model& model) { model.set_likelihood(v1::LIKELIHOOD_BERNOULLI); });
  server_.SetPrediction(LabelAnswer());
  const std::string input = " --limit 2 --input " + DataFile();
  const Outcome table = Run("predict digits" + input);
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.out,
            "ROW  LABELS (AT LEAST 0.5)  PLAIN NETWORK  EPISTEMIC  ALEATORIC\n"
            "  0  zero 0.750, two 0.500  zero 0.900          0.75       0.75\n"
            "  1  none                   one 0.600              0        0.5\n"
            "\n"
            "note: the labels of the input file are not used: accuracy, NLL and ECE are for "
            "categorical models, and model digits is bernoulli\n");
  const Json json = Json::parse(Run("predict digits --output json" + input).out);
  EXPECT_EQ(json["rows"][0]["predicted"], Json::array({0, 2}));
  EXPECT_EQ(json["rows"][0]["label_names"], Json::array({"zero", "two"}));
  EXPECT_EQ(json["rows"][0]["epistemic"].size(), 3u);
  EXPECT_EQ(json["rows"][1]["predicted"], Json::array());
  EXPECT_FALSE(json.contains("metrics"));
  EXPECT_THAT(Run("models show digits").out, HasSubstr("\nlabels               zero, one, two\n"));
}

TEST_F(Command, PredictRefusesLabelsThatItCannotJudge) {
  for (const auto& [likelihood, name] : {std::pair(v1::LIKELIHOOD_BERNOULLI, "bernoulli"),
                                         std::pair(v1::LIKELIHOOD_GAUSSIAN, "gaussian")}) {
    server_.ChangeModel([&](v1::Model& model) { model.set_likelihood(likelihood); });
    const Outcome outcome =
        Run(absl::StrCat("predict digits --input ", DataFile(), " --labels ", DataFile()));
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.err,
                HasSubstr(absl::StrCat("--labels: accuracy, NLL and ECE are for ",
                                       "categorical models, and model digits is ", name)));
  }
  EXPECT_EQ(server_.Calls("Predict"), 0);
}

TEST_F(Command, PredictRefusesAnAnswerThatDoesNotFitTheModel) {
  server_.ChangeModel([](v1::Model& model) { model.set_likelihood(v1::LIKELIHOOD_BERNOULLI); });
  const Outcome outcome = Run("predict digits --input " + DataFile());
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err,
              HasSubstr("epistemic: expected 12 values from a bernoulli model, got 4"));
}

TEST_F(Command, FitSendsLabelsOfAMultiLabelModelAsFloats) {
  server_.ChangeModel([](v1::Model& model) { model.set_likelihood(v1::LIKELIHOOD_BERNOULLI); });
  ScriptASuccess();
  const Outcome classes = Run("fit digits --train " + DataFile());
  EXPECT_EQ(classes.exit_code, 1);
  EXPECT_THAT(classes.err, HasSubstr("expected an array of 0s and 1s of shape [N, 3]"));
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {2, 2};
  x.bytes = "abcd";
  Array y;
  y.dtype = DType::kUint8;
  y.shape = {2, 3};
  y.bytes = std::string("\1\0\1\0\0\0", 6);
  const std::string path = folder_ + "/labels.npz";
  ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", x}, {"y", y}}).ok());
  const Outcome fit = Run("fit digits --train " + path);
  EXPECT_EQ(fit.exit_code, 0) << fit.err;
  EXPECT_EQ(server_.Upload().header.target_dtype(), v1::DATA_TYPE_FLOAT32);
  EXPECT_THAT(server_.Upload().header.target_shape(), ElementsAre(3));
}

TEST_F(Command, CalibrateSendsDataFollowsAndPrintsThresholds) {
  ScriptASuccess();
  server_.ChangePosterior([](v1::Posterior& posterior) {
    v1::OodThreshold& threshold = *posterior.add_ood_thresholds();
    threshold.set_score("variance");
    threshold.set_threshold(7.5);
    threshold.set_target_id_rate(0.01);
    threshold.set_count(4);
    posterior.set_calibration_dataset_id("sha256-0123456789abcdef");
  });
  const Outcome calibrate = Run(absl::StrCat(
      "posterior calibrate digits --data ", DataFile(), " --data-rows 1:3 --target-id-rate 0.01 ",
      "--default-ood-score energy --posterior p-0 --keep-inactive"));
  EXPECT_EQ(calibrate.exit_code, 0) << calibrate.err;
  EXPECT_THAT(calibrate.err, HasSubstr("sending calibration data"));
  EXPECT_THAT(calibrate.err, HasSubstr("calibrating 40 %"));
  EXPECT_THAT(calibrate.out, HasSubstr("posterior p-1 (active)\n\nOOD SCORE"));
  EXPECT_THAT(calibrate.out, HasSubstr("variance *        7.5         1.0 %"));
  EXPECT_THAT(calibrate.out, HasSubstr("calibrated on data set sha256-0123456789ab\n"));
  const v1::CalibrateOodRequest sent = server_.LastCalibration();
  EXPECT_EQ(sent.model(), "digits");
  EXPECT_EQ(sent.version(), 3);
  EXPECT_EQ(sent.posterior_id(), "p-0");
  EXPECT_EQ(sent.dataset_id(), server_.DatasetIds()[0]);
  EXPECT_EQ(sent.target_id_rate(), 0.01);
  EXPECT_EQ(sent.default_ood_score(), "energy");
  EXPECT_TRUE(sent.keep_inactive());
  EXPECT_EQ(server_.Upload().header.n_rows(), 2);
  ScriptASuccess();
  const std::string json = Run("posterior calibrate digits --output json --data " + DataFile()).out;
  EXPECT_EQ(Json::parse(json)["calibration_dataset_id"], "sha256-0123456789abcdef");
  EXPECT_EQ(server_.LastCalibration().target_id_rate(), 0);
}

TEST_F(Command, CalibrateNeedsNoLabels) {
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {2, 2};
  x.bytes = "abcd";
  const std::string path = folder_ + "/x.npz";
  ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", x}}).ok());
  ScriptASuccess();
  const Outcome classes = Run("posterior calibrate digits --data " + path);
  EXPECT_EQ(classes.exit_code, 0) << classes.err;
  EXPECT_EQ(server_.Upload().header.target_dtype(), v1::DATA_TYPE_INT64);
  EXPECT_EQ(server_.Upload().target_bytes, std::string(16, '\0'));
  for (const v1::Likelihood likelihood : {v1::LIKELIHOOD_BERNOULLI, v1::LIKELIHOOD_GAUSSIAN}) {
    server_.ChangeModel([&](v1::Model& model) { model.set_likelihood(likelihood); });
    x.bytes[0] = static_cast<char>('a' + likelihood);
    ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", x}}).ok());
    ScriptASuccess();
    const Outcome outcome = Run("posterior calibrate digits --data " + path);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(server_.Upload().header.target_dtype(), v1::DATA_TYPE_FLOAT32);
    EXPECT_THAT(server_.Upload().header.target_shape(), ElementsAre(3));
    EXPECT_EQ(server_.Upload().target_bytes, std::string(24, '\0'));
  }
}

TEST_F(Command, PosteriorsAreDeleted) {
  EXPECT_EQ(Run("posterior rm digits/3 p-0").out, "posterior p-0 of digits/3 is deleted\n");
  EXPECT_EQ(Json::parse(Run("posterior rm digits p-0 --output json").out),
            Json::parse(R"({"id": "p-0", "deleted": true})"));
  const Outcome unknown = Run("posterior rm digits p-9");
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(unknown.err, "laplace: no such posterior (NOT_FOUND)\n");
}

TEST_F(Command, PosteriorsAreListedShownAndActivated) {
  EXPECT_THAT(Run("posterior ls digits").out, HasSubstr("p-1        yes"));
  EXPECT_THAT(Run("posterior show digits").out, HasSubstr("BIASED/DEBIASED"));
  EXPECT_EQ(Json::parse(Run("posterior show digits p-0 --output json").out)["id"], "p-0");
  EXPECT_THAT(Run("posterior activate digits p-0").out, HasSubstr("posterior p-0 of digits/3"));
}

TEST_F(Command, PosteriorsOfEveryStructureAreShown) {
  EXPECT_THAT(Run("posterior ls digits").out,
              HasSubstr("POSTERIOR  ACTIVE  STRUCTURE  RANK  DEBIASING"));
  server_.ChangePosterior([](v1::Posterior& posterior) {
    posterior.mutable_options()->set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
    posterior.mutable_options()->set_kfac_eigenvalues(v1::KFAC_EIGENVALUES_EXACT);
    posterior.mutable_options()->set_sigma_noise(0.25);
    posterior.set_residual_share(0.125);
    posterior.set_curvature_count(77);
    posterior.mutable_cost()->set_peak_memory_bytes(1 << 20);
    posterior.add_prior_candidates()->set_log_marginal_likelihood(-5);
    v1::ParameterBlock& block = *posterior.add_blocks();
    block.set_name("head.weight");
    block.set_n_parameters(6);
    block.set_kind("kronecker");
    block.set_biased_sum(3);
    block.set_debiased_sum(2);
  });
  const std::string text = Run("posterior show digits").out;
  EXPECT_THAT(text, HasSubstr("kfac, eigenvalues exact"));
  EXPECT_THAT(text, HasSubstr("head.weight     6  kronecker           3             2"));
  const Json json = Json::parse(Run("posterior show digits --output json").out);
  EXPECT_EQ(json["options"]["structure"], "kfac");
  EXPECT_EQ(json["options"]["kfac_eigenvalues"], "exact");
  EXPECT_EQ(json["options"]["sigma_noise"], 0.25);
  EXPECT_EQ(json["blocks"][0]["kind"], "kronecker");
  EXPECT_EQ(json["residual_share"], 0.125);
  EXPECT_EQ(json["curvature_count"], 77);
  EXPECT_EQ(json["cost"]["peak_memory_bytes"], 1 << 20);
  EXPECT_EQ(json["prior_candidates"][0]["log_marginal_likelihood"], -5);
}

TEST_F(Command, OperationsAreListedWatchedAndCancelled) {
  EXPECT_THAT(Run("operations ls").out, HasSubstr("succeeded"));
  EXPECT_EQ(Run("operations cancel op-1").exit_code, 0);
  ScriptASuccess();
  EXPECT_EQ(Run("operations watch op-1").out, "posterior p-1\n");
}

TEST_F(Command, HealthIsForProbes) {
  EXPECT_EQ(Run("health").exit_code, 0);
  server_.SetServing(false);
  const Outcome outcome = Run("health");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("not serving"));
}

TEST_F(Command, HealthWaitsForAServerThatIsNotReadyYet) {
  server_.SetServing(false);
  auto later = std::async(std::launch::async, [this] {
    absl::SleepFor(absl::Milliseconds(500));
    server_.SetServing(true);
  });
  const Outcome outcome = Run("health --wait 60");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("is serving"));
}

TEST_F(Command, HealthWaitsForAPortThatIsNotOpenYet) {
  // A port that was free a moment ago.
  const std::string address = FakeServer().address();
  auto later = std::async(std::launch::async, [&address] {
    absl::SleepFor(absl::Milliseconds(700));
    return std::make_unique<FakeServer>(address);
  });
  const Outcome outcome = Run("health --wait 60 --server " + address);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST_F(Command, HealthGivesUpWhenTimeIsUpOrWaitingIsNoUse) {
  const absl::Time start = absl::Now();
  const Outcome closed = Run("health --wait 1 --server 127.0.0.1:1");
  EXPECT_EQ(closed.exit_code, 1);
  EXPECT_THAT(closed.err, HasSubstr("no server can be reached at 127.0.0.1:1"));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(500));
  EXPECT_EQ(Run("health --wait 60 --service nobody").exit_code, 1);
  server_.SetServing(false);
  EXPECT_EQ(Run("health --wait 0.3").exit_code, 1);
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

}  // namespace
}  // namespace laplace::client
