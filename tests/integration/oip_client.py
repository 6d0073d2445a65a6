"""A client of the Open Inference Protocol that knows nothing of laplaced.

Its stubs are made from the protocol's .proto; it sends what tritonclient.grpc sends (raw contents, an id, parameters) and what
KServe's clients send (typed contents), and prints what comes back as JSON.

Usage: oip_client.py FOLDER_OF_STUBS ADDRESS MODEL INPUTS.npy MODEL_OF_PIXELS PIXELS.npy
"""
import json
import sys

sys.path.insert(0, sys.argv[1])

import grpc
import numpy as np

import grpc_predict_v2_pb2 as pb
import grpc_predict_v2_pb2_grpc as rpc

TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
FIELDS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents",
          "UINT8": "uint_contents"}


def infer(stub, model, x, raw, outputs=(), **parameters):
    request = pb.ModelInferRequest(model_name=model, id="17")
    for name, value in parameters.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(request.parameters[name], kind, value)
    datatype = "UINT8" if x.dtype == np.uint8 else "FP32"
    tensor = request.inputs.add(name="input__0", datatype=datatype, shape=x.shape)
    if raw:
        request.raw_input_contents.append(x.tobytes())
    else:
        getattr(tensor.contents, FIELDS[datatype]).extend(x.ravel().tolist())
    for name in outputs:
        request.outputs.add(name=name)
    response = stub.ModelInfer(request, timeout=60)
    assert response.id == "17", response.id
    assert bool(response.raw_output_contents) == raw
    arrays = {}
    for i, output in enumerate(response.outputs):
        if raw:
            values = np.frombuffer(response.raw_output_contents[i], TYPES[output.datatype])
        else:
            values = np.array(getattr(output.contents, FIELDS[output.datatype]), TYPES[output.datatype])
        arrays[output.name] = values.reshape(list(output.shape)).tolist()
    return arrays


def main():
    _, _, address, model, path, pixel_model, pixel_path = sys.argv
    x, pixels = np.load(path), np.load(pixel_path)
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=60).ready
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=60)
        of_pixels = stub.ModelMetadata(pb.ModelMetadataRequest(name=pixel_model), timeout=60)
        try:
            infer(stub, model, x[:, :-1], True)
            refused = None
        except grpc.RpcError as error:
            refused = [error.code().name, error.details()]
        print(json.dumps({
            "inputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.inputs],
            "outputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.outputs],
            "raw": infer(stub, model, x, True),
            "typed": infer(stub, model, x, False),
            "scores": infer(stub, model, x, True, ["instance_score"], ood_score="energy"),
            "mc": infer(stub, model, x, True, ["mean"], link_approx="mc", priority=2),
            "top_classes": infer(stub, model, x, True, variance_mode="top_classes", top_classes=2),
            "pixel_inputs": [[t.name, t.datatype, list(t.shape)] for t in of_pixels.inputs],
            "raw_pixels": infer(stub, pixel_model, pixels, True),
            "typed_pixels": infer(stub, pixel_model, pixels, False),
            "refused": refused,
        }))


main()
