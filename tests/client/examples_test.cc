#include "client/cli/examples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "formats/npy.h"
#include "formats/npz.h"

namespace laplace::cli {
namespace {

using client::Array;
using client::DType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Array Bytes(const std::vector<int64_t>& shape, const std::string& bytes) {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = shape;
  array.bytes = bytes;
  return array;
}

client::Model TwoPixelModel() {
  client::Model model;
  model.name = "digits";
  model.input_shape = {1, 2};
  model.accepts_uint8 = true;
  return model;
}

class ExamplesTest : public ::testing::Test {
 protected:
  ExamplesTest() {
    folder_ = ::testing::TempDir() + "/examples_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  ~ExamplesTest() override { std::filesystem::remove_all(folder_); }

  std::string Npz(const std::map<std::string, Array>& arrays) {
    const std::string path = folder_ + "/data.npz";
    EXPECT_TRUE(::laplaced::WriteNpz(path, arrays).ok());
    return path;
  }

  std::string Npy(const std::string& name, const Array& array) {
    const std::string path = folder_ + "/" + name;
    EXPECT_TRUE(::laplaced::WriteNpy(path, array).ok());
    return path;
  }

  // The same bytes as NumPy's bool.
  std::string BoolNpy(const std::string& name, const Array& array) {
    std::string bytes = *::laplaced::SerializeNpy(array);
    bytes.replace(bytes.find("|u1"), 3, "|b1");
    return Text(name, bytes);
  }

  std::string Gzipped(const std::string& name, const Array& array) {
    const std::string bytes = *::laplaced::SerializeNpy(array);
    const std::string path = folder_ + "/" + name;
    const gzFile file = gzopen(path.c_str(), "wb");
    EXPECT_GT(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())), 0);
    EXPECT_EQ(gzclose(file), Z_OK);
    return path;
  }

