// `laplace score` as a step of a pipeline: files, streams, gates, exit codes, and what is left
// behind when it does not end well.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/gate.h"
#include "client/cli/score_writer.h"
#include "formats/npy.h"
#include "formats/npz.h"
#include "tests/client/command_fixture.h"
#include "tests/client/fake_server.h"
#include "tests/support/python.h"
#include "tests/support/temp_folder.h"

namespace laplace::client {
namespace {

using ::laplaced::Array;
using ::laplaced::DType;
using ::laplaced::test_support::FindPython;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::RunPython;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

// What the fake server says about the rows of DataFile().
constexpr char kCsv[] = "row,variance,variance_is_ood\n0,5,0\n1,6,0\n2,200,1\n3,7,0\n";
constexpr char kNdjson[] =
    "{\"row\":0,\"variance\":5,\"variance_is_ood\":false}\n"
    "{\"row\":1,\"variance\":6,\"variance_is_ood\":false}\n"
    "{\"row\":2,\"variance\":200,\"variance_is_ood\":true}\n"
    "{\"row\":3,\"variance\":7,\"variance_is_ood\":false}\n";
constexpr char kSummary[] =
    "variance: 1 of 4 rows flagged (25.0 %; data like the training data: 5.0 %), threshold 100\n";

class ScoreCommand : public Command {
 protected:
  ScoreCommand() {
    server_.ChangePosterior([](v1::Posterior& posterior) {
      v1::OodThreshold& threshold = *posterior.add_ood_thresholds();
      threshold.set_score("variance");
      threshold.set_threshold(100);
    });
    std::filesystem::create_directory(folder_ + "/out.d");
  }

  // Where results go, and nothing else.
  std::string Out(const std::string& name) const { return folder_ + "/out.d/" + name; }
  std::vector<std::string> OutNames() const { return NamesIn(folder_ + "/out.d"); }

  Outcome Score(const std::string& arguments, const std::string& input = "/dev/null") const {
    return Run("score digits " + arguments, input);
  }

  // `rows` rows of two pixels, the second one being the row's number.
  std::string LargeFile(int64_t rows) const {
    Array x;
    x.dtype = DType::kUint8;
    x.shape = {rows, 2};
    for (int64_t i = 0; i < rows; ++i) x.bytes += std::string{'\0', static_cast<char>(i % 100)};
    const std::string path = folder_ + "/large.npy";
    EXPECT_TRUE(::laplaced::WriteNpy(path, x).ok());
    return path;
  }

