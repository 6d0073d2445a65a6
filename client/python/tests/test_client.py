"""The clients against the real server."""

from __future__ import annotations

import asyncio
import io
import json
import math
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

import laplace_client
from laplace_client import AsyncClient, Client, ClientOptions, RetryPolicy, Timeouts
from laplace_client.progress import ProgressBar

from conftest import ROOT, Server

INPUTS = np.array(
    [[0.5, -1.0, 0.25, 2.0], [-0.75, 0.125, 1.5, -0.5], [0.0, 0.0, 0.0, 0.0]], np.float32
)
EXPECTED = json.loads((ROOT / "tests/data/registry_v1/expected.json").read_text())


LONG_FIT = {
    "rank": 51, "lanczos_tolerance": 1e-14, "max_products": 1_000_000, "direction_batch_size": 100,
    "curvature_batch_size": 150,
}  # fmt: skip


def expect_as_recorded(answer: laplace_client.Prediction) -> None:
    """What the version that fitted the posterior answered to INPUTS."""
    rows = EXPECTED["rows"]
    for name in ("mean", "map_mean", "functional_mean"):
        np.testing.assert_allclose(getattr(answer, name), [r[name] for r in rows], atol=1e-6)
    np.testing.assert_allclose(answer.variance, [r["functional_variance"] for r in rows], rtol=1e-4)
    np.testing.assert_allclose(answer.aleatoric, [r["aleatoric"] for r in rows], atol=1e-3)
    score = answer.ood["laplace_entropy"]
    wanted = [r["ood_scores"]["laplace_entropy"] for r in rows]
    np.testing.assert_allclose(score.values, [w["value"] for w in wanted], atol=1e-5)
    assert score.is_ood is not None and score.is_ood.tolist() == [w["is_ood"] for w in wanted]
    assert score.threshold == pytest.approx(
        EXPECTED["ood_thresholds"]["laplace_entropy"]["threshold"]
    )
    assert answer.posterior_id == EXPECTED["posterior_id"]


def test_predicts_what_was_recorded(client: Client) -> None:
    answer = client.predict("mlp", INPUTS)
    expect_as_recorded(answer)
    assert (answer.model, answer.version, len(answer)) == ("mlp", 1, 3)
    assert answer.variance_mode == "exact"
    assert answer.covariance is None and answer.samples is None
    # Anything that NumPy reads, whatever its layout.
    expect_as_recorded(client.predict("mlp", np.asfortranarray(INPUTS)))
    expect_as_recorded(client.predict("mlp", INPUTS.astype(">f4")))


def test_options_reach_the_server(client: Client) -> None:
    plain = client.predict("mlp", INPUTS)
    answer = client.predict(
        "mlp", INPUTS, version=1, prior_precision=np.float64(3), temperature=2, link_approx="mc",
        ood_scores=["energy", "laplace_entropy"], return_covariance=True, seed=3,
        return_joint_covariance=True, return_samples=5, variance_mode="exact", priority="bulk",
    )  # fmt: skip
    assert (answer.prior_precision, answer.temperature) == (3, 2)
    assert set(answer.ood) == {"energy", "laplace_entropy"}
    assert (answer.variance > 10 * plain.variance).all()
    assert answer.covariance is not None and answer.covariance.shape == (3, 3, 3)
    assert answer.joint_covariance is not None and answer.samples is not None
    np.testing.assert_allclose(
        answer.joint_covariance[1, :, 1, :], answer.covariance[1], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        np.diagonal(answer.covariance, axis1=1, axis2=2), answer.variance, rtol=1e-5
    )
    assert answer.samples.shape == (5, 3, 3)
    scores = client.score("mlp", INPUTS, ood_scores="energy")
    np.testing.assert_allclose(scores["energy"].values, answer.ood["energy"].values, rtol=1e-5)


def test_models_and_posteriors_are_described(client: Client) -> None:
    model = client.load_model("mlp")
    assert (model.name, model.version, model.state, model.likelihood) == (
        "mlp", 1, "ready", "categorical",
    )  # fmt: skip
    assert model.class_names == ("a", "b", "c") and model.input_shape == (4,)
    assert [m.name for m in client.list_models()] == ["mlp"]
    posterior = client.get_posterior("mlp")
    assert posterior.id == EXPECTED["posterior_id"] and posterior.active
    assert posterior.options.structure == "low_rank"
    assert len(posterior.eigenvalues) == posterior.rank == len(posterior.standard_errors)
    assert "laplace_entropy" in {threshold.score for threshold in posterior.ood_thresholds}
    assert client.list_posteriors("mlp")[0].id == posterior.id
    assert client.health() and client.health("models/mlp")
    client.unload_model("mlp")
    assert client.get_model("mlp").state == "available"
    assert not client.health("models/mlp")


