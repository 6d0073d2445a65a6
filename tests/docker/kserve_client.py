#!/usr/bin/env python3
"""Calls a server as KServe's clients do: Open Inference Protocol over gRPC, typed contents, the InferenceService's name.

    tests/docker/kserve_client.py PROTO_FOLDER HOST:PORT NAME IMAGES.idx3.gz
"""
import gzip
import subprocess
import sys
import tempfile

import grpc

ROWS, PIXELS = 8, 784


def main():
    protos, address, name, images = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir="/mnt") as folder:
        subprocess.run(["protoc", f"-I{protos}", f"--python_out={folder}", "inference/grpc_predict_v2.proto"], check=True)
        sys.path.insert(0, folder)
        from inference import grpc_predict_v2_pb2 as pb

        with grpc.insecure_channel(address) as channel:
            def call(method, request):
                answer = getattr(pb, f"{method}Response").FromString
                path = f"/inference.GRPCInferenceService/{method}"
                return channel.unary_unary(path, type(request).SerializeToString, answer)(request, timeout=60)

            assert call("ServerLive", pb.ServerLiveRequest()).live
            assert call("ServerReady", pb.ServerReadyRequest()).ready
            assert call("ModelReady", pb.ModelReadyRequest(name=name)).ready
            metadata = call("ModelMetadata", pb.ModelMetadataRequest(name=name))
            assert metadata.name == name, metadata
            request = pb.ModelInferRequest(model_name=name, id="7")
            shape = [ROWS, *metadata.inputs[0].shape[1:]]
            tensor = request.inputs.add(name=metadata.inputs[0].name, datatype="UINT8", shape=shape)
            with gzip.open(images) as file:
                file.read(16)
                tensor.contents.uint_contents.extend(file.read(ROWS * PIXELS))
            answer = call("ModelInfer", request)
    outputs = {output.name: output for output in answer.outputs}
    assert (answer.model_name, answer.id) == (name, "7"), answer
    for wanted in ("mean", "variance", "epistemic", "aleatoric", "instance_score", "is_outlier"):
        assert wanted in outputs and outputs[wanted].shape[0] == ROWS, (wanted, list(outputs))
    mean = list(outputs["mean"].contents.fp32_contents)
    classes = len(mean) // ROWS
    for row in range(ROWS):
        assert abs(sum(mean[row * classes:(row + 1) * classes]) - 1) < 1e-4, mean
    print(f"{name}/{answer.model_version}: {ROWS} rows, {classes} classes, "
          f"outliers {list(outputs['is_outlier'].contents.bool_contents or outputs['is_outlier'].contents.int64_contents)}")


if __name__ == "__main__":
    main()