  void WriteText(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
  }
};

TEST_F(ScoreCommand, TableAndJsonAreAsTheyWere) {
  const std::string input = " --input " + DataFile();
  const Outcome table = Score("--batch-size 3" + input);
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_EQ(table.out, absl::StrCat("ROW  VARIANCE  OOD\n"
                                    "  0         5  no\n"
                                    "  1         6  no\n"
                                    "  2       200  yes\n"
                                    "  3         7  no\n"
                                    "\n",
                                    kSummary));
  ASSERT_EQ(server_.Streams().size(), 1u);
  EXPECT_THAT(server_.Streams()[0].batch_rows, ElementsAre(3, 1));
  EXPECT_EQ(Score("--output table" + input).out, table.out);
  for (const std::string& json : {Score("--output json --batch-size 3" + input).out,
                                  Run("--output json score digits" + input).out}) {
    EXPECT_EQ(Json::parse(json)["rows"].size(), 4u);
    EXPECT_EQ(Json::parse(json)["rows"][2]["ood_scores"]["variance"]["value"], 200);
    EXPECT_EQ(Json::parse(json)["ood_thresholds"]["variance"]["threshold"], 100);
  }
  EXPECT_EQ(Run("--output json score digits --output table" + input).out, table.out);
}

TEST_F(ScoreCommand, WritesFilesOfEveryFormat) {
  const std::string input = " --batch-size 3 --input " + DataFile();
  for (const char* name : {"scores.csv", "scores.ndjson", "scores.npz"}) {
    const Outcome outcome = Score(absl::StrCat("--output ", Out(name), input));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, kSummary) << name;
  }
  EXPECT_EQ(ReadText(Out("scores.csv")), kCsv);
  EXPECT_EQ(ReadText(Out("scores.ndjson")), kNdjson);
  const auto arrays = ::laplaced::ReadNpz(Out("scores.npz"));
  ASSERT_TRUE(arrays.ok()) << arrays.status();
  EXPECT_EQ(arrays->size(), 4u);
  EXPECT_THAT(OutNames(), ElementsAre("scores.csv", "scores.ndjson", "scores.npz"));
}

TEST_F(ScoreCommand, OthersReadItsFiles) {
  const std::string python = FindPython("numpy, csv, json");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy";
  const std::string input = " --batch-size 3 --rows 1:4 --input " + DataFile();
  for (const char* name : {"s.csv", "s.ndjson", "s.npz"}) {
    EXPECT_EQ(Score(absl::StrCat("--output ", Out(name), input)).exit_code, 0) << name;
  }
  const auto result = RunPython(python, R"(
import csv, json, sys
import numpy as np
with open(sys.argv[1], newline='') as f: rows = list(csv.DictReader(f))
assert [(int(r['row']), float(r['variance']), int(r['variance_is_ood'])) for r in rows] == \
    [(1, 6.0, 0), (2, 200.0, 1), (3, 7.0, 0)], rows
lines = [json.loads(line) for line in open(sys.argv[2])]
assert [(r['row'], r['variance'], r['variance_is_ood']) for r in lines] == \
    [(1, 6.0, False), (2, 200.0, True), (3, 7.0, False)], lines
z = np.load(sys.argv[3])
assert sorted(z.files) == ['row', 'variance', 'variance_is_ood', 'variance_threshold'], z.files
assert z['row'].dtype == np.int64 and z['row'].tolist() == [1, 2, 3]
assert z['variance'].dtype == np.float64 and z['variance'].tolist() == [6, 200, 7]
assert z['variance_is_ood'].dtype == np.uint8 and z['variance_is_ood'].tolist() == [0, 1, 0]
assert z['variance_threshold'].shape == () and float(z['variance_threshold']) == 100
)",
                                {Out("s.csv"), Out("s.ndjson"), Out("s.npz")});
  EXPECT_EQ(result.exit_status, 0) << result.output;
}

TEST_F(ScoreCommand, WritesToStandardOutputAndTheRestElsewhere) {
  const std::string input = " --input " + DataFile();
  for (const auto& [format, text] : {std::pair("", kCsv), std::pair("--format csv ", kCsv),
                                     std::pair("--format ndjson ", kNdjson)}) {
    const Outcome outcome = Score(absl::StrCat(format, "--output -", input));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, text);
    EXPECT_EQ(outcome.err, kSummary);
  }
}

TEST_F(ScoreCommand, ReadsStandardInput) {
  WriteText("rows.csv", "a,b\n0,5\n1,6\n");
  const Outcome text = Score("--csv-type float --input - --output -", folder_ + "/rows.csv");
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out, "row,variance,variance_is_ood\n0,5,0\n1,6,0\n");
  const Outcome pixels = Score("--csv-type uint8 --input - --output -", folder_ + "/rows.csv");
  EXPECT_EQ(pixels.out, text.out);
  const Outcome unclear = Score("--input - --output -", folder_ + "/rows.csv");
  EXPECT_EQ(unclear.exit_code, 1);
  EXPECT_THAT(unclear.err, HasSubstr("--csv-type uint8"));
  EXPECT_EQ(unclear.out, "");
  const std::string npy = LargeFile(7);
  const Outcome array = Score("--input - --output - --limit 2", npy);
  EXPECT_EQ(array.exit_code, 0) << array.err;
  EXPECT_EQ(array.out, "row,variance,variance_is_ood\n0,0,0\n1,1,0\n");
  const Outcome piped = Run(absl::StrCat("score digits --input - --output - --rows 5:"), npy);
  EXPECT_EQ(piped.out, "row,variance,variance_is_ood\n5,5,0\n6,6,0\n");
  const Outcome none = Score("--input - --output -", "/dev/null");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("standard input: holds no rows"));
}