def test_fits_updates_and_calibrates(client: Client, data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    seen: list[laplace_client.Operation] = []
    fitted = client.fit(
        "mlp", (x, y), (x[:100], y[:100].astype(np.uint8)), progress=seen.append, rank=8,
        direction_batch_size=100, curvature_batch_size=150, residual="layerwise",
    )  # fmt: skip
    assert seen[-1].finished and seen[-1].posterior_id == fitted
    posterior = client.get_posterior("mlp")
    assert posterior.id == fitted
    assert (posterior.options.rank, posterior.options.residual) == (8, "layerwise")
    assert posterior.prior_candidates and posterior.blocks and posterior.features is not None
    assert client.predict("mlp", x[:5]).posterior_id == fitted

    updated = client.update("mlp", (x[:50], y[:50]), keep_inactive=True)
    assert client.get_posterior("mlp", posterior_id=updated).parent_posterior_id == fitted
    assert client.get_posterior("mlp").id == fitted
    assert client.activate_posterior("mlp", updated).id == updated
    calibrated = client.calibrate(
        "mlp", (x, y), target_id_rate=0.1, default_ood_score="laplace_entropy"
    )
    assert client.get_posterior("mlp", posterior_id=calibrated).options.target_id_rate == 0.1
    with pytest.raises(laplace_client.FailedPreconditionError):
        client.delete_posterior("mlp", calibrated)
    client.delete_posterior("mlp", fitted)
    assert fitted not in {p.id for p in client.list_posteriors("mlp")}
    states = {operation.state for operation in client.list_operations()}
    assert states == {"succeeded"} and len(client.list_operations()) == 3


def test_a_newton_step_makes_a_version_or_says_why_not(
    client: Client, data: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = data
    with pytest.raises(laplace_client.InvalidArgumentError, match="distinct examples"):
        client.newton_step("mlp", (x, y), direction_batch_size=len(x))
    with pytest.raises(ValueError, match="variant"):
        client.newton_step("mlp", (x, y), variant="best")
    # Whatever the held-out examples say of it, it is written.
    n = len(x) // 4
    try:
        made = client.newton_step(
            "mlp", (x, y), variant="debiased", direction_batch_size=n, curvature_batch_size=n,
            held_out_size=n, keep_worse=True,
        )  # fmt: skip
    except laplace_client.FailedPreconditionError as error:
        assert "nothing was written" in str(error)  # no step at all was better
    else:
        assert made.state == "succeeded" and made.model_version == 2
        assert "held-out loss" in made.result
        assert client.load_model("mlp", 2).version == 2


def test_data_sets_travel_once(client: Client, data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    sent: list[tuple[int, int]] = []
    # The server names what it stored: it agrees about the content id, or this raises.
    dataset = client.ensure_dataset(x, y, progress=lambda done, total: sent.append((done, total)))
    assert sent[-1] == (300, 300) and dataset.n_rows == 300
    again: list[tuple[int, int]] = []
    assert client.ensure_dataset(x.copy(), y, lambda done, total: again.append((done, total))) == (
        dataset
    )
    assert not again
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    regression = client.ensure_dataset(images, np.ones((2, 1), np.float64))
    assert (regression.input_dtype, regression.example_shape) == ("uint8", (3, 4))
    assert (regression.target_dtype, regression.target_shape) == ("float64", (1,))


def test_a_fit_can_be_cancelled(client: Client, data: tuple[np.ndarray, np.ndarray]) -> None:
    operation = client.start_fit("mlp", data, **LONG_FIT)
    client.cancel_operation(operation.id)
    *_, last = client.watch_operation(operation.id)
    assert last.state == "cancelled" and last.posterior_id == ""


def test_a_fit_that_is_interrupted_is_cancelled(
    client: Client, data: tuple[np.ndarray, np.ndarray]
) -> None:
    def interrupt(operation: laplace_client.Operation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.fit("mlp", data, progress=interrupt, **LONG_FIT)
    *_, last = client.watch_operation(client.list_operations()[0].id)
    assert last.state == "cancelled"


def test_errors_say_what_was_wrong_and_where(client: Client) -> None:
    with pytest.raises(laplace_client.InvalidArgumentError) as wrong:
        client.predict("mlp", np.zeros((2, 5), np.float32))
    assert wrong.value.field.startswith("inputs") and "4" in wrong.value.message
    assert isinstance(wrong.value, ValueError)
    with pytest.raises(laplace_client.NotFoundError) as missing:
        client.predict("nope", INPUTS)
    assert missing.value.code == grpc.StatusCode.NOT_FOUND and "nope" in str(missing.value)
    with pytest.raises(LookupError):
        client.get_operation("op-20260102t030405.678z-1a2b3c")
    with pytest.raises(laplace_client.InvalidArgumentError, match="finite"):
        client.predict("mlp", np.full((1, 4), math.nan))


def test_arguments_are_checked_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="link_approx: expected one of probit, mc"):
        client.predict("mlp", INPUTS, link_approx="normal")
    with pytest.raises(ValueError, match="numbers, got dtype"):
        client.predict("mlp", ["a"])
    with pytest.raises(ValueError, match="expected 3 rows, one for each input, got 2"):
        client.ensure_dataset(INPUTS, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="one class label for each row"):
        client.ensure_dataset(INPUTS, np.zeros((3, 2), np.int64))
    with pytest.raises(TypeError, match="FitOptions has no 'ranks'; it has rank, direction_batch"):
        client.start_fit("mlp", "sha256-0", ranks=3)
    for value in ([20], np.array([20])):
        with pytest.raises(ValueError, match="rank: expected one value, got"):
            client.start_fit("mlp", "sha256-0", rank=value)
    with pytest.raises(ValueError, match="parameters: "):
        client.start_fit("mlp", "sha256-0", parameters=3)


def test_a_server_that_is_away_is_named() -> None:
    options = ClientOptions(retry=RetryPolicy(max_attempts=2, initial_backoff=0.01))
    with Client("127.0.0.1:1", options) as client:
        with pytest.raises(ConnectionError, match="127.0.0.1:1"):
            client.list_models()


class StatuslessServer:
    """A peer that speaks just enough HTTP/2 to take calls and end each of them without a status, as a proxy
    does when the server behind it is gone. gRPC's own server ends every call with a status.

    reset_code: calls are reset with it; None: an answer begins and ends, and then its stream is reset.
    """

    DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
    ACK, END_STREAM, END_HEADERS = 1, 1, 4
    ANSWER = b"\x88\x0f\x10\x10application/grpc"  # :status 200 and content-type, in HPACK

    def __init__(self, reset_code: int | None) -> None:
        self.calls = 0
        self._reset_code = reset_code
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _serve_connection(self, connection: socket.socket) -> None:
        def send(kind: int, flags: int, stream: bytes, payload: bytes) -> None:
            connection.sendall(
                len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream + payload
            )

        with connection, connection.makefile("rb") as received:
            received.read(24)  # the preface
            send(self.SETTINGS, 0, bytes(4), b"")
            while len(header := received.read(9)) == 9:
                payload = received.read(int.from_bytes(header[:3], "big"))
                kind, ack, stream = header[3], header[4] & self.ACK, header[5:]
                if kind == self.HEADERS:
                    self.calls += 1
                    if self._reset_code is None:
                        send(self.HEADERS, self.END_HEADERS, stream, self.ANSWER)
                        send(self.DATA, self.END_STREAM, stream, b"")
                    send(self.RST_STREAM, 0, stream, (self._reset_code or 0).to_bytes(4, "big"))
                elif kind in (self.SETTINGS, self.PING) and not ack:
                    send(kind, self.ACK, bytes(4), payload if kind == self.PING else b"")


@pytest.mark.parametrize("reset_code", [None, 0, 2, 8])  # NO_ERROR, INTERNAL_ERROR, CANCEL
def test_calls_and_streams_that_end_without_a_status_are_repeated(reset_code: int | None) -> None:
    options = ClientOptions(retry=RetryPolicy(max_attempts=3, initial_backoff=0.01))
    told = "No status received|Stream removed|RST_STREAM"
    server = StatuslessServer(reset_code)
    try:
        with Client(server.address, options) as client:
            with pytest.raises(laplace_client.UnavailableError, match=told):
                client.predict("mlp", INPUTS)
            assert server.calls == 3
            with pytest.raises(laplace_client.UnavailableError, match=told):
                next(client.predict_stream("mlp", [INPUTS]))
            assert server.calls == 6
    finally:
        server.close()


def test_an_error_says_whether_nobody_is_there_or_the_server_cannot() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        with Client(target, ClientOptions(retry=RetryPolicy(max_attempts=1))) as client:
            told = f"no server can be reached at {target}; is laplaced running there"
            with pytest.raises(laplace_client.UnavailableError, match=told):
                client.predict("mlp", INPUTS)
    server = StatuslessServer(None)
    try:
        with Client(server.address, ClientOptions(retry=RetryPolicy(max_attempts=1))) as client:
            told = f"the server at {server.address} is unavailable: "
            with pytest.raises(laplace_client.UnavailableError, match=told):
                client.predict("mlp", INPUTS)
    finally:
        server.close()


def test_calls_wait_for_a_server_that_comes_back(server: Server) -> None:
    options = ClientOptions(retry=RetryPolicy(max_attempts=200, max_backoff=0.2))
    with Client(server.address, options) as client:
        expect_as_recorded(client.predict("mlp", INPUTS))
        server.kill()
        back = threading.Thread(target=server.start, args=(server.address,))
        back.start()
        expect_as_recorded(client.predict("mlp", INPUTS))
        back.join()


def test_streams_answer_in_order_and_survive_a_restart(server: Server) -> None:
    random = np.random.default_rng(1)
    batches = [random.normal(size=(n, 4)).astype(np.float32) for n in (3, 1, 20, 7, 5, 64)]
    options = ClientOptions(retry=RetryPolicy(max_attempts=200, max_backoff=0.2))
    with Client(server.address, options) as client:
        whole = client.predict("mlp", np.concatenate(batches))
        answers = []
        for i, answer in enumerate(client.predict_stream("mlp", iter(batches))):
            answers.append(answer)
            if i == 2:
                server.kill()
                server.start(server.address)
        assert [len(a) for a in answers] == [len(b) for b in batches]
        np.testing.assert_allclose(
            np.concatenate([a.mean for a in answers]), whole.mean, rtol=1e-5, atol=1e-6
        )
        scores = list(client.score_stream("mlp", batches, ood_scores=["energy", "variance"]))
        values = np.concatenate([s["energy"].values for s in scores])
        np.testing.assert_allclose(
            values, client.score("mlp", np.concatenate(batches), ood_scores="energy")["energy"].values,
            rtol=1e-5,
        )  # fmt: skip
        assert list(client.predict_stream("mlp", [])) == []


def test_streams_end_with_the_error_of_a_batch_or_of_their_source(client: Client) -> None:
    good, bad = INPUTS, np.zeros((2, 9), np.float32)
    seen = 0
    with pytest.raises(laplace_client.InvalidArgumentError):
        for _ in client.predict_stream("mlp", [good, bad, good]):
            seen += 1
    assert seen == 1

    def breaks() -> object:
        yield good
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(client.predict_stream("mlp", breaks()))  # type: ignore[arg-type]
    # A batch that is none is no end.
    with pytest.raises((TypeError, ValueError)):
        list(client.predict_stream("mlp", [good, None, good]))  # type: ignore[list-item]
    # Whoever stops early leaves nothing behind.
    for _ in client.score_stream("mlp", [good] * 10):
        break
    expect_as_recorded(client.predict("mlp", INPUTS))


class OtherServersError(grpc.RpcError):
    """Of a call that the caller's batches come from; it looks like one of ours."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "the feature store is down"

    def trailing_metadata(self) -> tuple[()]:
        return ()


def fetched(error: Exception) -> Iterator[np.ndarray]:
    yield INPUTS
    yield INPUTS
    yield INPUTS
    raise error


SOURCE_ERRORS = [OtherServersError(), laplace_client.UnavailableError(grpc.StatusCode.UNAVAILABLE, "another laplaced")]


@pytest.mark.parametrize("error", SOURCE_ERRORS)
def test_an_error_of_the_source_is_never_taken_for_the_servers(server: Server, error: Exception) -> None:
    with Client(server.address, ClientOptions()) as client:
        answers = client.predict_stream("mlp", fetched(error))
        with pytest.raises(type(error)) as raised:
            for _ in answers:
                pass
        assert raised.value is error

    async def read() -> None:
        async with AsyncClient(server.address, ClientOptions()) as client:
            async for _ in client.predict_stream("mlp", fetched(error)):
                pass

    with pytest.raises(type(error)) as raised:
        asyncio.run(read())
    assert raised.value is error


def test_a_stream_outlives_a_source_that_is_slower_than_its_lifetime(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("client", "aio", "_streams"):
        monkeypatch.setattr(f"laplace_client.{module}.LIFETIME", 0.3)

    def slow() -> Iterator[np.ndarray]:
        for _ in range(3):
            time.sleep(0.4)
            yield INPUTS

    with Client(server.address, ClientOptions()) as client:
        assert len(list(client.predict_stream("mlp", slow()))) == 3

    async def count() -> int:
        async with AsyncClient(server.address, ClientOptions()) as client:
            return len([answer async for answer in client.predict_stream("mlp", slow())])

    assert asyncio.run(count()) == 3


def test_tokens_are_shown_and_never_without_tls_to_others(
    registry: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    token = "laplace-" + "x" * 40
    tokens = tmp_path / "tokens.json"
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens.write_text(
        json.dumps({"tokens": [{"name": "test", "role": "predict", "sha256": digest}]})
    )
    with Server(registry, "--tokens", str(tokens)) as server:
        with Client(server.address, ClientOptions()) as nobody:
            with pytest.raises(PermissionError):
                nobody.list_models()
        (tmp_path / "token").write_text(token + "\n")
        monkeypatch.setenv("LAPLACE_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("LAPLACE_SERVER", server.address)
        with Client() as pipeline:
            expect_as_recorded(pipeline.predict("mlp", INPUTS))
            with pytest.raises(laplace_client.AccessError, match="admin"):
                pipeline.unload_model("mlp")
    assert "xxxx" not in repr(ClientOptions(token=token))
    with pytest.raises(ValueError, match="expected TLS"):
        Client("example.org:8033", ClientOptions(token=token))


def test_asyncio(server: Server, data: tuple[np.ndarray, np.ndarray]) -> None:
    async def run() -> None:
        async with AsyncClient(server.address, ClientOptions()) as client:
            answers = await asyncio.gather(*(client.predict("mlp", INPUTS) for _ in range(8)))
            for answer in answers:
                expect_as_recorded(answer)
            rows = [INPUTS[i : i + 1] for i in range(3)]
            streamed = [a async for a in client.predict_stream("mlp", rows)]
            np.testing.assert_allclose(
                np.concatenate([a.mean for a in streamed]), answers[0].mean, atol=1e-6
            )

            async def source() -> object:
                yield INPUTS
                yield np.zeros((1, 9), np.float32)

            seen = 0
            with pytest.raises(laplace_client.InvalidArgumentError):
                async for _ in client.score_stream("mlp", source()):  # type: ignore[arg-type]
                    seen += 1
            assert seen == 1
            states: list[laplace_client.Operation] = []
            fitted = await client.fit(
                "mlp", data, progress=states.append, rank=4, direction_batch_size=100,
                curvature_batch_size=100, prior_precision=2,
            )  # fmt: skip
            assert states[-1].posterior_id == fitted
            assert (await client.get_posterior("mlp")).id == fitted
            with pytest.raises(laplace_client.NotFoundError):
                await client.get_model("nope")

    asyncio.run(run())


def test_a_deadline_is_a_timeout_error(server: Server) -> None:
    options = ClientOptions(timeouts=Timeouts(predict=1e-6))
    with Client(server.address, options) as client:
        with pytest.raises(TimeoutError):
            client.predict("mlp", INPUTS)


def test_the_bar_shows_on_terminals_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    running = laplace_client.Operation(
        "op-1", "running", "fit mlp/1", "curvature", 1, 2, 0.5, 12.0, "", 0, "", "", ""
    )
    terminal, file = Terminal(), io.StringIO()
    ProgressBar(terminal)(running)
    ProgressBar(file)(running)
    assert "50% curvature, 12 s left" in terminal.getvalue() and file.getvalue() == ""
