"""The client for asyncio: the methods of client.Client, to be awaited or iterated with `async for`."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence, TypeVar

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from . import _api, _requests, options as _options, types
from ._streams import END, LIFETIME, SourceFailed, StreamState
from .client import OperationProgress, UploadProgress
from .errors import (
    DeadlineExceededError,
    LaplaceError,
    UnavailableError,
    from_rpc_error,
    make_error,
    malformed,
    operation_result,
)
from .options import ClientOptions
from .progress import ProgressBar
from .types import Dataset, Model, Operation, Posterior, Prediction, Scores

T = TypeVar("T")


class _Silence(Exception):
    """A peer took too long."""


class AsyncClient:
    """A connection to a laplaced server for one event loop; an asynchronous context manager.

    Arguments, answers and errors are those of client.Client, where each method is described.
    """

    def __init__(self, target: str | None = None, options: ClientOptions | None = None) -> None:
        self.target = _options.target_from_environment() if target is None else target
        self._options = ClientOptions.from_environment() if options is None else options
        _options.check(self.target, self._options)
        arguments = _options.channel_arguments(self._options)
        tls = self._options.tls
        self._channel = (
            grpc.aio.insecure_channel(self.target, arguments)
            if tls is None
            else grpc.aio.secure_channel(self.target, _options.credentials(tls), arguments)
        )
        self._metadata = _options.call_metadata(self._options)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Models

    async def load_model(self, name: str, version: int = 0) -> Model:
        request = _requests.build("LoadModelRequest", name=name, version=version)
        response = await self._call(_api.LOAD_MODEL, request, self._options.timeouts.load)
        return types.from_message(Model, response.model)

    async def unload_model(self, name: str, version: int = 0) -> None:
        request = _requests.build("UnloadModelRequest", name=name, version=version)
        await self._call(_api.UNLOAD_MODEL, request)

    async def get_model(self, name: str, version: int = 0) -> Model:
        request = _requests.build("GetModelRequest", name=name, version=version)
        return types.from_message(Model, (await self._call(_api.GET_MODEL, request)).model)

    async def list_models(self) -> list[Model]:
        response = await self._call(_api.LIST_MODELS, _requests.build("ListModelsRequest"))
        return [types.from_message(Model, model) for model in response.models]

    # Predictions

    async def predict(
        self,
        model: str,
        x: ArrayLike,
        *,
        version: int = 0,
        prior_precision: float | None = None,
        temperature: float | None = None,
        link_approx: str | None = None,
        ood_scores: Sequence[str] | str | None = None,
        return_covariance: bool = False,
        return_joint_covariance: bool = False,
        return_samples: int = 0,
        variance_mode: str | None = None,
        top_classes: int = 0,
        samples: int = 0,
        seed: int = 0,
        priority: str | None = None,
    ) -> Prediction:
        request = _requests.predict(model, x, locals())
        seconds = self._options.timeouts.predict
        return types.prediction(await self._call(_api.PREDICT, request, seconds))

    async def score(
        self,
        model: str,
        x: ArrayLike,
        *,
        version: int = 0,
        ood_scores: Sequence[str] | str | None = None,
        variance_mode: str | None = None,
        samples: int = 0,
        seed: int = 0,
        priority: str | None = None,
    ) -> Scores:
        request = _requests.score(model, x, locals())
        seconds = self._options.timeouts.predict
        return types.scores(await self._call(_api.SCORE, request, seconds))

    async def predict_stream(
        self,
        model: str,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        version: int = 0,
        prior_precision: float | None = None,
        temperature: float | None = None,
        link_approx: str | None = None,
        ood_scores: Sequence[str] | str | None = None,
        return_covariance: bool = False,
        variance_mode: str | None = None,
        top_classes: int = 0,
        samples: int = 0,
        seed: int = 0,
        priority: str | None = None,
    ) -> AsyncIterator[Prediction]:
        work = _requests.predict(model, None, locals())
        async for answer in self._stream("predict", work, batches):
            yield types.prediction(answer)

    async def score_stream(
        self,
        model: str,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        version: int = 0,
        ood_scores: Sequence[str] | str | None = None,
        variance_mode: str | None = None,
        samples: int = 0,
        seed: int = 0,
        priority: str | None = None,
    ) -> AsyncIterator[Scores]:
        work = _requests.score(model, None, locals())
        async for answer in self._stream("score", work, batches):
            yield types.scores(answer)

    # Data sets, posteriors, operations

    async def ensure_dataset(
        self, x: ArrayLike, y: ArrayLike, progress: UploadProgress | None = None
    ) -> Dataset:
        data = _requests.upload(x, y)
        try:
            request = _requests.build("GetDatasetRequest", id=data.id)
            present = await self._call(_api.GET_DATASET, request)
            return types.from_message(Dataset, present.dataset)
        except LaplaceError as error:
            if error.code not in _requests.WORTH_AN_UPLOAD:
                raise

        async def messages() -> AsyncIterator[Any]:
            for rows, message in data.messages(self._options.upload_chunk_bytes):
                yield message
                if progress is not None:
                    progress(rows, len(data.inputs))

        method = _api.UPLOAD_DATASET
        call = self._channel.stream_unary(method.path, method.serialize, method.parse)
        response = await self._retry(
            lambda left: self._attempt(call, messages(), left),
            self._options.timeouts.upload,
        )
        return types.from_message(Dataset, response.dataset)

    async def fit(
        self,
        model: str,
        train: tuple[ArrayLike, ArrayLike] | str,
        validation: tuple[ArrayLike, ArrayLike] | str | None = None,
        *,
        version: int = 0,
        progress: bool | OperationProgress = False,
        keep_inactive: bool = False,
        **fit_options: Any,
    ) -> str:
        operation = await self.start_fit(
            model, train, validation, version=version, keep_inactive=keep_inactive, **fit_options
        )
        return await self._result(operation, progress)

    async def start_fit(
        self,
        model: str,
        train: tuple[ArrayLike, ArrayLike] | str,
        validation: tuple[ArrayLike, ArrayLike] | str | None = None,
        *,
        version: int = 0,
        keep_inactive: bool = False,
        **fit_options: Any,
    ) -> Operation:
        options = _requests.build("FitOptions", **fit_options)
        request = _requests.build(
            "FitPosteriorRequest",
            model=model,
            version=version,
            train_dataset_id=await self._dataset(train),
            validation_dataset_id=None if validation is None else await self._dataset(validation),
            options=options,
            keep_inactive=keep_inactive,
        )
        response = await self._call(_api.FIT_POSTERIOR, request, self._options.timeouts.load)
        return types.from_message(Operation, response.operation)

    async def update(
        self,
        model: str,
        data: tuple[ArrayLike, ArrayLike] | str,
        *,
        version: int = 0,
        posterior_id: str = "",
        progress: bool | OperationProgress = False,
        keep_inactive: bool = False,
    ) -> str:
        request = _requests.build(
            "UpdatePosteriorRequest",
            model=model,
            version=version,
            posterior_id=posterior_id,
            dataset_id=await self._dataset(data),
            keep_inactive=keep_inactive,
        )
        response = await self._call(_api.UPDATE_POSTERIOR, request, self._options.timeouts.load)
        return await self._result(types.from_message(Operation, response.operation), progress)

    async def calibrate(
        self,
        model: str,
        data: tuple[ArrayLike, ArrayLike] | str,
        *,
        version: int = 0,
        posterior_id: str = "",
        target_id_rate: float = 0.0,
        default_ood_score: str = "",
        progress: bool | OperationProgress = False,
        keep_inactive: bool = False,
    ) -> str:
        request = _requests.build(
            "CalibrateOodRequest",
            model=model,
            version=version,
            posterior_id=posterior_id,
            dataset_id=await self._dataset(data),
            target_id_rate=target_id_rate,
            default_ood_score=default_ood_score,
            keep_inactive=keep_inactive,
        )
        response = await self._call(_api.CALIBRATE_OOD, request, self._options.timeouts.load)
        return await self._result(types.from_message(Operation, response.operation), progress)

    async def newton_step(
        self,
        model: str,
        train: tuple[ArrayLike, ArrayLike] | str,
        held_out: tuple[ArrayLike, ArrayLike] | str | None = None,
        *,
        version: int = 0,
        keep_worse: bool = False,
        progress: bool | OperationProgress = False,
        **step_options: Any,
    ) -> Operation:
        options = _requests.build("NewtonStepOptions", **step_options)
        request = _requests.build(
            "NewtonStepRequest",
            model=model,
            version=version,
            train_dataset_id=await self._dataset(train),
            held_out_dataset_id=None if held_out is None else await self._dataset(held_out),
            options=options,
            keep_worse=keep_worse,
        )
        response = await self._call(_api.NEWTON_STEP, request, self._options.timeouts.load)
        started = types.from_message(Operation, response.operation)
        await self._result(started, progress)
        return await self.get_operation(started.id)

    async def list_posteriors(self, model: str, version: int = 0) -> list[Posterior]:
        request = _requests.build("ListPosteriorsRequest", model=model, version=version)
        response = await self._call(_api.LIST_POSTERIORS, request)
        return [types.from_message(Posterior, p) for p in response.posteriors]

    async def get_posterior(
        self, model: str, version: int = 0, posterior_id: str = ""
    ) -> Posterior:
        request = _requests.build(
            "GetPosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        response = await self._call(_api.GET_POSTERIOR, request)
        return types.from_message(Posterior, response.posterior)

    async def activate_posterior(
        self, model: str, posterior_id: str, version: int = 0
    ) -> Posterior:
        request = _requests.build(
            "ActivatePosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        response = await self._call(_api.ACTIVATE_POSTERIOR, request)
        return types.from_message(Posterior, response.posterior)

    async def delete_posterior(self, model: str, posterior_id: str, version: int = 0) -> None:
        request = _requests.build(
            "DeletePosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        await self._call(_api.DELETE_POSTERIOR, request)

    async def get_operation(self, operation_id: str) -> Operation:
        request = _requests.build("GetOperationRequest", id=operation_id)
        response = await self._call(_api.GET_OPERATION, request)
        return types.from_message(Operation, response.operation)

    async def list_operations(self) -> list[Operation]:
        request = _requests.build("ListOperationsRequest")
        response = await self._call(_api.LIST_OPERATIONS, request)
        return [types.from_message(Operation, o) for o in response.operations]

    async def cancel_operation(self, operation_id: str) -> Operation:
        request = _requests.build("CancelOperationRequest", id=operation_id)
        response = await self._call(_api.CANCEL_OPERATION, request)
        return types.from_message(Operation, response.operation)

    async def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        method = _api.WATCH_OPERATION
        call = self._channel.unary_stream(method.path, method.serialize, method.parse)
        request = _requests.build("WatchOperationRequest", id=operation_id)
        end = time.monotonic() + self._options.timeouts.operation
        failures = 0
        while True:
            seconds = min(end - time.monotonic(), LIFETIME)
            try:
                async for response in call(request, timeout=seconds, metadata=self._metadata):
                    failures = 0
                    operation = types.from_message(Operation, response.operation)
                    yield operation
                    if operation.finished:
                        return
                error: LaplaceError = UnavailableError(
                    grpc.StatusCode.UNAVAILABLE, "the watch ended before the operation did"
                )
            except grpc.RpcError as raised:
                error = from_rpc_error(raised, self.target)
            if isinstance(error, DeadlineExceededError) and time.monotonic() < end:
                continue  # the end of the stream's lifetime
            failures += 1
            await self._pause(error, failures, end)

    async def health(self, service: str = "") -> bool:
        request = _api.message("grpc.health.v1.HealthCheckRequest")(service=service)
        response = await self._call(_api.HEALTH_CHECK, request)
        enum = response.DESCRIPTOR.fields_by_name["status"].enum_type
        return bool(response.status == enum.values_by_name["SERVING"].number)

    # What they are made of

    async def _call(
        self, method: _api.Method, request: Any, timeout: float | None = None
    ) -> Any:
        seconds = self._options.timeouts.call if timeout is None else timeout
        call = self._channel.unary_unary(method.path, method.serialize, method.parse)
        if not method.repeatable:
            try:
                return await self._attempt(call, request, seconds)
            except grpc.RpcError as error:
                raise from_rpc_error(error, self.target, seconds) from None
        return await self._retry(
            lambda left: self._attempt(call, request, left), seconds
        )

    async def _attempt(self, call: Any, request: Any, seconds: float) -> Any:
        response = await call(request, timeout=seconds, metadata=self._metadata)
        if response is None:
            raise malformed("it is missing, or no message of this API")
        return response

    async def _retry(self, attempt: Callable[[float], Awaitable[Any]], seconds: float) -> Any:
        end = time.monotonic() + seconds
        failures = 0
        while True:
            try:
                return await attempt(max(end - time.monotonic(), 0.001))
            except grpc.RpcError as raised:
                error = from_rpc_error(raised, self.target, seconds)
            failures += 1
            await self._pause(error, failures, end)

    async def _pause(self, error: LaplaceError, failures: int, end: float) -> None:
        wait = self._options.retry.wait(error, failures)
        if wait is None or time.monotonic() + wait >= end:
            raise error
        await asyncio.sleep(wait)

    async def _stream(
        self, kind: str, work: Any, batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike]
    ) -> AsyncIterator[Any]:
        state = StreamState(kind, work, self._options.retry)
        source, more = _as_async(batches), True
        source_error: Exception | None = None
        method = _api.PREDICT_STREAM
        open_call = self._channel.stream_stream(method.path, method.serialize, method.parse)
        while True:
            call = open_call(timeout=LIFETIME, metadata=self._metadata)
            in_time = self._in_time
            closed = False  # our side
            try:
                for message in state.opening():
                    await in_time(call.write(message))
                while True:
                    while more and state.has_room:
                        batch = await _next(source)
                        more = batch is not END
                        if more:
                            await in_time(call.write(state.add(batch)))
                    if not state.waits:
                        return
                    if not more and not closed:
                        closed = True
                        await in_time(call.done_writing())  # a peer that ends its side first waits for ours
                    response = await in_time(call.read())
                    if response is grpc.aio.EOF:
                        raise await in_time(self._early_end(call))
                    yield state.answered(response)
            except SourceFailed as failed:
                source_error = failed.error
            except _Silence:
                raise state.silent(self.target, self._options.timeouts.predict) from None
            except grpc.RpcError as raised:
                error = from_rpc_error(raised, self.target)
            except (asyncio.InvalidStateError, grpc.aio.InternalError):  # writing to a stream that has ended
                error = await self._early_end(call)
            except LaplaceError as raised:
                error = raised
            finally:
                call.cancel()
            if source_error is not None:
                raise source_error
            wait = state.wait_after(error)
            if wait is None:
                raise error
            await asyncio.sleep(wait)

    async def _in_time(self, step: Awaitable[T]) -> T:
        """A step of a stream, whose own deadline is far away: a peer may leave it open and say nothing more."""
        try:
            return await asyncio.wait_for(step, self._options.timeouts.predict)
        except asyncio.TimeoutError:
            raise _Silence from None

    async def _early_end(self, call: Any) -> LaplaceError:
        code = await call.code()
        if code == grpc.StatusCode.OK:
            return make_error(grpc.StatusCode.UNAVAILABLE, "the stream ended too early")
        return from_rpc_error(
            grpc.aio.AioRpcError(
                code,
                await call.initial_metadata(),
                await call.trailing_metadata(),
                await call.details(),
            ),
            self.target,
        )

    async def _dataset(self, data: tuple[ArrayLike, ArrayLike] | str) -> str:
        return data if isinstance(data, str) else (await self.ensure_dataset(*data)).id

    async def _result(self, started: Operation, progress: bool | OperationProgress) -> str:
        show = ProgressBar() if progress is True else progress or None
        operation = started
        try:
            async for operation in self.watch_operation(started.id):
                if show is not None:
                    show(operation)
        except LaplaceError:
            raise  # the server works on
        except BaseException:  # the task was cancelled, or an exception of the caller's function
            await asyncio.shield(self.cancel_operation(started.id))
            raise
        return operation_result(operation)


async def _as_async(batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike]) -> AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch


async def _next(source: AsyncIterator[Any]) -> Any:
    try:
        return await source.__anext__()
    except StopAsyncIteration:
        return END
    except Exception as error:
        raise SourceFailed(error) from error
