"""The synchronous client."""

from __future__ import annotations

import queue
import time
from types import TracebackType
from typing import Any, Callable, Iterable, Iterator, Sequence

import grpc
from numpy.typing import ArrayLike

from . import _api, _requests, options as _options, types
from ._streams import END, LIFETIME, Patience, SourceFailed, StreamState
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

OperationProgress = Callable[[Operation], None]
UploadProgress = Callable[[int, int], None]


class Client:
    """A connection to a laplaced server. Thread-safe; a context manager.

    target: "host:port"; without one that of LAPLACE_SERVER, else 127.0.0.1:8033.
    options: token, TLS, timeouts, retries; without any those of the environment
        (ClientOptions.from_environment).

    Every call is bounded in time, is repeated where that is safe, and raises a LaplaceError if it fails.
    """

    def __init__(self, target: str | None = None, options: ClientOptions | None = None) -> None:
        self.target = _options.target_from_environment() if target is None else target
        self._options = ClientOptions.from_environment() if options is None else options
        _options.check(self.target, self._options)
        arguments = _options.channel_arguments(self._options)
        tls = self._options.tls
        self._channel = (
            grpc.insecure_channel(self.target, arguments)
            if tls is None
            else grpc.secure_channel(self.target, _options.credentials(tls), arguments)
        )
        self._metadata = _options.call_metadata(self._options)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Models

    def load_model(self, name: str, version: int = 0) -> Model:
        """Loads a version of the server's repository, 0 the highest; nothing if it is loaded."""
        request = _requests.build("LoadModelRequest", name=name, version=version)
        response = self._call(_api.LOAD_MODEL, request, self._options.timeouts.load)
        return types.from_message(Model, response.model)

    def unload_model(self, name: str, version: int = 0) -> None:
        self._call(
            _api.UNLOAD_MODEL, _requests.build("UnloadModelRequest", name=name, version=version)
        )

    def get_model(self, name: str, version: int = 0) -> Model:
        request = _requests.build("GetModelRequest", name=name, version=version)
        return types.from_message(Model, self._call(_api.GET_MODEL, request).model)

    def list_models(self) -> list[Model]:
        response = self._call(_api.LIST_MODELS, _requests.build("ListModelsRequest"))
        return [types.from_message(Model, model) for model in response.models]

    # Predictions

    def predict(
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
        """Predictive distributions of the rows x [B, ...], float32, float64, or uint8 pixels; at most the
        1024 rows and 16 MiB that a server takes at once by default, predict_stream takes any number.

        version: 0 is the highest loaded one that has a posterior.
        prior_precision, temperature: for this request only; None: the posterior's own.
        link_approx: "probit" (default), "mc", "laplace_bridge" or "mean_field".
        ood_scores: names, such as "energy"; None: the default of the posterior.
        return_covariance: [B, C, C] among the outputs of each row; return_joint_covariance [B, C, B, C].
        return_samples: S functions drawn from the posterior, the same ones for the same seed.
        variance_mode: "auto" (default), "exact", "top_classes", "sampled" or "last_layer".
        priority: "interactive" (default) or "bulk".
        """
        request = _requests.predict(model, x, locals())
        return types.prediction(
            self._call(_api.PREDICT, request, self._options.timeouts.predict)
        )

    def score(
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
        """OOD scores of the rows x [B, ...] and nothing else, which is cheaper than predict."""
        request = _requests.score(model, x, locals())
        return types.scores(self._call(_api.SCORE, request, self._options.timeouts.predict))

    def predict_stream(
        self,
        model: str,
        batches: Iterable[ArrayLike],
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
    ) -> Iterator[Prediction]:
        """A Prediction for each batch of rows, in order, for any number of them in constant memory.

        All come from one version, one posterior and in one mode; a connection that breaks is taken up
        where it broke. `batches` is read on the caller's thread, at most two ahead of the answers.
        """
        work = _requests.predict(model, None, locals())
        return map(types.prediction, self._stream("predict", work, batches))

    def score_stream(
        self,
        model: str,
        batches: Iterable[ArrayLike],
        *,
        version: int = 0,
        ood_scores: Sequence[str] | str | None = None,
        variance_mode: str | None = None,
        samples: int = 0,
        seed: int = 0,
        priority: str | None = None,
    ) -> Iterator[Scores]:
        """Scores for each batch of rows; like predict_stream."""
        work = _requests.score(model, None, locals())
        return map(types.scores, self._stream("score", work, batches))

    # Data sets, posteriors, operations

    def ensure_dataset(
        self, x: ArrayLike, y: ArrayLike, progress: UploadProgress | None = None
    ) -> Dataset:
        """Makes sure that the server has these rows; sends them only if it does not.

        x: [N, ...] float32, float64 or uint8. y: [N] integer class labels, or floats [N, C].
        progress: told (rows sent, rows in all).
        """
        data = _requests.upload(x, y)
        try:
            present = self._call(_api.GET_DATASET, _requests.build("GetDatasetRequest", id=data.id))
            return types.from_message(Dataset, present.dataset)
        except LaplaceError as error:
            if error.code not in _requests.WORTH_AN_UPLOAD:
                raise

        def messages() -> Iterator[Any]:
            for rows, message in data.messages(self._options.upload_chunk_bytes):
                yield message
                if progress is not None:
                    progress(rows, len(data.inputs))

        method = _api.UPLOAD_DATASET
        call = self._channel.stream_unary(method.path, method.serialize, method.parse)
        response = self._retry(
            lambda seconds: call(messages(), timeout=seconds, metadata=self._metadata),
            self._options.timeouts.upload,
        )
        return types.from_message(Dataset, response.dataset)

    def fit(
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
        """Fits a posterior, follows the work to its end, and returns the posterior's id.

        train, validation: (inputs, targets), or the id of a data set that the server has.
        progress: True for a bar on a terminal, or a function that is told every state.
            If that raises, and on Ctrl-C, the fit is cancelled.
        keep_inactive: do not answer with it yet.
        fit_options: fields of types.FitOptions, such as rank=20, structure="kfac", prior_precision=5.
        """
        operation = self.start_fit(
            model, train, validation, version=version, keep_inactive=keep_inactive, **fit_options
        )
        return self._result(operation, progress)

    def start_fit(
        self,
        model: str,
        train: tuple[ArrayLike, ArrayLike] | str,
        validation: tuple[ArrayLike, ArrayLike] | str | None = None,
        *,
        version: int = 0,
        keep_inactive: bool = False,
        **fit_options: Any,
    ) -> Operation:
        """Only starts it. Never repeated: a lost answer could mean a second fit."""
        options = _requests.build("FitOptions", **fit_options)
        request = _requests.build(
            "FitPosteriorRequest",
            model=model,
            version=version,
            train_dataset_id=self._dataset(train),
            validation_dataset_id=None if validation is None else self._dataset(validation),
            options=options,
            keep_inactive=keep_inactive,
        )
        response = self._call(_api.FIT_POSTERIOR, request, self._options.timeouts.load)
        return types.from_message(Operation, response.operation)

    def update(
        self,
        model: str,
        data: tuple[ArrayLike, ArrayLike] | str,
        *,
        version: int = 0,
        posterior_id: str = "",
        progress: bool | OperationProgress = False,
        keep_inactive: bool = False,
    ) -> str:
        """Takes more data into a posterior ("" the active one); returns the id of the new one."""
        request = _requests.build(
            "UpdatePosteriorRequest",
            model=model,
            version=version,
            posterior_id=posterior_id,
            dataset_id=self._dataset(data),
            keep_inactive=keep_inactive,
        )
        response = self._call(_api.UPDATE_POSTERIOR, request, self._options.timeouts.load)
        return self._result(types.from_message(Operation, response.operation), progress)

    def calibrate(
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
        """Sets the thresholds of the OOD scores anew on in-distribution data; returns the new id."""
        request = _requests.build(
            "CalibrateOodRequest",
            model=model,
            version=version,
            posterior_id=posterior_id,
            dataset_id=self._dataset(data),
            target_id_rate=target_id_rate,
            default_ood_score=default_ood_score,
            keep_inactive=keep_inactive,
        )
        response = self._call(_api.CALIBRATE_OOD, request, self._options.timeouts.load)
        return self._result(types.from_message(Operation, response.operation), progress)

    def newton_step(
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
        """Moves a checkpoint closer to the minimum of its training objective, as a new version of the model, whose
        number is `model_version` of the operation that is returned; `result` says what it gained on held-out data.

        train, held_out: (inputs, targets) or the id of a data set; without `held_out` training examples are held
            out. step_options: those of NewtonStepOptions (variant, damping, max_steps, ...).
        Raises FailedPreconditionError, with nothing written, if the held-out loss would not fall.
        """
        options = _requests.build("NewtonStepOptions", **step_options)
        request = _requests.build(
            "NewtonStepRequest",
            model=model,
            version=version,
            train_dataset_id=self._dataset(train),
            held_out_dataset_id=None if held_out is None else self._dataset(held_out),
            options=options,
            keep_worse=keep_worse,
        )
        response = self._call(_api.NEWTON_STEP, request, self._options.timeouts.load)
        started = types.from_message(Operation, response.operation)
        self._result(started, progress)
        return self.get_operation(started.id)

    def list_posteriors(self, model: str, version: int = 0) -> list[Posterior]:
        """Newest first, without spectra."""
        request = _requests.build("ListPosteriorsRequest", model=model, version=version)
        response = self._call(_api.LIST_POSTERIORS, request)
        return [types.from_message(Posterior, p) for p in response.posteriors]

    def get_posterior(self, model: str, version: int = 0, posterior_id: str = "") -> Posterior:
        """`posterior_id` "" is the active one."""
        request = _requests.build(
            "GetPosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        return types.from_message(Posterior, self._call(_api.GET_POSTERIOR, request).posterior)

    def activate_posterior(self, model: str, posterior_id: str, version: int = 0) -> Posterior:
        request = _requests.build(
            "ActivatePosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        return types.from_message(
            Posterior, self._call(_api.ACTIVATE_POSTERIOR, request).posterior
        )

    def delete_posterior(self, model: str, posterior_id: str, version: int = 0) -> None:
        """Removes a posterior for good; FailedPreconditionError for the active one."""
        request = _requests.build(
            "DeletePosteriorRequest", model=model, version=version, posterior_id=posterior_id
        )
        self._call(_api.DELETE_POSTERIOR, request)

    def get_operation(self, operation_id: str) -> Operation:
        request = _requests.build("GetOperationRequest", id=operation_id)
        return types.from_message(Operation, self._call(_api.GET_OPERATION, request).operation)

    def list_operations(self) -> list[Operation]:
        response = self._call(_api.LIST_OPERATIONS, _requests.build("ListOperationsRequest"))
        return [types.from_message(Operation, o) for o in response.operations]

    def cancel_operation(self, operation_id: str) -> Operation:
        """Asks it to stop, and returns at once."""
        request = _requests.build("CancelOperationRequest", id=operation_id)
        return types.from_message(Operation, self._call(_api.CANCEL_OPERATION, request).operation)

    def watch_operation(self, operation_id: str) -> Iterator[Operation]:
        """Every state of an operation that the server tells, the last one when it has ended."""
        method = _api.WATCH_OPERATION
        call = self._channel.unary_stream(method.path, method.serialize, method.parse)
        request = _requests.build("WatchOperationRequest", id=operation_id)
        end = time.monotonic() + self._options.timeouts.operation
        failures = 0
        while True:
            begin = time.monotonic()
            seconds = min(end - begin, LIFETIME)
            try:
                for response in call(request, timeout=seconds, metadata=self._metadata):
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
            self._pause(error, failures, end)

    def health(self, service: str = "") -> bool:
        """Whether the server ("") or one of its services or models ("models/net") serves."""
        request = _api.message("grpc.health.v1.HealthCheckRequest")(service=service)
        response = self._call(_api.HEALTH_CHECK, request)
        enum = response.DESCRIPTOR.fields_by_name["status"].enum_type
        return bool(response.status == enum.values_by_name["SERVING"].number)

    # What they are made of

    def _call(self, method: _api.Method, request: Any, timeout: float | None = None) -> Any:
        seconds = self._options.timeouts.call if timeout is None else timeout
        call = self._channel.unary_unary(method.path, method.serialize, method.parse)
        if not method.repeatable:
            try:
                return _present(call(request, timeout=seconds, metadata=self._metadata))
            except grpc.RpcError as error:
                raise from_rpc_error(error, self.target, seconds) from None
        return self._retry(
            lambda left: call(request, timeout=left, metadata=self._metadata), seconds
        )

    def _retry(self, attempt: Callable[[float], Any], seconds: float) -> Any:
        end = time.monotonic() + seconds
        failures = 0
        while True:
            try:
                return _present(attempt(max(end - time.monotonic(), 0.001)))
            except grpc.RpcError as raised:
                error = from_rpc_error(raised, self.target, seconds)
            failures += 1
            self._pause(error, failures, end)

    def _pause(self, error: LaplaceError, failures: int, end: float) -> None:
        wait = self._options.retry.wait(error, failures)
        if wait is None or time.monotonic() + wait >= end:
            raise error
        time.sleep(wait)

    def _stream(self, kind: str, work: Any, batches: Iterable[ArrayLike]) -> Iterator[Any]:
        state = StreamState(kind, work, self._options.retry)
        source, more = iter(batches), True
        source_error: Exception | None = None
        method = _api.PREDICT_STREAM
        open_call = self._channel.stream_stream(method.path, method.serialize, method.parse)
        while True:
            sending: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for message in state.opening():
                sending.put(message)
            call = open_call(iter(sending.get, None), timeout=LIFETIME, metadata=self._metadata)
            patience = Patience(call, self._options.timeouts.predict)
            try:
                while True:
                    while more and state.has_room:
                        batch = _next(source)
                        more = batch is not END
                        if more:
                            sending.put(state.add(batch))
                    if not more:
                        sending.put(None)  # a peer that ends its side first waits for ours
                    if not state.waits:
                        return
                    patience.begin()
                    response = next(call)
                    patience.end()
                    yield state.answered(response)
            except SourceFailed as raised:
                source_error = raised.error
            except StopIteration:
                error = make_error(grpc.StatusCode.UNAVAILABLE, "the stream ended too early")
            except grpc.RpcError as raised:
                error = from_rpc_error(raised, self.target)
            finally:
                patience.close()
                sending.put(None)
                call.cancel()
            if source_error is not None:
                raise source_error
            if patience.over:
                raise state.silent(self.target, self._options.timeouts.predict)
            wait = state.wait_after(error)
            if wait is None:
                raise error
            time.sleep(wait)

    def _dataset(self, data: tuple[ArrayLike, ArrayLike] | str) -> str:
        return data if isinstance(data, str) else self.ensure_dataset(*data).id

    def _result(self, started: Operation, progress: bool | OperationProgress) -> str:
        show = ProgressBar() if progress is True else progress or None
        operation = started
        try:
            for operation in self.watch_operation(started.id):
                if show is not None:
                    show(operation)
        except LaplaceError:
            raise  # the server works on
        except BaseException:  # Ctrl-C, or an exception of the caller's function
            self.cancel_operation(started.id)
            raise
        return operation_result(operation)


def _present(response: Any) -> Any:
    """gRPC answers None where a peer says OK and sends no message."""
    if response is None:
        raise malformed("it is missing")
    return response


def _next(source: Iterator[ArrayLike]) -> Any:
    try:
        return next(source, END)
    except Exception as error:
        raise SourceFailed(error) from error
