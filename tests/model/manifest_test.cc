#include "server/model/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "server/model/field_error.h"
#include "server/model/input_transform.h"

namespace laplaced {
namespace {

using ::testing::HasSubstr;

constexpr char kGood[] = R"({"likelihood": "categorical", "n_outputs": 2,
  "input": {"shape": [2, 1, 2], "uint8_scale": 0.5, "uint8_mean": [1, 2], "uint8_std": [2, 4]},
  "class_names": ["a", "b"], "n_data": 10, "weight_decay": 0.001})";

std::string Replaced(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void ExpectRefused(const std::string& json, const std::string& text) {
  const absl::Status status = ParseManifest("model.json", json).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << json;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.json"));
}

TEST(ManifestTest, ReadsEveryKey) {
  const auto manifest = ParseManifest("model.json", kGood);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->input_shape, (std::vector<int64_t>{2, 1, 2}));
  EXPECT_EQ(manifest->n_outputs, 2);
  EXPECT_EQ(manifest->class_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(manifest->n_data, 10);
  EXPECT_DOUBLE_EQ(manifest->weight_decay, 0.001);
  EXPECT_TRUE(manifest->accepts_uint8);
  EXPECT_EQ(manifest->likelihood.kind, Likelihood::Kind::kCategorical);
}

TEST(ManifestTest, BiasesMayHaveAWeightDecayOfTheirOwn) {
  EXPECT_EQ(ParseManifest("model.json", kGood)->bias_weight_decay, 0.001);
  const std::string stated = Replaced("0.001", "0.001, \"bias_weight_decay\": 1e-6");
  const auto manifest = ParseManifest("model.json", stated);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->weight_decay, 0.001);
  EXPECT_EQ(manifest->bias_weight_decay, 1e-6);
  ExpectRefused(Replaced("0.001", "0.001, \"bias_weight_decay\": 0"), "flat, which is improper");
  ExpectRefused(Replaced("0.001", "0.001, \"bias_weight_decay\": -1"),
                "bias_weight_decay: expected");
  ExpectRefused(Replaced("0.001", "0, \"bias_weight_decay\": 1e-6"),
                "bias_weight_decay: needs weight_decay > 0");
  ExpectRefused(Replaced("\"weight_decay\"", "\"bias_weight_decay\""),
                "bias_weight_decay: needs weight_decay > 0");
}

TEST(ManifestTest, LikelihoodsHaveNames) {
  const auto kind = [](const std::string& json) {
    return ParseManifest("model.json", json)->likelihood.kind;
  };
  EXPECT_EQ(kind(Replaced("\"categorical\"", "\"bernoulli\"")), Likelihood::Kind::kBernoulli);
  EXPECT_EQ(kind(Replaced("\"categorical\"", "\"gaussian\", \"sigma_noise\": 2")),
            Likelihood::Kind::kGaussian);
  EXPECT_EQ(ParseManifest("model.json", Replaced("\"categorical\"", "\"gaussian\""))
                ->likelihood.sigma_noise,
            0);
  ExpectRefused(Replaced("\"n_outputs\": 2", "\"n_outputs\": 1"), "\"bernoulli\"");
}

TEST(ManifestTest, FingerprintsTellManifestsApartThatGiveOtherNumbers) {
  const auto fingerprint = [](const std::string& json) {
    return ManifestFingerprint(ParseManifest("model.json", json).value());
  };
  const std::string original = fingerprint(kGood);
  EXPECT_EQ(fingerprint(Replaced("[\"a\", \"b\"]", "[\"c\", \"d\"]")), original);
  EXPECT_EQ(fingerprint(Replaced("0.001", "0.001, \"bias_weight_decay\": 0.001")), original);
  for (const std::string& other :
       {Replaced("0.001", "0.002"), Replaced("0.001", "0.001, \"bias_weight_decay\": 0.002"),
        Replaced("\"categorical\"", "\"bernoulli\""),
        Replaced("\"categorical\"", "\"gaussian\", \"sigma_noise\": 1")}) {
    EXPECT_NE(fingerprint(other), original) << other;
  }
}