TEST_F(ScoreCommand, InputsThatDoNotFitAreRefused) {
  WriteText("three.csv", "1,2,3\n");
  EXPECT_THAT(Score("--input " + folder_ + "/three.csv").err,
              HasSubstr("takes examples of shape [1, 2]: expected 2 numbers in a line, got 3"));
  WriteText("bad.csv", "1,2\n3,x\n");
  const Outcome bad = Score(
      absl::StrCat("--csv-type float --output ", Out("s.csv"), " --input ", folder_, "/bad.csv"));
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.err, HasSubstr("bad.csv: line 2, column 2: expected a finite number, got 'x'"));
  WriteText("names.csv", "a,b\n");
  EXPECT_THAT(Score("--csv-type float --input " + folder_ + "/names.csv").err,
              HasSubstr("holds no rows"));
  EXPECT_THAT(Score("--rows 2:9 --input " + DataFile()).err,
              HasSubstr("rows 2:9 are not among its 4 rows"));
  WriteText("two.csv", "1,2\n3,4\n");
  EXPECT_THAT(Score("--csv-type float --rows 1:9 --input " + folder_ + "/two.csv").err,
              HasSubstr("rows 1:9 are not among its 2 rows"));
  EXPECT_THAT(Score("--csv-type float --rows 5: --input " + folder_ + "/two.csv").err,
              HasSubstr("rows 5: are not among its 2 rows"));
  EXPECT_THAT(OutNames(), ElementsAre());
}

TEST_F(ScoreCommand, TakesOneExampleWithoutABatchDimension) {
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {2};
  x.bytes = "\1\7";
  ASSERT_TRUE(::laplaced::WriteNpy(folder_ + "/one.npy", x).ok());
  EXPECT_EQ(Score("--output - --input " + folder_ + "/one.npy").out,
            "row,variance,variance_is_ood\n0,7,0\n");
}

TEST_F(ScoreCommand, RefusesBoolAsPixels) {
  Array x;
  x.dtype = DType::kUint8;
  x.shape = {1, 2};
  x.bytes = std::string("\1\0", 2);
  std::string npy = *::laplaced::SerializeNpy(x);
  WriteText("mask.npy", npy.replace(npy.find("|u1"), 3, "|b1"));
  const Outcome outcome = Score("--output - --input " + folder_ + "/mask.npy");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("mask.npy: holds bool, but model digits takes float32: save "
                                     "it as float32 zeros and ones"));
}

TEST_F(ScoreCommand, SendsItsOptions) {
  const Outcome outcome = Score(
      "--ood-score variance --mode sampled --samples 8 --seed 3 --output - --input " + DataFile());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const v1::ScoreRequest sent = server_.Streams()[0].start.score();
  EXPECT_THAT(sent.ood_scores(), ElementsAre("variance"));
  EXPECT_EQ(sent.variance_mode(), v1::VARIANCE_MODE_SAMPLED);
  EXPECT_EQ(sent.samples(), 8);
  EXPECT_EQ(sent.seed(), 3u);
}

TEST_F(ScoreCommand, MistakesInUsageExitWithTwo) {
  for (const char* arguments :
       {"--input f.npy --output scores.txt", "--input f.npy --output yaml",
        "--input f.npy --format csv", "--input f.npy --output s.csv --format ndjson",
        "--input f.npy --output - --format npz", "--input f.npy --gate 'ood_rate=0.05'",
        "--input f.npy --gate 'rate<1'", "--input f.npy --gate 'ood_rate<x'",
        "--input f.npy --gate 'mean<1'"}) {
    const Outcome outcome = Score(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("--help")) << arguments;
  }
}

