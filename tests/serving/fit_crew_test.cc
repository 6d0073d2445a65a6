// What ranks send each other: every field of a request arrives, or they would fit different things.
// And when they wait for each other.
#include "server/serving/fit_crew.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "server/distributed/gloo_ranks.h"
#include "server/model/torch_status.h"
#include "server/serving/fit_end.h"
#include "server/serving/fit_identity.h"
#include "server/serving/fit_start.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(FitCrewTest, EveryFieldOfARequestArrives) {
  FitRequest r;
  r.model = "net";
  r.version = 3;
  r.train_dataset_id = "train";
  r.validation_dataset_id = "validation";
  r.keep_inactive = true;
  r.rank = 4;
  r.direction_batch_size = 5;
  r.curvature_batch_size = 6;
  r.debiasing = "cross_fit";
  r.residual = "diagonal";
  r.seed = UINT64_MAX;
  r.prior_precision = 0.1;
  r.ood_prior_precision = 7.5;
  r.lanczos_tolerance = 1e-7;
  r.max_products = 8;
  r.target_id_rate = 0.01;
  r.max_validation_examples = 9;
  r.structure = "kfac";
  r.curvature = "mc_fisher";
  r.parameters = {"head.*", "b"};
  r.kfac_eigenvalues = "factors";
  r.prior_method = "given";
  r.temperature = 0.5;
  r.noise_method = "data";
  r.sigma_noise = 0.3;
  r.target_relative_standard_error = 0.2;
  r.variance_correction = true;
  r.memory_limit_bytes = 10;
  r.fisher_samples = 11;
  r.feature_layer = "fc";
  const std::string text = EncodeFitRequest(r);
  const auto back = DecodeFitRequest(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(EncodeFitRequest(*back), text);
  EXPECT_EQ(back->seed, UINT64_MAX);
  EXPECT_EQ(back->prior_precision, r.prior_precision);
  EXPECT_EQ(back->ood_prior_precision, r.ood_prior_precision);
  EXPECT_EQ(back->sigma_noise, r.sigma_noise);
  EXPECT_EQ(back->parameters, r.parameters);
  // Nothing that was set above is sent as its default, and all of it is sent.
  const auto sent = nlohmann::json::parse(text);
  const auto usual = nlohmann::json::parse(EncodeFitRequest(FitRequest()));
  ASSERT_EQ(sent.size(), 30u);
  for (const auto& [name, value] : sent.items()) EXPECT_NE(value, usual[name]) << name;
}

