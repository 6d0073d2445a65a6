#include "server/rpc/tensor_codec.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using test_support::IsOk;
using ::testing::ElementsAre;

TEST(TensorCodecTest, ViewsAliasTheMessage) {
  v1::Tensor tensor;
  FillTensor({1, 2, 3, 4, 5, 6}, {2, 3}, &tensor);
  const auto view = ViewTensor(tensor, "inputs");
  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->data, tensor.float32_values().data());
  EXPECT_THAT(view->shape, ElementsAre(2, 3));
  EXPECT_EQ(view->dtype, DType::kFloat32);

  v1::Tensor raw;
  raw.set_dtype(v1::DATA_TYPE_INT64);
  raw.add_shape(2);
  raw.set_raw_values(std::string(16, '\7'));
  const auto raw_view = ViewTensor(raw, "targets");
  ASSERT_THAT(raw_view, IsOk());
  EXPECT_EQ(raw_view->data, raw.raw_values().data());
  EXPECT_EQ(raw_view->dtype, DType::kInt64);
}

TEST(TensorCodecTest, ScalarsHaveNoDimensions) {
  v1::Tensor tensor;
  FillTensor({1}, {}, &tensor);
  const auto view = ViewTensor(tensor, "x");
  ASSERT_THAT(view, IsOk());
  EXPECT_TRUE(view->shape.empty());
}

TEST(TensorCodecTest, TypesMapBothWays) {
  for (const auto dtype :
       {v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_FLOAT64, v1::DATA_TYPE_UINT8, v1::DATA_TYPE_INT64}) {
    const auto mapped = ToDType(dtype, "dtype");
    ASSERT_THAT(mapped, IsOk());
    EXPECT_EQ(ToProto(*mapped), dtype);
  }
  EXPECT_EQ(ToProto(DType::kInt32), v1::DATA_TYPE_UNSPECIFIED);
}

// Random messages must be refused or give a view that lies inside the message.
TEST(TensorCodecTest, NoMessageGivesAViewBeyondItsData) {
  uint64_t state = 1;
  const auto next = [&state](uint64_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
  };
  const std::vector<int64_t> sizes = {
      1, 1, 1, 2, 2, 3, -1, 0, 1 << 20, int64_t{1} << 31, int64_t{1} << 62};
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    v1::Tensor tensor;
    tensor.set_dtype(static_cast<v1::DataType>(next(6)));
    for (uint64_t d = next(4); d > 0; --d) tensor.add_shape(sizes[next(sizes.size())]);
    // Often as many values as the shape asks for, so that a good share is accepted.
    const std::vector<int64_t> shape(tensor.shape().begin(), tensor.shape().end());
    const auto fitting = NumElements(shape);
    const bool fits = fitting.ok() && *fitting < 100 && next(2) == 0;
    for (int64_t n = fits ? *fitting : next(20); n > 0; --n) tensor.add_float32_values(1);
    if (next(3) == 0) tensor.set_raw_values(std::string(next(50), '\1'));
    const auto view = ViewTensor(tensor, "x");
    if (!view.ok()) continue;
    ++accepted;
    const size_t bytes = static_cast<size_t>(*NumElements(view->shape) * ElementSize(view->dtype));
    const std::string copy(static_cast<const char*>(view->data), bytes);
    EXPECT_EQ(copy.size(), bytes);
    EXPECT_LE(bytes, tensor.raw_values().size() + 4u * tensor.float32_values_size());
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace laplaced