TEST_F(ScoreCommand, GatesSetTheExitCode) {
  const std::string rest = absl::StrCat(" --output ", Out("s.csv"), " --input ", DataFile());
  const Outcome holds = Score("--gate 'ood_rate<=0.25'" + rest);
  EXPECT_EQ(holds.exit_code, 0) << holds.err;
  EXPECT_EQ(holds.err, "gate ood_rate<=0.25 holds: 0.25 (1 of 4 rows flagged by variance)\n");
  const Outcome fails = Score("--gate 'ood_rate <= 0.05'" + rest);
  EXPECT_EQ(fails.exit_code, 3);
  EXPECT_EQ(fails.err, "gate ood_rate <= 0.05 failed: 0.25 (1 of 4 rows flagged by variance)\n");
  EXPECT_EQ(ReadText(Out("s.csv")), kCsv) << "complete although the gate failed";
  EXPECT_EQ(server_.Streams().back().start.posterior_id(), "p-1");
  // All must hold, whatever their order, and MODEL may come last.
  EXPECT_EQ(Run("score --gate 'ood_rate<0.3' --gate 'max.variance<200' digits" + rest).exit_code,
            3);
  EXPECT_EQ(Run("score --gate 'max.variance<200' --gate 'ood_rate<0.3' digits" + rest).exit_code,
            3);
  const Outcome mean = Score("--gate 'mean.variance>=54.5' --gate 'max.variance<=200'" + rest);
  EXPECT_EQ(mean.exit_code, 0) << mean.err;
  EXPECT_THAT(mean.err, HasSubstr("gate mean.variance>=54.5 holds: 54.5 (4 rows)\n"));
  EXPECT_EQ(Score("--gate 'mean.variance>54.5'" + rest).exit_code, 3);
  EXPECT_EQ(Score("--gate 'ood_rate.variance<0.26' --output json --input " + DataFile()).exit_code,
            0);
}

TEST_F(ScoreCommand, GatesThatCannotBeJudgedAreRefusedBeforeAnyRow) {
  const std::string input = " --input " + DataFile();
  const Outcome other = Score("--gate 'mean.energy<1'" + input);
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.err, HasSubstr("expected one of the scores that are computed (variance); name "
                                   "it with --ood-score too"));
  server_.ChangePosterior([](v1::Posterior& posterior) { posterior.clear_ood_thresholds(); });
  const Outcome bare = Score("--gate 'ood_rate<1'" + input);
  EXPECT_EQ(bare.exit_code, 1);
  EXPECT_THAT(bare.err, HasSubstr("there is no threshold for variance; set thresholds with laplace "
                                  "posterior calibrate"));
  EXPECT_EQ(server_.Calls("PredictStream"), 0);
  // Without thresholds a mean is still a mean.
  EXPECT_EQ(Score("--gate 'mean.variance<1000'" + input).exit_code, 0);
}

TEST_F(ScoreCommand, GoesOnWhereAConnectionDropped) {
  const grpc::Status dropped(grpc::StatusCode::UNAVAILABLE, "dropped");
  server_.FaultNextStream({1, 1, dropped});
  server_.FaultNextStream({0, 2, dropped});
  const Outcome outcome =
      Score(absl::StrCat("--batch-size 1 --output ", Out("s.csv"), " --input ", DataFile()));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(ReadText(Out("s.csv")), kCsv);
  ASSERT_EQ(server_.Streams().size(), 3u);
  EXPECT_EQ(server_.Streams()[2].start.first_row(), 1);
  EXPECT_EQ(server_.Streams()[2].start.posterior_id(), "p-1");
}

TEST_F(ScoreCommand, LeavesNoHalfFile) {
  const grpc::Status refused(grpc::StatusCode::INVALID_ARGUMENT, "inputs: not finite");
  for (const char* name : {"s.csv", "s.ndjson", "s.npz"}) {
    std::ofstream(Out(name)) << "before";
    server_.FaultNextStream({2, 1, refused});
    const Outcome outcome =
        Score(absl::StrCat("--batch-size 1 --output ", Out(name), " --input ", DataFile()));
    EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("the first row without an answer is 2"));
    EXPECT_EQ(ReadText(Out(name)), "before") << name;
  }
  EXPECT_THAT(OutNames(), ElementsAre("s.csv", "s.ndjson", "s.npz"));
  const Outcome nowhere = Score("--output /nowhere/s.csv --input " + DataFile());
  EXPECT_EQ(nowhere.exit_code, 1);
  EXPECT_THAT(nowhere.err, HasSubstr("cannot write /nowhere/s.csv"));
}