  std::string Text(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::string folder_;
};

TEST_F(ExamplesTest, ComeFromOneNpz) {
  for (const auto& [x, y] :
       {std::pair("x", "y"), std::pair("inputs", "targets"), std::pair("x", "labels")}) {
    const std::string path = Npz({{x, Bytes({2, 2}, "abcd")}, {y, Bytes({2}, "\1\2")}});
    const auto examples = ReadExamples({path, "", {}});
    ASSERT_TRUE(examples.ok()) << examples.status();
    EXPECT_EQ(examples->inputs.bytes, "abcd");
    ASSERT_TRUE(examples->targets.has_value());
    EXPECT_EQ(examples->targets->bytes, "\1\2");
  }
}

TEST_F(ExamplesTest, ComeFromTwoFilesGivenEitherWay) {
  const std::string x = Npy("x.npy", Bytes({2, 2}, "abcd"));
  const std::string y = Npy("y.npy", Bytes({2}, "\1\2"));
  for (const ExampleFiles& files : {ExampleFiles{x + "," + y, "", {}}, ExampleFiles{x, y, {}}}) {
    const auto examples = ReadExamples(files);
    ASSERT_TRUE(examples.ok()) << examples.status();
    ASSERT_TRUE(examples->targets.has_value());
    EXPECT_EQ(examples->targets->bytes, "\1\2");
  }
}

TEST_F(ExamplesTest, MayBeCompressed) {
  const std::string x = Gzipped("x.npy.gz", Bytes({2, 2}, "abcd"));
  const std::string y = Gzipped("y.npy.gz", Bytes({2}, "\1\2"));
  const auto examples = ReadExamples({x, y, {1, 2}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ(examples->inputs.bytes, "cd");
  ASSERT_TRUE(examples->targets.has_value());
  EXPECT_EQ(examples->targets->bytes, "\2");
}

TEST_F(ExamplesTest, MayHaveNoTargets) {
  const auto examples = ReadExamples({Npy("x.npy", Bytes({2, 2}, "abcd")), "", {}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_FALSE(examples->targets.has_value());
}

TEST_F(ExamplesTest, KeepBoolApartFromPixels) {
  const std::string x = BoolNpy("x.npy", Bytes({2, 2}, std::string("\1\0\0\1", 4)));
  const std::string y = BoolNpy("y.npy", Bytes({2}, std::string("\1\0", 2)));
  const auto examples = ReadExamples({x, y, {0, 1}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_TRUE(examples->inputs.boolean);
  ASSERT_TRUE(examples->targets.has_value());
  EXPECT_THAT(*ClassLabels(*examples->targets, 2), ElementsAre(1));
}

TEST_F(ExamplesTest, AreCutToARangeOfRows) {
  const std::string path = Npz({{"x", Bytes({4, 1}, "abcd")}, {"y", Bytes({4}, "\1\2\3\4")}});
  const auto examples = ReadExamples({path, "", {1, 3}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ(examples->inputs.bytes, "bc");
  EXPECT_THAT(examples->inputs.shape, ElementsAre(2, 1));
  EXPECT_EQ(examples->targets->bytes, "\2\3");
  EXPECT_THAT(std::string(ReadExamples({path, "", {2, 9}}).status().message()),
              HasSubstr("rows 2:9 are not among its 4 rows"));
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

TEST_F(ExamplesTest, TakeMemoryForTheRowsThatAreWanted) {
  // 600 MB of zeros that take no room on the disk.
  const int64_t rows = 600000;
  const std::string header = *::laplaced::SerializeNpyHeader(DType::kUint8, {rows, 1000});
  const std::string path = Text("large.npy", header);
  std::filesystem::resize_file(path, header.size() + rows * 1000);
  const int64_t before = PeakResidentBytes();
  const auto examples = ReadExamples({path, "", {1000, 2000}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_THAT(examples->inputs.shape, ElementsAre(1000, 1000));
  EXPECT_EQ(examples->inputs.bytes, std::string(1000 * 1000, '\0'));
  EXPECT_LT(PeakResidentBytes() - before, 400 << 20);
}

TEST_F(ExamplesTest, AreNotFoundInAFileWithoutRows) {
  const std::string path = Npz({{"x", Bytes({0, 2}, "")}, {"y", Bytes({0}, "")}});
  EXPECT_EQ(std::string(ReadExamples({path, "", {}}).status().message()),
            path + ": holds no rows (its array has shape [0, 2]), expected at least one");
}

TEST_F(ExamplesTest, SayWhatAFileHoldsInstead) {
  const std::string path = Npz({{"a", Bytes({1}, "a")}, {"b", Bytes({1}, "b")}});
  EXPECT_THAT(std::string(ReadExamples({path, "", {}}).status().message()),
              HasSubstr("expected an array named x or inputs, found a, b"));
  const std::string uneven = Npz({{"x", Bytes({2, 1}, "ab")}, {"y", Bytes({3}, "abc")}});
  EXPECT_THAT(std::string(ReadExamples({uneven, "", {}}).status().message()),
              HasSubstr("3 targets for 2 inputs"));
}

// What NumPy makes of texts.
std::string TextNpy() {
  const std::string text = "{'descr': '<U1', 'fortran_order': False, 'shape': (2,), }\n";
  return "\x93NUMPY\x01" + std::string(1, '\0') + static_cast<char>(text.size()) +
         std::string(1, '\0') + text + std::string(8, 'a');
}

TEST_F(ExamplesTest, MayLieBesideArraysThatNobodyAsksFor) {
  const std::string x = Npy("x.npy", Bytes({2, 2}, "abcd"));
  const std::string y = Npy("y.npy", Bytes({2}, "\1\2"));
  const std::string names = Text("names.npy", TextNpy());
  const std::string path = folder_ + "/train.npz";
  ASSERT_TRUE(::laplaced::WriteNpzOfFiles(path, {{"names", names}, {"x", x}, {"y", y}}).ok());
  for (const ExampleFiles& files : {ExampleFiles{path, "", {}}, ExampleFiles{path, path, {}}}) {
    const auto examples = ReadExamples(files);
    ASSERT_TRUE(examples.ok()) << examples.status();
    EXPECT_EQ(examples->inputs.bytes, "abcd");
    ASSERT_TRUE(examples->targets.has_value());
    EXPECT_EQ(examples->targets->bytes, "\1\2");
  }
  ASSERT_TRUE(::laplaced::WriteNpzOfFiles(path, {{"x", x}, {"y", names}}).ok());
  EXPECT_THAT(std::string(ReadExamples({path, "", {}}).status().message()),
              HasSubstr("train.npz: member 'y.npy': header: type '<U1' is not supported"));
  const auto inputs = ReadExamples({path, "", {}, /*inputs_only=*/true});
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  EXPECT_EQ(inputs->inputs.bytes, "abcd");
  EXPECT_FALSE(inputs->targets.has_value());
  ASSERT_TRUE(::laplaced::WriteNpzOfFiles(path, {{"names", names}, {"y", y}}).ok());
  EXPECT_THAT(std::string(ReadExamples({path, "", {}}).status().message()),
              HasSubstr("expected an array named x or inputs, found names, y"));
}

TEST_F(ExamplesTest, AreTheOnlyArrayOfAFileWhateverItsName) {
  const std::string path = Npz({{"y", Bytes({2, 2}, "abcd")}});
  const auto examples = ReadExamples({path, "", {}});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ(examples->inputs.bytes, "abcd");
  EXPECT_FALSE(examples->targets.has_value());
}

TEST_F(ExamplesTest, AreNotReadFromTextOrStandardInput) {
  for (const std::string& path : {Text("a.csv", "1,2\n"), Text("a.txt", "1"), std::string("-")}) {
    EXPECT_EQ(std::string(ReadExamples({path, "", {}}).status().message()),
              path +
                  ": unknown kind of file, expected a name that ends in .npy, .npz or .gz or "
                  "contains idx");
  }
}

// Also in rows that are left out.
TEST_F(ExamplesTest, AreRefusedWhereTheFileIsDamaged) {
  const std::string path = folder_ + "/stored.npz";
  ASSERT_TRUE(::laplaced::WriteNpz(path, {{"x", Bytes({100, 1}, std::string(100, 'a'))}},
                                   ::laplaced::NpzCompression::kStored)
                  .ok());
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  file.seekp(static_cast<std::streamoff>(bytes.find("aaaa") + 99));
  file.put('b');
  file.close();
  EXPECT_THAT(std::string(ReadExamples({path, "", {0, 10}}).status().message()),
              HasSubstr("damaged"));
}

TEST(ParseRowRangeTest, TakesOpenEnds) {
  EXPECT_EQ(ParseRowRange("5:9")->begin, 5);
  EXPECT_EQ(ParseRowRange("5:9")->end, 9);
  EXPECT_EQ(ParseRowRange("5:")->end, -1);
  EXPECT_EQ(ParseRowRange(":9")->begin, 0);
  for (const char* bad : {"5", "9:5", "5:5", "a:b", "-1:3", "1:2:3", ""}) {
    EXPECT_FALSE(ParseRowRange(bad).ok()) << bad;
  }
}

client::Model ModelOf(const std::vector<int64_t>& input_shape) {
  client::Model model = TwoPixelModel();
  model.input_shape = input_shape;
  return model;
}

// What ShapeForModel makes of zeros of `shape`.
absl::StatusOr<std::vector<int64_t>> Shaped(const std::vector<int64_t>& shape,
                                            const std::vector<int64_t>& input_shape) {
  int64_t elements = 1;
  for (int64_t size : shape) elements *= size;
  Array array = Bytes(shape, std::string(elements, '\0'));
  const absl::Status status = ShapeForModel(ModelOf(input_shape), "f", array);
  if (!status.ok()) return status;
  return array.shape;
}

TEST(ShapeForModelTest, AddsAndDropsDimensionsOfSizeOne) {
  EXPECT_THAT(*Shaped({3, 2}, {1, 2}), ElementsAre(3, 1, 2));
  EXPECT_THAT(*Shaped({5, 4, 3}, {1, 4, 3}), ElementsAre(5, 1, 4, 3));
  EXPECT_THAT(*Shaped({5, 4, 3, 1}, {1, 4, 3}), ElementsAre(5, 1, 4, 3));
  EXPECT_THAT(*Shaped({5, 1, 1, 7}, {7}), ElementsAre(5, 7));
  EXPECT_THAT(*Shaped({5}, {1}), ElementsAre(5, 1));
}

TEST(ShapeForModelTest, TakesOneExampleWithoutABatch) {
  EXPECT_THAT(*Shaped({2}, {1, 2}), ElementsAre(1, 1, 2));
  EXPECT_THAT(*Shaped({4, 3}, {1, 4, 3}), ElementsAre(1, 1, 4, 3));
  EXPECT_THAT(*Shaped({3, 4, 5}, {3, 4, 5}), ElementsAre(1, 3, 4, 5));
}

TEST(ShapeForModelTest, RefusesWhatOnlyHasAsManyElements) {
  // Channels last, one image of it, flat images, transposed images, rows of one value.
  const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> cases = {
      {{3, 32, 32, 3}, {3, 32, 32}},
      {{32, 32, 3}, {3, 32, 32}},
      {{2, 3072}, {3, 32, 32}},
      {{2, 4, 3}, {1, 3, 4}},
      {{4, 1}, {4}},
      {{4, 1}, {1, 4}},
      {{6}, {2, 3}}};
  for (const auto& [shape, input_shape] : cases) {
    EXPECT_EQ(Shaped(shape, input_shape).status().code(), absl::StatusCode::kInvalidArgument)
        << ::testing::PrintToString(shape);
  }
  EXPECT_THAT(std::string(Shaped({2, 3072}, {3, 32, 32}).status().message()),
              HasSubstr("expected an array of shape [N, 3, 32, 32], got [2, 3072]; the number of "
                        "elements fits, but their order is not guessed: reshape the array"));
}

TEST(ShapeForModelTest, SaysHowToPutChannelsFirst) {
  EXPECT_THAT(std::string(Shaped({3, 32, 32, 3}, {3, 32, 32}).status().message()),
              HasSubstr("expected an array of shape [N, 3, 32, 32], got [3, 32, 32, 3]; the model "
                        "wants channels first: transpose(0, 3, 1, 2)"));
  EXPECT_THAT(std::string(Shaped({32, 32, 3}, {3, 32, 32}).status().message()),
              HasSubstr("channels first: transpose(2, 0, 1)"));
}

TEST(ShapeForModelTest, NamesBothShapesWhereTheyDoNot) {
  Array wrong = Bytes({2, 3}, "abcdef");
  EXPECT_THAT(std::string(ShapeForModel(TwoPixelModel(), "new.npy", wrong).message()),
              HasSubstr("new.npy: model digits takes examples of shape [1, 2]: expected an array "
                        "of shape [N, 1, 2], got [2, 3]"));
}

TEST(ShapeForModelTest, RefusesPixelsThatTheModelCannotScale) {
  client::Model model = TwoPixelModel();
  model.accepts_uint8 = false;
  Array pixels = Bytes({1, 2}, "ab");
  EXPECT_THAT(std::string(ShapeForModel(model, "f", pixels).message()), HasSubstr("uint8"));
}

// The bytes that NumPy writes for True and False are pixels to nobody who wrote them.
TEST(ShapeForModelTest, RefusesBoolAsPixelsAndSaysWhatToDo) {
  Array mask = Bytes({1, 2}, std::string("\1\0", 2));
  mask.boolean = true;
  EXPECT_EQ(std::string(ShapeForModel(TwoPixelModel(), "f", mask).message()),
            "f: holds bool, but model digits takes float32: save it as float32 zeros and ones");
  mask.shape = {2, 1, 2};
  mask.bytes += mask.bytes;
  Array rows = SliceRows(mask, 0, 1);
  EXPECT_FALSE(ShapeForModel(TwoPixelModel(), "f", rows).ok());
}

client::Model WithLabels(client::Likelihood likelihood, int64_t n_outputs) {
  client::Model model = TwoPixelModel();
  model.likelihood = likelihood;
  model.n_outputs = n_outputs;
  return model;
}

template <typename T>
Array Values(DType dtype, const std::vector<int64_t>& shape, const std::vector<T>& values) {
  Array array;
  array.dtype = dtype;
  array.shape = shape;
  array.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return array;
}

TEST(ShapeTargetsForModelTest, LeavesClassesAndGivesRegressionItsDimension) {
  Array classes = Bytes({2}, "\1\2");
  EXPECT_TRUE(ShapeTargetsForModel(WithLabels(client::Likelihood::kCategorical, 3), classes).ok());
  EXPECT_EQ(classes.dtype, DType::kUint8);
  EXPECT_THAT(classes.shape, ElementsAre(2));
  Array targets = Values<double>(DType::kFloat64, {2}, {0.5, 1.5});
  EXPECT_TRUE(ShapeTargetsForModel(WithLabels(client::Likelihood::kGaussian, 1), targets).ok());
  EXPECT_EQ(targets.dtype, DType::kFloat64);
  EXPECT_THAT(targets.shape, ElementsAre(2, 1));
}

TEST(ShapeTargetsForModelTest, SendsLabelsOfAnyTypeAsFloats) {
  const client::Model model = WithLabels(client::Likelihood::kBernoulli, 3);
  const Array cases[] = {
      Bytes({2, 3}, std::string("\1\0\0\1\1\0", 6)),
      Values<int32_t>(DType::kInt32, {2, 3}, {1, 0, 0, 1, 1, 0}),
      Values<int64_t>(DType::kInt64, {2, 3}, {1, 0, 0, 1, 1, 0}),
      Values<float>(DType::kFloat32, {2, 3}, {1, 0, 0, 1, 1, 0}),
      Values<double>(DType::kFloat64, {2, 3}, {1, 0, 0, 1, 1, 0}),
  };
  for (Array labels : cases) {
    ASSERT_TRUE(ShapeTargetsForModel(model, labels).ok());
    EXPECT_EQ(labels.dtype, DType::kFloat32);
    EXPECT_THAT(labels.shape, ElementsAre(2, 3));
    EXPECT_THAT(std::vector<float>(labels.data<float>(), labels.data<float>() + 6),
                ElementsAre(1, 0, 0, 1, 1, 0));
  }
  Array one = Bytes({2}, std::string("\1\0", 2));
  ASSERT_TRUE(ShapeTargetsForModel(WithLabels(client::Likelihood::kBernoulli, 1), one).ok());
  EXPECT_THAT(one.shape, ElementsAre(2, 1));
}

TEST(ShapeTargetsForModelTest, RefusesWhatIsNeitherThereNorNot) {
  const client::Model model = WithLabels(client::Likelihood::kBernoulli, 3);
  Array classes = Bytes({6}, "\1\2\1\2\1\2");
  EXPECT_THAT(std::string(ShapeTargetsForModel(model, classes).message()),
              HasSubstr("model digits has 3 labels, each of them there or not: expected an array "
                        "of 0s and 1s of shape [N, 3], got uint8 of shape [6]"));
  Array wide = Bytes({1, 4}, "\1\1\1\1");
  EXPECT_THAT(std::string(ShapeTargetsForModel(model, wide).message()), HasSubstr("[1, 4]"));
  Array soft = Values<float>(DType::kFloat32, {2, 3}, {1, 0, 0, 1, 0.5, 0});
  EXPECT_THAT(std::string(ShapeTargetsForModel(model, soft).message()),
              HasSubstr("row 1, label 1 is 0.5, expected 0 (not there) or 1 (there)"));
  Array counts = Bytes({1, 3}, std::string("\0\2\0", 3));
  EXPECT_THAT(std::string(ShapeTargetsForModel(model, counts).message()),
              HasSubstr("row 0, label 1 is 2"));
}

TEST(ClassLabelsTest, ReadsIntegersAndRefusesUnknownClasses) {
  EXPECT_THAT(*ClassLabels(Bytes({3}, std::string("\2\0\1", 3)), 3), ElementsAre(2, 0, 1));
  EXPECT_THAT(std::string(ClassLabels(Bytes({2}, "\1\3"), 3).status().message()),
              HasSubstr("row 1 is 3"));
}

}  // namespace
}  // namespace laplace::cli
