"""A client of the Open Inference Protocol that knows nothing of laplaced.

Its stubs are made from the protocol's .proto; it sends what tritonclient.grpc sends (raw contents, an id, parameters) and what
KServe's clients send (typed contents), and prints what comes back as JSON.

Usage: oip_client.py FOLDER_OF_STUBS ADDRESS MODEL INPUTS.npy
"""
import json
import sys

sys.path.insert(0, sys.argv[1])

import grpc
import numpy as np

import grpc_predict_v2_pb2 as pb
import grpc_predict_v2_pb2_grpc as rpc

TYPES = {"FP32": np.float32, "FP64": np.float64, "BOOL": np.bool_}


def infer(stub, model, x, raw, outputs=(), **parameters):
    request = pb.ModelInferRequest(model_name=model, id="17")
    for name, value in parameters.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(request.parameters[name], kind, value)
    tensor = request.inputs.add(name="input__0", datatype="FP32", shape=x.shape)
    if raw:
        request.raw_input_contents.append(x.tobytes())
    else:
        tensor.contents.fp32_contents.extend(x.ravel().tolist())
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
            field = {"FP32": "fp32", "FP64": "fp64", "BOOL": "bool"}[output.datatype] + "_contents"
            values = np.array(getattr(output.contents, field), TYPES[output.datatype])
        arrays[output.name] = values.reshape(list(output.shape)).tolist()
    return arrays


def main():
    _, _, address, model, path = sys.argv
    x = np.load(path)
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=60).live
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=60).ready
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=60)
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
            "refused": refused,
        }))


main()