TEST_F(ScoreCommand, ASignalEndsItAndLeavesNoHalfFile) {
  server_.FaultNextStream({1, 1, grpc::Status::OK, /*silent=*/true});
  const std::string command =
      absl::StrCat("echo $$ >", folder_, "/pid; exec ", LAPLACE_COMMAND, " score digits --server ",
                   server_.address(), " --batch-size 1 --output ", Out("s.npz"), " --input ",
                   DataFile(), " 2>", folder_, "/err");
  auto status = std::async(std::launch::async, [&command] { return std::system(command.c_str()); });
  // The first answer has made the files of the archive.
  while (OutNames().size() < 4 &&
         status.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready) {
  }
  const pid_t pid = std::stoi(ReadText(folder_ + "/pid"));
  ASSERT_GT(pid, 1);
  kill(pid, SIGTERM);
  const int code = status.get();
  EXPECT_TRUE(WIFEXITED(code) && WEXITSTATUS(code) == 1);
  EXPECT_THAT(ReadText(folder_ + "/err"), HasSubstr("stopped; the first row without an answer"));
  EXPECT_THAT(OutNames(), ElementsAre());
}

TEST_F(ScoreCommand, EndsQuietlyWhenNobodyReads) {
  const std::string command =
      absl::StrCat("bash -c 'set -o pipefail; LAPLACE_SERVER=", server_.address(), " ",
                   LAPLACE_COMMAND, " score digits --output - --batch-size 5000 --input ",
                   LargeFile(60000), " 2>", folder_, "/err | head -1 >", folder_, "/out'");
  const int status = std::system(command.c_str());
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  EXPECT_EQ(ReadText(folder_ + "/out"), "row,variance,variance_is_ood\n");
  EXPECT_THAT(ReadText(folder_ + "/err"),
              AllOf(Not(HasSubstr("laplace:")), Not(HasSubstr("flagged"))));
}

TEST_F(ScoreCommand, ShowsHowFarItIs) {
  const Outcome outcome =
      Score("--output " + Out("s.csv") + " --batch-size 500 --input " + LargeFile(5000));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("scoring 50 %  2,500 rows, "), HasSubstr(" rows/s\n")));
  const Outcome unknown =
      Score("--csv-type float --output " + Out("s.csv") + " --batch-size 2 --input -", [this] {
        WriteText("five.csv", "1,2\n1,2\n1,2\n1,2\n1,2\n");
        return folder_ + "/five.csv";
      }());
  EXPECT_THAT(unknown.err, HasSubstr(" rows, "));
}

// Numbers that decimals in common formats would lose.
TEST(ScoreWriterTest, NumbersComeBackAsTheyWere) {
  ::laplaced::test_support::TempFolder folder;
  const std::vector<double> values = {0.1, 1.0 / 3, 1e300, -5e-324, 123456789.123456789, -0.0};
  Scores scores;
  scores.ood_scores.push_back({"a", values, {}, {}, 0});
  scores.ood_scores.push_back(
      {"b,\"c\"", {INFINITY, NAN, 1, 2, 3, 4}, 2.5, {true, false, false, false, true, true}, 0.05});
  for (const auto& [format, name] : {std::pair(cli::ScoreFormat::kCsv, "s.csv"),
                                     std::pair(cli::ScoreFormat::kNdjson, "s.ndjson")}) {
    auto writer = cli::OpenScoreWriter(format, folder.File(name));
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(7, scores).ok());
    EXPECT_FALSE(std::filesystem::exists(folder.File(name)));
    ASSERT_TRUE((*writer)->Finish().ok());
  }
  const std::vector<std::string> lines = absl::StrSplit(ReadText(folder.File("s.csv")), '\n');
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(lines[0], "row,a,\"b,\"\"c\"\"\",\"b,\"\"c\"\"_is_ood\"");
  EXPECT_EQ(lines[1], "7,0.1,inf,1");
  EXPECT_EQ(lines[2], "8,0.3333333333333333,nan,0");
  for (size_t i = 0; i < values.size(); ++i) {
    const std::vector<std::string> cells = absl::StrSplit(lines[i + 1], ',');
    EXPECT_EQ(std::strtod(cells[1].c_str(), nullptr), values[i]);
  }
  const std::vector<std::string> objects = absl::StrSplit(ReadText(folder.File("s.ndjson")), '\n');
  for (size_t i = 0; i < values.size(); ++i) {
    const Json object = Json::parse(objects[i]);
    EXPECT_EQ(object["a"], values[i]);
    EXPECT_EQ(object.contains("a_is_ood"), false);
    EXPECT_EQ(object["b,\"c\"_is_ood"], static_cast<bool>(scores.ood_scores[1].is_ood[i]));
  }
  EXPECT_TRUE(Json::parse(objects[0])["b,\"c\""].is_null());
}