TEST(FitCrewTest, WhatIsNoRequestIsDataLoss) {
  for (const char* text : {"", "[]", "{}", "{\"model\": 3}"}) {
    EXPECT_EQ(DecodeFitRequest(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST(FitCrewTest, ARankThatIsLateLeavesOutFitsThatHaveEnded) {
  const test_support::TempFolder root;
  const Repository repository = *Repository::Open(root.path());
  const DatasetStore datasets(repository.DatasetsFolder(), 1 << 20);
  const MeetingPoint first = MeetingPoint::InProcess(nullptr, 0, 2);
  for (const int64_t number : {1, 2, 3}) {
    const std::string request = EncodeFitRequest(FitRequest());
    ASSERT_THAT(first.Post("fit-" + std::to_string(number), request), IsOk());
    if (number < 3) PostFitEnd(first, number, absl::CancelledError("the fit was cancelled"));
  }
  FitCrew late(std::make_unique<MeetingPoint>(MeetingPoint::InProcess(&first, 1, 2)),
               {seconds(30), seconds(30)});
  std::atomic<bool> stop{false};
  std::thread thread([&] { EXPECT_THAT(late.Work(repository, datasets, stop), IsOk()); });
  auto ranks = first.Join("fit-3/", seconds(15), seconds(30));
  EXPECT_THAT(ranks, IsOk());
  stop = true;
  if (ranks.ok()) (*ranks)->GiveUp(absl::CancelledError("the fit was cancelled"));
  thread.join();
}

TEST(FitEndWatchTest, TellsOfFitsThatRank0HasGivenUp) {
  const MeetingPoint meeting = MeetingPoint::InProcess(nullptr, 0, 2);
  const auto good = FitEndWatch::Start(meeting, 1), bad = FitEndWatch::Start(meeting, 2);
  ASSERT_THAT(good, IsOk());
  ASSERT_THAT(bad, IsOk());
  EXPECT_FALSE(HasFitEnded(meeting, 2));
  EXPECT_THAT((*bad)->status(), IsOk());
  PostFitEnd(meeting, 1, absl::OkStatus());
  PostFitEnd(meeting, 2, absl::CancelledError("the fit was cancelled"));
  EXPECT_TRUE(HasFitEnded(meeting, 1));
  EXPECT_TRUE(HasFitEnded(meeting, 2));
  for (int i = 0; i < 1000 && (*bad)->status().ok(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_THAT((*bad)->status(), StatusIs(absl::StatusCode::kUnavailable,
                                         HasSubstr("rank 0 ended the fit: the fit was cancelled")));
  EXPECT_THAT((*good)->status(), IsOk());
}

class Handle : public OperationHandle {
 public:
  bool cancelled() const override { return false; }
  void Report(const std::string&, int64_t, int64_t, double) override {}
};

// Rank 0, and beside it rank 1 as a thread.
class FitCrewRanksTest : public ::testing::Test {
 protected:
  FitCrewRanksTest() {
    std::filesystem::create_directories(Folder());
    WriteModel(/*seed=*/1);
    WriteManifest("0.01");
    request_.model = "net";
    request_.version = 1;
    request_.rank = 3;
    request_.direction_batch_size = 20;
    request_.curvature_batch_size = 30;
    request_.train_dataset_id = AddData(at::arange(kRows, at::kLong).remainder(3));
    thread_ =
        std::thread([this] { EXPECT_THAT(other_.Work(repository_, datasets_, stop_), IsOk()); });
  }
  ~FitCrewRanksTest() override {
    stop_ = true;
    thread_.join();
  }

  std::string Folder() const { return root_.path() + "/models/net/1"; }
  void WriteModel(uint64_t seed) const {
    reference::MakeModule({{"weight", {5, 4}}, {"head", {3, 5}}},
                          "  return torch.linear(torch.linear(x, self.weight).tanh(), self.head)\n",
                          at::kFloat, seed)
        .save(Folder() + "/model.pt");
  }
  void WriteManifest(const std::string& weight_decay) const {
    test_support::WriteFileBytes(
        Folder() + "/model.json",
        R"({"likelihood": "categorical", "input": {"shape": [4]}, "n_outputs": 3, "weight_decay": )" +
            weight_decay + "}");
  }
  std::shared_ptr<const LoadedModel> Load() const { return *LoadModel(repository_, {"net", 1}); }

  std::string AddData(const at::Tensor& labels) const {
    DatasetHeader header;
    header.n_rows = kRows;
    header.example_shape = {4};
    header.input_dtype = DType::kFloat32;
    header.target_dtype = DType::kInt64;
    auto writer = *datasets_.NewWriter(header);
    const at::Tensor x = reference::RandomNormal({kRows, 4}, 1, at::kFloat);
    EXPECT_THAT(writer->Append({DType::kFloat32, {kRows, 4}, x.data_ptr()},
                               {DType::kInt64, {kRows}, labels.data_ptr()}),
                IsOk());
    return writer->Commit()->id;
  }

  // As the server does, with `model` in memory.
  absl::Status Fit(const std::shared_ptr<const LoadedModel>& model) {
    return crew_.Fit(
        request_, IdentityOf(*model, request_), [] { return false; },
        [&](const Ranks& ranks) -> absl::Status {
          LAPLACED_ASSIGN_OR_RETURN(
              Dataset training,
              LoadDataset(datasets_, "train_dataset_id", request_.train_dataset_id, ranks));
          LAPLACED_ASSIGN_OR_RETURN(const FitJob job,
                                    PrepareFit(model, request_, std::move(training), {}, ranks));
          LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                                    repository_.PosteriorFolder({"net", 1}, job.record.id));
          Handle handle;
          return RunFitJob(job, folder, handle);
        });
  }
  size_t Posteriors() const { return repository_.ListPosteriors({"net", 1})->size(); }

  static constexpr int64_t kRows = 61;
  const test_support::TempFolder root_;
  const Repository repository_ = *Repository::Open(root_.path());
  const DatasetStore datasets_{repository_.DatasetsFolder(), 1 << 20};
  const MeetingPoint meeting_ = MeetingPoint::InProcess(nullptr, 0, 2);
  FitCrew crew_{std::make_unique<MeetingPoint>(MeetingPoint::InProcess(&meeting_, 0, 2)),
                {seconds(60), seconds(60)}};
  FitCrew other_{std::make_unique<MeetingPoint>(MeetingPoint::InProcess(&meeting_, 1, 2)),
                 {seconds(60), seconds(60)}};
  FitRequest request_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

TEST_F(FitCrewRanksTest, FilesThatWereReplacedEndAFitAndNoSumMixesTwoNetworks) {
  const auto before = Load();
  EXPECT_THAT(Fit(before), IsOk());
  EXPECT_EQ(Posteriors(), 1u);

  WriteModel(/*seed=*/7);
  EXPECT_THAT(
      Fit(before),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("rank 1: the checkpoint of net/1 in the registry is not what "
                               "rank 0 has loaded"),
                     HasSubstr("Unload and load the model"))));
  const auto after = Load();
  WriteManifest("0.02");
  EXPECT_THAT(Fit(after), StatusIs(absl::StatusCode::kFailedPrecondition,
                                   HasSubstr("rank 1: model.json of net/1")));
  EXPECT_EQ(Posteriors(), 1u);
  EXPECT_THAT(Fit(Load()), IsOk());
  EXPECT_EQ(Posteriors(), 2u);
}

TEST_F(FitCrewRanksTest, ARankThatCannotBeginSaysWhyAndIsThereForTheNextFit) {
  const std::string good = request_.train_dataset_id;
  at::Tensor labels = at::zeros({kRows}, at::kLong);
  labels[kRows - 1] = 3;  // in the share of rank 1
  request_.train_dataset_id = AddData(labels);
  EXPECT_THAT(Fit(Load()), StatusIs(absl::StatusCode::kInvalidArgument,
                                    HasSubstr("rank 1: train_dataset_id: row 60 has label 3")));
  request_.train_dataset_id = good;
  EXPECT_THAT(Fit(Load()), IsOk());
}

TEST_F(FitCrewRanksTest, WhatIsPlannedIsCheckedAndReadAsByOneOfTheRanks) {
  const Ranks& ranks = crew_.planned();
  EXPECT_EQ(ranks.rank(), 0);
  EXPECT_EQ(ranks.size(), 2);
  const std::string id = request_.train_dataset_id;
  const Dataset whole = *LoadDataset(datasets_, "train_dataset_id", id);
  const Dataset mine = *LoadDataset(datasets_, "train_dataset_id", id, ranks);
  EXPECT_EQ(mine.size(), 31);
  EXPECT_EQ(mine.total(), 61);
  request_.memory_limit_bytes = 9 * 8 * 18;  // rank + 6 vectors of half of the 35 parameters
  EXPECT_THAT(PrepareFit(Load(), request_, mine, {}, ranks), IsOk());
  EXPECT_THAT(
      PrepareFit(Load(), request_, whole, {}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("options.memory_limit_bytes")));
  at::Tensor one = at::ones({1});
  EXPECT_THAT(ranks.Sum(one), StatusIs(absl::StatusCode::kInternal));
}

TEST(FitIdentityTest, ProgramAndRequestCountToo) {
  const FitIdentity first{"0.1.0", "net/1", "abc", "def", EncodeFitRequest(FitRequest())};
  const auto back = DecodeFitIdentity(EncodeFitIdentity(first));
  ASSERT_THAT(back, IsOk());
  EXPECT_THAT(CheckSameFit(first, *back), IsOk());
  FitIdentity other = first;
  other.program = "0.2.0";
  EXPECT_THAT(CheckSameFit(first, other),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("this is version 0.2.0 of laplaced, rank 0 is 0.1.0")));
  FitRequest request;
  request.train_dataset_id = "another";
  other = first;
  other.request = EncodeFitRequest(request);
  EXPECT_THAT(CheckSameFit(first, other),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("train_dataset_id is \"another\", but \"\" on rank 0")));
  for (const char* text : {"", "[]", "{}"}) {
    EXPECT_THAT(DecodeFitIdentity(text), StatusIs(absl::StatusCode::kDataLoss));
  }
}

}  // namespace
}  // namespace laplaced
