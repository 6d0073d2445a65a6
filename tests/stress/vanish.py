"""Calls of every method of laplace.v1 that are cancelled at once, refused ones among them: callers that give up as soon as they have asked."""

from __future__ import annotations

import random
import time
from typing import Any, Callable, Iterable

import grpc
from laplace_client import _api, _requests
from server import MODEL, rows

IN_FLIGHT = 20


def _once(message: Any) -> Iterable[Any]:
    return iter([message])


def _callers(channel: grpc.Channel, method: _api.Method) -> list[Callable[[Any], Any]]:
    """Of a method's kinds only one is right; the others are calls that nobody should make."""
    options = (method.path, method.serialize, method.parse)
    stream, both = channel.unary_stream(*options), channel.stream_stream(*options)
    return [stream, lambda message: both(_once(message))]


def _requests_of(method: _api.Method, known: dict[str, str]) -> list[Any]:
    """Empty, with names that nobody has, and with ones that exist, as far as nothing is made or deleted by them."""
    service, name = method.path.strip("/").split("/")
    kind = _api.message(_api._POOL.FindServiceByName(service).methods_by_name[name].input_type.full_name)
    fields = [field.name for field in kind.DESCRIPTOR.fields if field.name in known]
    made = [kind(), kind(**{field: "x" for field in fields})]
    if name.startswith(("Get", "List", "Watch", "Activate")):
        made.append(kind(**{field: known[field] for field in fields}))
    if name in ("Predict", "Score"):
        made.append(getattr(_requests, name.lower())(MODEL, rows(4, 1)[0], {"ood_scores": None}))
    return made


def every_method() -> list[_api.Method]:
    return sorted({each for each in vars(_api).values() if isinstance(each, _api.Method)}, key=lambda each: each.path)


def vanish(address: str, known: dict[str, str], seconds: float, seed: int) -> int:
    """Calls and cancels for about so long, each method for its share; the number of calls. `known`: values of fields by their
    names, of things that exist."""
    chance, calls = random.Random(seed), 0
    methods = every_method()
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        for method in methods:
            requests, callers = _requests_of(method, known), _callers(channel, method)
            end = time.monotonic() + seconds / len(methods)
            while time.monotonic() < end:
                begun = [chance.choice(callers)(chance.choice(requests)) for _ in range(IN_FLIGHT)]
                time.sleep(chance.choice((0.0, 0.0, 0.0002, 0.002)))
                for call in begun:
                    call.cancel()
                calls += len(begun)
    return calls