TEST(GateTest, ReadsItsGrammar) {
  const auto gate = cli::ParseGate(" ood_rate.laplace_entropy >= 5e-2 ");
  ASSERT_TRUE(gate.ok()) << gate.status();
  EXPECT_EQ(gate->statistic, cli::Gate::Statistic::kOodRate);
  EXPECT_EQ(gate->score, "laplace_entropy");
  EXPECT_EQ(gate->comparison, cli::Gate::Comparison::kAtLeast);
  EXPECT_EQ(gate->bound, 0.05);
  EXPECT_EQ(cli::ParseGate("ood_rate<1")->score, "");
  EXPECT_EQ(cli::ParseGate("max.msp>0.5")->comparison, cli::Gate::Comparison::kAbove);
  for (const char* text :
       {"", "ood_rate", "ood_rate<", "ood_rate<nan", "ood_rate<1e999", "<1", "ood_rate.<1", "max<1",
        "mean.<1", "median.msp<1", "ood_rate==1", "ood_rate<=<1", "0.05>=ood_rate"}) {
    EXPECT_EQ(cli::ParseGate(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(GateTest, HoldsAtItsBoundOrNot) {
  Scores answer;
  answer.ood_scores.push_back({"a", {1, 2, 3, 6}, {}, {}, 0});
  answer.ood_scores.push_back({"b", {-4, -1, -2, -1}, -1.5, {false, true, false, true}, 0.05});
  cli::ScoreSummary summary;
  ASSERT_TRUE(summary.Add(answer).ok());
  ASSERT_TRUE(summary.Add(answer).ok());
  const std::pair<const char*, bool> cases[] = {
      {"ood_rate<=0.5", true}, {"ood_rate<0.5", false}, {"ood_rate.b>=0.5", true},
      {"ood_rate>0.5", false}, {"mean.a<=3", true},     {"mean.a<3", false},
      {"max.a<=6", true},      {"max.a<6", false},      {"mean.b<=-2", true},
      {"mean.b>-2", false},    {"max.b<=-1", true},     {"max.b<-1", false}};
  for (const auto& [text, holds] : cases) {
    const auto gate = cli::ParseGate(text);
    ASSERT_TRUE(gate.ok() && cli::CheckGate(*gate, summary.scores()).ok()) << text;
    EXPECT_EQ(cli::Evaluate(*gate, summary).holds, holds) << text;
  }
  EXPECT_EQ(cli::CheckGate(*cli::ParseGate("ood_rate.a<1"), summary.scores()).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cli::CheckGate(*cli::ParseGate("max.c<1"), summary.scores()).code(),
            absl::StatusCode::kInvalidArgument);
  answer.ood_scores[0].values[1] = NAN;
  ASSERT_TRUE(summary.Add(answer).ok());
  for (const char* text : {"mean.a<1e9", "mean.a>=0", "max.a<1e9", "max.a>=0"}) {
    EXPECT_FALSE(cli::Evaluate(*cli::ParseGate(text), summary).holds) << text;
  }
  answer.ood_scores[1].threshold = 7;
  EXPECT_EQ(summary.Add(answer).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace laplace::client
