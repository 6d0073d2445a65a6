// Names, numbers and types of the Open Inference Protocol, written down from its specification:
// what clients have been compiled with, whatever our .proto says.
#include <google/protobuf/descriptor.h>
#include <inference/grpc_predict_v2.pb.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

using ::testing::ElementsAre;

struct ExpectedMessage {
  const char* name;
  std::vector<const char*> fields;  // "type name", "*" for repeated; the first has number 1
};

const ExpectedMessage kMessages[] = {
    {"ServerLiveRequest", {}},
    {"ServerLiveResponse", {"bool live"}},
    {"ServerReadyRequest", {}},
    {"ServerReadyResponse", {"bool ready"}},
    {"ModelReadyRequest", {"string name", "string version"}},
    {"ModelReadyResponse", {"bool ready"}},
    {"ServerMetadataRequest", {}},
    {"ServerMetadataResponse", {"string name", "string version", "string* extensions"}},
    {"ModelMetadataRequest", {"string name", "string version"}},
    {"ModelMetadataResponse",
     {"string name", "string* versions", "string platform", "message* inputs", "message* outputs",
      "message* properties"}},
    {"ModelMetadataResponse.TensorMetadata", {"string name", "string datatype", "int64* shape"}},
    {"InferParameter",
     {"bool bool_param", "int64 int64_param", "string string_param", "double double_param",
      "uint64 uint64_param"}},
    {"InferTensorContents",
     {"bool* bool_contents", "int32* int_contents", "int64* int64_contents",
      "uint32* uint_contents", "uint64* uint64_contents", "float* fp32_contents",
      "double* fp64_contents", "bytes* bytes_contents"}},
    {"ModelInferRequest",
     {"string model_name", "string model_version", "string id", "message* parameters",
      "message* inputs", "message* outputs", "bytes* raw_input_contents"}},
    {"ModelInferRequest.InferInputTensor",
     {"string name", "string datatype", "int64* shape", "message* parameters", "message contents"}},
    {"ModelInferRequest.InferRequestedOutputTensor", {"string name", "message* parameters"}},
    {"ModelInferResponse",
     {"string model_name", "string model_version", "string id", "message* parameters",
      "message* outputs", "bytes* raw_output_contents"}},
    {"ModelInferResponse.InferOutputTensor",
     {"string name", "string datatype", "int64* shape", "message* parameters", "message contents"}},
};

std::string Described(const google::protobuf::FieldDescriptor& field) {
  return std::string(field.type_name()) + (field.is_repeated() ? "* " : " ") + field.name();
}

TEST(InferenceProtocolTest, FieldsHaveTheProtocolsNumbers) {
  const auto& file = *inference::ModelInferRequest::descriptor()->file();
  const auto& pool = *file.pool();
  for (const ExpectedMessage& expected : kMessages) {
    SCOPED_TRACE(expected.name);
    const auto* message = pool.FindMessageTypeByName(std::string("inference.") + expected.name);
    ASSERT_NE(message, nullptr);
    EXPECT_EQ(message->field_count(), static_cast<int>(expected.fields.size()));
    for (size_t i = 0; i < expected.fields.size(); ++i) {
      const auto* field = message->FindFieldByNumber(static_cast<int>(i) + 1);
      ASSERT_NE(field, nullptr) << expected.fields[i];
      EXPECT_EQ(Described(*field), expected.fields[i]);
    }
  }
}

TEST(InferenceProtocolTest, MethodsHaveTheProtocolsNames) {
  const auto* service = inference::ModelInferRequest::descriptor()->file()->service(0);
  EXPECT_EQ(service->full_name(), "inference.GRPCInferenceService");
  std::vector<std::string> methods;
  for (int i = 0; i < service->method_count(); ++i) {
    const auto* method = service->method(i);
    EXPECT_FALSE(method->client_streaming() || method->server_streaming()) << method->name();
    EXPECT_EQ(method->input_type()->name(), method->name() + "Request");
    EXPECT_EQ(method->output_type()->name(), method->name() + "Response");
    methods.push_back(method->name());
  }
  EXPECT_THAT(methods, ElementsAre("ServerLive", "ServerReady", "ModelReady", "ServerMetadata",
                                   "ModelMetadata", "ModelInfer"));
}

// {model_name: "net", id: "7", raw_input_contents: ["\x01"], inputs: [{name: "x", datatype:
// "UINT8", shape: [1], parameters: {"p": {bool_param: true}}}]}, encoded by hand.
TEST(InferenceProtocolTest, BytesOnTheWire) {
  using namespace std::string_literals;
  const std::string parameter = "\x0a\x01p\x12\x02\x08\x01"s;
  const std::string input = "\x0a\x01x\x12\x05UINT8\x1a\x01\x01\x22\x07"s + parameter;
  const std::string bytes =
      "\x0a\x03net\x1a\x01"
      "7\x2a"s +
      static_cast<char>(input.size()) + input + "\x3a\x01\x01"s;
  inference::ModelInferRequest request;
  ASSERT_TRUE(request.ParseFromString(bytes));
  EXPECT_EQ(request.model_name(), "net");
  EXPECT_EQ(request.id(), "7");
  ASSERT_EQ(request.inputs_size(), 1);
  EXPECT_EQ(request.inputs(0).datatype(), "UINT8");
  EXPECT_THAT(request.inputs(0).shape(), ElementsAre(1));
  EXPECT_TRUE(request.inputs(0).parameters().at("p").bool_param());
  EXPECT_THAT(request.raw_input_contents(), ElementsAre("\x01"));
  EXPECT_EQ(request.SerializeAsString(), bytes);
}

}  // namespace
}  // namespace laplaced
