"""NumPy arrays as the API's tensors, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _api

_TENSOR = _api.message("laplace.v1.Tensor")
_CODES: dict[np.dtype[Any], int] = {
    np.dtype("<f4"): _api.enum_value("DataType", "float32"),
    np.dtype("<f8"): _api.enum_value("DataType", "float64"),
    np.dtype("u1"): _api.enum_value("DataType", "uint8"),
    np.dtype("<i8"): _api.enum_value("DataType", "int64"),
}
_DTYPES: dict[int, np.dtype[Any]] = {code: dtype for dtype, code in _CODES.items()}


def as_inputs(x: ArrayLike) -> NDArray[Any]:
    """Rows for a network: float32, float64 or uint8 as they are, other integers and float16 as float32.
    Takes anything that NumPy can read, such as a torch tensor on the CPU. ValueError otherwise."""
    array = np.asarray(x)
    if array.dtype.newbyteorder("<") in (np.dtype("<f4"), np.dtype("<f8"), np.dtype("u1")):
        return _little(array)
    if array.dtype.kind in "iu" or array.dtype == np.float16:
        return _little(array.astype(np.float32))
    raise ValueError(f"inputs: expected an array of numbers, got dtype {array.dtype}")


def as_targets(y: ArrayLike) -> NDArray[Any]:
    """Class labels [N] of any integer type as int64; regression targets, or labels of 0 and 1 for each
    of C outputs, [N, C] as float32 or float64. ValueError otherwise."""
    array = np.asarray(y)
    if array.dtype.kind in "iu":
        if array.ndim != 1:
            raise ValueError(
                f"targets: expected one class label for each row, got {array.dtype} of shape "
                f"{array.shape}; targets of several outputs are floats"
            )
        return _little(array.astype(np.int64))
    if array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        return _little(array)
    raise ValueError(f"targets: expected integer labels or floats, got dtype {array.dtype}")


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def to_tensor(array: NDArray[Any]) -> Any:
    return _TENSOR(dtype=_CODES[array.dtype], shape=array.shape, raw_values=array.tobytes())


def from_tensor(tensor: Any) -> NDArray[Any]:
    """A copy that may be written to; empty [0] for a tensor that was not sent."""
    if not tensor.dtype:
        return np.zeros(0, np.float32)
    if tensor.float32_values:
        flat = np.array(tensor.float32_values, np.float32)
    else:
        flat = np.frombuffer(tensor.raw_values, _DTYPES[tensor.dtype]).copy()
    return flat.reshape(tuple(tensor.shape))