TEST(ManifestTest, AnArchitectureIsANameOrAnObjectWithOptions) {
  const auto with = [](const std::string& value) {
    return Replaced("0.001", "0.001, \"architecture\": " + value);
  };
  EXPECT_EQ(ParseManifest("model.json", kGood)->architecture.name, "");
  const auto plain = ParseManifest("model.json", with("\"resnet20\""));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->architecture.name, "resnet20");
  EXPECT_EQ(plain->architecture.family, ArchitectureFamily::kCifarResnet);
  const auto mlp = ParseManifest(
      "model.json", with(R"({"name": "mlp", "activation": "tanh", "layers": ["a", "b"]})"));
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  EXPECT_EQ(mlp->architecture.activation, "tanh");
  EXPECT_EQ(mlp->architecture.layers, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(ParseManifest("model.json", with(R"({"name": "lenet", "padding": 2})"))
                ->architecture.first_padding,
            2);
  EXPECT_EQ(ParseManifest("model.json", with(R"({"name": "vit", "heads": 5})"))->architecture.heads,
            5);
  ExpectRefused(with("3"), "architecture: expected a name or an object");
  ExpectRefused(with("{}"), "architecture.name: is required");
  ExpectRefused(with("\"vgg\""),
                "architecture.name: expected one of mlp, lenet, all_cnn_c, resnet20");
  ExpectRefused(with("\"\""), "architecture.name: expected one of");
  ExpectRefused(with(R"({"name": "mlp", "heads": 2})"), "architecture.heads: unknown key");
  ExpectRefused(with(R"({"name": "mlp", "activation": "step"})"),
                "architecture.activation: expected \"relu\"");
  ExpectRefused(with(R"({"name": "mlp", "activation": ""})"), "architecture.activation: expected");
  ExpectRefused(with(R"({"name": "mlp", "layers": [1]})"), "architecture.layers: expected a list");
  ExpectRefused(with(R"({"name": "lenet", "padding": -1})"), "architecture.padding: expected");
  ExpectRefused(with(R"({"name": "resnet20", "shortcut": "C"})"),
                "architecture.shortcut: expected");
}

TEST(ManifestTest, FingerprintsTellArchitecturesApart) {
  const auto fingerprint = [](const std::string& value) {
    return ManifestFingerprint(
        ParseManifest("model.json", Replaced("0.001", "0.001, \"architecture\": " + value))
            .value());
  };
  const std::string mlp = fingerprint("\"mlp\"");
  EXPECT_NE(mlp, ManifestFingerprint(ParseManifest("model.json", kGood).value()));
  EXPECT_EQ(fingerprint(R"({"name": "mlp"})"), mlp);
  EXPECT_EQ(fingerprint(R"({"name": "mlp", "activation": "relu"})"), mlp);
  EXPECT_EQ(fingerprint(R"({"name": "lenet", "padding": 0, "pool": "max"})"),
            fingerprint("\"lenet\""));
  for (const char* other :
       {R"({"name": "mlp", "activation": "tanh"})", R"({"name": "mlp", "layers": ["a"]})",
        R"("lenet")", R"({"name": "lenet", "padding": 1})", R"({"name": "lenet", "pool": "avg"})",
        R"({"name": "all_cnn_c", "padding": "tensorflow"})", R"({"name": "vit", "heads": 2})",
        R"({"name": "vit", "pool": "avg"})", R"({"name": "resnet20", "shortcut": "A"})"}) {
    EXPECT_NE(fingerprint(other), mlp) << other;
  }
  EXPECT_NE(fingerprint(R"({"name": "lenet", "padding": 1})"), fingerprint("\"lenet\""));
}

// A posterior that an older version wrote stays valid: tests/data/registry_v1.
TEST(ManifestTest, FingerprintsOfOlderVersionsStayTheSame) {
  const std::filesystem::path model = LAPLACED_SOURCE_DIR "/tests/data/registry_v1/models/mlp/1";
  const auto read = [](const std::filesystem::path& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  };
  const auto manifest = ParseManifest("model.json", read(model / "model.json"));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  int posteriors = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model / "posteriors")) {
    const std::string record = read(entry.path() / "posterior.json");
    EXPECT_THAT(record, HasSubstr("\"manifest_fingerprint\": \"" + ManifestFingerprint(*manifest)));
    ++posteriors;
  }
  EXPECT_GT(posteriors, 0);
}

