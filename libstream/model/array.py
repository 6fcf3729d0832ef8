"""Arrays as parameters: read-only, compared and hashed by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np


def digest_of(parts: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> str:
    """sha256 (hex) over names, dtypes, shapes and contents of arrays."""
    h = hashlib.sha256()
    for name, array in parts:
        a = np.ascontiguousarray(array)
        h.update(f"{name}|{a.dtype.str}|{a.shape}|".encode())
        h.update(a.tobytes() if a.dtype.hasobject else a.data.cast("B") if a.size else b"")
    return h.hexdigest()


class Array:
    """A read-only array that can be a parameter of a UDF. Equal when shape, dtype and contents are.

    Behaves like its ndarray where numpy is asked (`np.asarray(a)`, `a[...]`, `a.shape`, `a.dtype`); `.data` is the ndarray.
    """

    data: np.ndarray[tuple[int, ...], np.dtype[Any]]
    """The values: read-only, C order, native byte order."""

    def __init__(self, data: Any) -> None:
        array = np.array(data.data if isinstance(data, Array) else data)
        if array.dtype.hasobject or array.dtype.kind not in "biufcV":
            raise TypeError(f"an Array parameter holds numbers, got dtype {array.dtype}")
        array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)
        array.setflags(write=False)
        self.data = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array, in native byte order."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of dtype, shape and contents."""
        return digest_of([("array", self.data)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy or (dtype is not None and dtype != self.data.dtype):
            return self.data.astype(dtype if dtype is not None else self.data.dtype)
        return self.data

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __len__(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Array(shape={self.shape}, dtype={self.dtype}, sha256={self.digest[:12]})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Array, (self.data,))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def to_array(value: Any) -> Array:
            if isinstance(value, Array):
                return value
            try:
                return cls(value)
            except (TypeError, ValueError) as exc:
                raise ValueError(f"not an array of numbers: {exc}") from exc

        return core_schema.no_info_plain_validator_function(
            to_array,
            metadata={"pydantic_js_functions": [lambda _s, _h: {"type": "array", "format": "ndarray"}]},
            serialization=core_schema.plain_serializer_function_ser_schema(lambda a: a.data.tolist()),
        )
