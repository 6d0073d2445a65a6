"""Calls of the Open Inference Protocol, which the Python client does not speak: messages from the protocol's own file."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = Path(__file__).resolve().parents[2] / "proto/inference"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def _messages() -> tuple[Any, Any]:
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(["protoc", f"-I{PROTO}", f"--descriptor_set_out={file.name}", "grpc_predict_v2.proto"], check=True)
        data = Path(file.name).read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for each in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(each)
    names = ("inference.ModelInferRequest", "inference.ModelInferResponse")
    if hasattr(message_factory, "GetMessageClass"):
        found = [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]
    else:
        found = [message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(name)) for name in names]
    return found[0], found[1]


REQUEST, RESPONSE = _messages()


def infer(channel: grpc.Channel, model: str, x: np.ndarray, timeout: float) -> list[tuple[str, bytes]]:
    """Name and raw contents of every output. grpc.RpcError if the call fails; nothing is tried again."""
    request = REQUEST(model_name=model, id="1", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="UINT8" if x.dtype == np.uint8 else "FP32", shape=x.shape)
    call = channel.unary_unary(METHOD, REQUEST.SerializeToString, RESPONSE.FromString)
    answer = call(request, timeout=timeout) or RESPONSE()  # gRPC answers None for OK without a message
    return list(zip((output.name for output in answer.outputs), answer.raw_output_contents))
