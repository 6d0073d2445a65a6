#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "tests/client/fake_server.h"

namespace laplace::client {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Le;

Array FloatRows(int64_t rows, int64_t columns) {
  Array array;
  array.dtype = DType::kFloat32;
  array.shape = {rows, columns};
  array.bytes.resize(rows * columns * sizeof(float));
  std::iota(array.data<float>(), array.data<float>() + rows * columns, 0.0f);
  return array;
}

Array ByteLabels(int64_t rows) {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = {rows};
  for (int64_t i = 0; i < rows; ++i) array.bytes.push_back(static_cast<char>(i % 10));
  return array;
}

class DatasetUpload : public ::testing::Test {
 protected:
  DatasetUpload() {
    ClientOptions options;
    options.retry.initial_backoff = absl::Milliseconds(2);
    options.upload_chunk_bytes = 1000;
    client_ = *Client::Connect(server_.address(), options);
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
};

TEST_F(DatasetUpload, SendsEveryRowOnceInChunksOfTheAskedSize) {
  const Array inputs = FloatRows(100, 20);
  const auto dataset = client_->EnsureDataset(inputs, ByteLabels(100));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  const FakeServer::LastUpload upload = server_.Upload();
  EXPECT_EQ(upload.header.n_rows(), 100);
  EXPECT_THAT(upload.header.example_shape(), ElementsAre(20));
  EXPECT_EQ(upload.header.target_shape_size(), 0);
  // 88 bytes a row: 80 of inputs and a label of 8.
  EXPECT_GT(upload.chunk_rows.size(), 5u);
  EXPECT_THAT(upload.chunk_rows, Each(Le(11)));
  EXPECT_EQ(std::accumulate(upload.chunk_rows.begin(), upload.chunk_rows.end(), 0), 100);
  EXPECT_EQ(upload.input_bytes, inputs.bytes);
}

TEST_F(DatasetUpload, SendsLabelsOfAnyIntegerTypeAsInt64) {
  ASSERT_TRUE(client_->EnsureDataset(FloatRows(12, 2), ByteLabels(12)).ok());
  const FakeServer::LastUpload upload = server_.Upload();
  EXPECT_EQ(upload.header.target_dtype(), v1::DATA_TYPE_INT64);
  std::vector<int64_t> labels(12);
  ASSERT_EQ(upload.target_bytes.size(), 12 * sizeof(int64_t));
  std::memcpy(labels.data(), upload.target_bytes.data(), upload.target_bytes.size());
  EXPECT_THAT(labels, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1));
}

TEST_F(DatasetUpload, SendsNothingTwice) {
  const auto first = client_->EnsureDataset(FloatRows(10, 3), ByteLabels(10));
  const auto second = client_->EnsureDataset(FloatRows(10, 3), ByteLabels(10));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->id, second->id);
  EXPECT_EQ(first->id, *Client::DatasetId(FloatRows(10, 3), ByteLabels(10)));
  EXPECT_EQ(server_.Calls("UploadDataset"), 1);
}

TEST_F(DatasetUpload, StartsAgainWhenTheConnectionDrops) {
  server_.FailNext("UploadDataset", {grpc::StatusCode::UNAVAILABLE, "connection reset"});
  const Array inputs = FloatRows(50, 20);
  const auto dataset = client_->EnsureDataset(inputs, ByteLabels(50));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(server_.Calls("UploadDataset"), 2);
  EXPECT_EQ(server_.Upload().input_bytes, inputs.bytes);
}

TEST_F(DatasetUpload, PassesOnWhyTheServerRefusesRows) {
  server_.FailNext("UploadDataset", {grpc::StatusCode::INVALID_ARGUMENT, "row 7 is not finite"});
  const absl::Status status =
      client_->EnsureDataset(FloatRows(5000, 20), ByteLabels(5000)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "row 7 is not finite");
}

TEST_F(DatasetUpload, OnlyUploadsWhatTheServerSaysItLacks) {
  server_.FailNext("GetDataset", {grpc::StatusCode::FAILED_PRECONDITION, "may not be read"});
  EXPECT_EQ(client_->EnsureDataset(FloatRows(5, 2), ByteLabels(5)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(server_.Calls("UploadDataset"), 0);
}

TEST_F(DatasetUpload, RepairsOneThatIsDamaged) {
  server_.FailNext("GetDataset", {grpc::StatusCode::DATA_LOSS, "damaged"});
  const auto dataset = client_->EnsureDataset(FloatRows(5, 2), ByteLabels(5));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(server_.Calls("UploadDataset"), 1);
}

TEST_F(DatasetUpload, ReportsProgressUpToTheLastRow) {
  std::vector<int64_t> done;
  const auto dataset = client_->EnsureDataset(FloatRows(30, 20), ByteLabels(30),
                                              [&done](int64_t rows, int64_t total) {
                                                EXPECT_EQ(total, 30);
                                                done.push_back(rows);
                                              });
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(done, ElementsAre(11, 22, 30));
}

TEST_F(DatasetUpload, RefusesInputsAndTargetsThatDoNotFitTogether) {
  const absl::Status status = client_->EnsureDataset(FloatRows(5, 2), ByteLabels(4)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expected 5 rows"));
  EXPECT_FALSE(client_->EnsureDataset(FloatRows(0, 2), ByteLabels(0)).ok());
  EXPECT_EQ(server_.Calls("GetDataset"), 0);
}

}  // namespace
}  // namespace laplace::client