TEST(ManifestTest, SaysWhatIsWrong) {
  ExpectRefused("{", "expected a JSON object");
  ExpectRefused("[1]", "expected a JSON object");
  ExpectRefused(Replaced("\"weight_decay\"", "\"weight_decaj\""), "weight_decaj: unknown key");
  ExpectRefused(Replaced("\"categorical\"", "\"poisson\""), "likelihood: expected");
  ExpectRefused(Replaced("\"categorical\"", "\"gaussian\", \"sigma_noise\": 0"),
                "sigma_noise: expected a number > 0");
  ExpectRefused(Replaced("\"n_outputs\": 2", "\"n_outputs\": -2"),
                "n_outputs: expected a positive whole number");
  ExpectRefused(Replaced("\"n_outputs\": 2", "\"n_outputs\": 3"),
                "class_names: expected n_outputs = 3 names, got 2");
  ExpectRefused(Replaced("\"n_outputs\": 2", "\"n_outputs\": 1"), "n_outputs: expected at least 2");
  ExpectRefused(Replaced("[2, 1, 2]", "[2, 0, 2]"), "input.shape");
  ExpectRefused(Replaced("[2, 1, 2]", "[99999999, 99999999, 99999999]"),
                "input.shape: is too large");
  ExpectRefused(Replaced("[1, 2]", "[1]"), "input.uint8_mean: expected one number per channel (2)");
  ExpectRefused(Replaced("[2, 4]", "[2, 0]"), "input.uint8_std: expected numbers > 0");
  ExpectRefused(Replaced("0.001", "-1"), "weight_decay: expected a number >= 0");
}

class InputTransformTest : public ::testing::Test {
 protected:
  absl::Status Check(DType dtype, std::vector<int64_t> shape, const void* data) const {
    return CheckInputs("inputs", {dtype, std::move(shape), data}, manifest_);
  }
  Manifest manifest_ = *ParseManifest("model.json", kGood);
};

TEST_F(InputTransformTest, RawPixelsAreScaledAndNormalisedPerChannel) {
  const uint8_t pixels[] = {10, 20, 30, 40};
  ASSERT_TRUE(Check(DType::kUint8, {1, 2, 1, 2}, pixels).ok());
  const at::Tensor x =
      ToNetworkInput(AliasArray({DType::kUint8, {1, 2, 1, 2}, pixels}), manifest_, at::kDouble);
  EXPECT_TRUE(at::allclose(x.flatten(), at::tensor({2.0, 4.5, 3.25, 4.5}, at::kDouble)));
}

TEST_F(InputTransformTest, FloatsAreTakenAsTheyAre) {
  const float values[] = {1, 2, 3, 4};
  const at::Tensor x =
      ToNetworkInput(AliasArray({DType::kFloat32, {1, 2, 1, 2}, values}), manifest_, at::kFloat);
  EXPECT_EQ(x.data_ptr(), values);
}

TEST_F(InputTransformTest, BadInputsNameTheField) {
  const float values[] = {1, 2, 3, NAN, 5, 6, 7, 8};
  const auto expect = [&](const absl::Status& status, const std::string& field,
                          const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(FieldOf(status), field);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect(Check(DType::kFloat32, {2, 2, 1, 2}, values), "inputs",
         "row 0 holds a value that is not finite");
  expect(Check(DType::kFloat32, {8}, values), "inputs.shape", "expected [B, 2, 1, 2], got [8]");
  expect(Check(DType::kFloat32, {}, values), "inputs.shape", "got []");
  expect(Check(DType::kFloat32, {0, 2, 1, 2}, values), "inputs.shape", "empty batch");
  expect(Check(DType::kInt64, {1, 2, 1, 2}, values), "inputs.dtype", "got int64");
  manifest_.accepts_uint8 = false;
  expect(Check(DType::kUint8, {1, 2, 1, 2}, values), "inputs.dtype", "uint8_scale");
}

}  // namespace
}  // namespace laplaced
