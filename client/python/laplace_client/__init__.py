"""Client of laplaced, the Laplace server: predictions with uncertainty and OOD scores on NumPy arrays.

    from laplace_client import Client

    with Client("localhost:8033") as client:
        client.fit("fashion_cnn", (x_train, y_train), (x_val, y_val), progress=True)
        answer = client.predict("fashion_cnn", x)
        answer.mean, answer.variance, answer.epistemic, answer.ood["energy"].is_ood

`AsyncClient` is the same for asyncio; `laplace_client.export` writes checkpoints that the server loads
(needs torch); `python -m laplace_client.report` draws a posterior (needs matplotlib).
"""

from .aio import AsyncClient
from .client import Client
from .errors import (
    AccessError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    LaplaceError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from .options import ClientOptions, RetryPolicy, Timeouts, Tls
from .types import Dataset, Model, OodScore, Operation, Posterior, Prediction, Scores

__all__ = [
    "AccessError",
    "AsyncClient",
    "CancelledError",
    "Client",
    "ClientOptions",
    "Dataset",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InvalidArgumentError",
    "LaplaceError",
    "Model",
    "NotFoundError",
    "OodScore",
    "Operation",
    "OverloadedError",
    "Posterior",
    "Prediction",
    "RetryPolicy",
    "Scores",
    "Timeouts",
    "Tls",
    "UnavailableError",
]

__version__ = "0.1.0"
