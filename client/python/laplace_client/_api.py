"""The messages and methods of the server's API, from its descriptors.

`api.binpb` is the FileDescriptorSet of the repository's proto/ (made by setup.py). Messages are built
from it at import, in a pool of their own: no generated code, so no top-level package `laplace` (which
laplace-torch has), no clash with other clients in the same process, and any protobuf from 3.20 on.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any, Callable

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _load_pool() -> descriptor_pool.DescriptorPool:
    data = pkgutil.get_data(__package__, "api.binpb")
    if data is None:
        raise ImportError("laplace_client/api.binpb is missing; run `make python` in the repository")
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


try:
    _POOL = _load_pool()
except FileNotFoundError as error:
    raise ImportError(
        "laplace_client/api.binpb is missing; run `make python` in the repository"
    ) from error


def message(name: str) -> Any:
    """The class of a message: "laplace.v1.PredictRequest"."""
    descriptor = _POOL.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_POOL).GetPrototype(descriptor)


def enum_value(name: str, word: str) -> int:
    """The number of an enum's value by its word: ("LinkApprox", "mc"). ValueError names the words."""
    descriptor = _POOL.FindEnumTypeByName("laplace.v1." + name)
    words: dict[str, int] = {_word(descriptor, value.name): value.number for value in descriptor.values}
    if word in words and words[word] != 0:
        return words[word]
    known = ", ".join(w for w, number in words.items() if number != 0)
    raise ValueError(f"expected one of {known}, got {word!r}")


def enum_word(descriptor: Any, number: int) -> str:
    """The word of an enum's value: "mc"; empty for UNSPECIFIED and for numbers that are not known."""
    value = descriptor.values_by_number.get(number)
    return "" if value is None or number == 0 else _word(descriptor, value.name)


def _word(descriptor: Any, value_name: str) -> str:
    prefix = "".join("_" + c if c.isupper() else c.upper() for c in descriptor.name).lstrip("_")
    return value_name[len(prefix) + 1 :].lower()


@dataclass(frozen=True)
class Method:
    """One method of a service, with what a channel needs to call it."""

    path: str
    serialize: Callable[[Any], bytes]
    parse: Callable[[bytes], Any]
    repeatable: bool = True


def method(service: str, name: str, repeatable: bool = True) -> Method:
    descriptor = _POOL.FindServiceByName(service).methods_by_name[name]
    request = message(descriptor.input_type.full_name)
    response = message(descriptor.output_type.full_name)
    return Method(
        f"/{service}/{name}", request.SerializeToString, response.FromString, repeatable
    )


_MODELS = "laplace.v1.ModelService"
_POSTERIORS = "laplace.v1.PosteriorService"
_PREDICTIONS = "laplace.v1.PredictionService"
_OPERATIONS = "laplace.v1.OperationService"

LIST_MODELS = method(_MODELS, "ListModels")
GET_MODEL = method(_MODELS, "GetModel")
LOAD_MODEL = method(_MODELS, "LoadModel")
UNLOAD_MODEL = method(_MODELS, "UnloadModel")
# Starting work twice would do it twice.
FIT_POSTERIOR = method(_POSTERIORS, "FitPosterior", repeatable=False)
UPDATE_POSTERIOR = method(_POSTERIORS, "UpdatePosterior", repeatable=False)
CALIBRATE_OOD = method(_POSTERIORS, "CalibrateOod", repeatable=False)
NEWTON_STEP = method(_POSTERIORS, "NewtonStep", repeatable=False)
LIST_POSTERIORS = method(_POSTERIORS, "ListPosteriors")
GET_POSTERIOR = method(_POSTERIORS, "GetPosterior")
ACTIVATE_POSTERIOR = method(_POSTERIORS, "ActivatePosterior")
DELETE_POSTERIOR = method(_POSTERIORS, "DeletePosterior", repeatable=False)
UPLOAD_DATASET = method(_POSTERIORS, "UploadDataset")
GET_DATASET = method(_POSTERIORS, "GetDataset")
PREDICT = method(_PREDICTIONS, "Predict")
SCORE = method(_PREDICTIONS, "Score")
PREDICT_STREAM = method(_PREDICTIONS, "PredictStream")
GET_OPERATION = method(_OPERATIONS, "GetOperation")
LIST_OPERATIONS = method(_OPERATIONS, "ListOperations")
WATCH_OPERATION = method(_OPERATIONS, "WatchOperation")
CANCEL_OPERATION = method(_OPERATIONS, "CancelOperation")
HEALTH_CHECK = method("grpc.health.v1.Health", "Check")
