"""Pickle files that hold plain data alone: lists, dicts, texts, numbers, and NumPy arrays of them.

CIFAR's batches and PLCIFAR10's answers are pickles. A pickle may name any function of Python to be
called, and hand NumPy a state that NumPy takes as it is, so nothing is imported or called here: the
few names that arrays need stand for the functions and classes of this file, which check what they
are given.
"""

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.aliases import one_module
from common.cli import UserError
from common.text import read_bytes

one_module(__name__, "cavl.data_pickle")

_KINDS = "biufSUO"  # of NumPy's types: numbers, bytes, text, and lists of other plain data
_BYTE_ORDERS = ("<", ">", "=", "|")

Order = Literal["C", "F"]  # rows first, or columns


def read_pickle(path: Path) -> object:
    """Return the plain data of a pickle file of any protocol.

    Bytes of Python 2 become text, one character a byte. UserError where the file is absent,
    damaged, or holds anything else; nothing of it is executed.
    """
    data = read_bytes(path)
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a pickle of plain data ({error}); fetch it again") from error
    except Exception as error:  # the unpickler raises a different class for every kind of damage
        problem = f"{path}: not a pickle of plain data, or damaged ({type(error).__name__})"
        raise UserError(f"{problem}; fetch it again") from error


class _PlainUnpickler(pickle._Unpickler):
    """Python's own unpickler, in the version that is written in Python.

    The one in C reserves 64 GB where one byte of an index is damaged.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> object:
        """What stands for a name of NumPy's; UnpicklingError for every other name."""
        if (module, name) not in _STANDS_FOR:
            raise pickle.UnpicklingError(f"{module}.{name} is not plain data")
        return _STANDS_FOR[module, name]

    def load_build(self) -> None:
        """Give a state to an array or a type.

        Python's own would set attributes of whatever stands there.
        """
        target = self.stack[-2]
        if not isinstance(target, _Type | _Array):
            raise pickle.UnpicklingError(f"a state for a {type(target).__name__} is not plain data")
        state = self.stack.pop()
        target.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


class _Type:
    """Stands for numpy.dtype: the type of an array's elements."""

    def __init__(self, code: str, *_copy: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of {self.dtype} is not plain data")

    def __setstate__(self, state: tuple) -> None:
        """The byte order; the rest of the state is that of other kinds."""
        order = state[1]
        if order not in _BYTE_ORDERS:
            raise pickle.UnpicklingError("a byte order that is none")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """Stands for numpy.ndarray while its state is to come."""

    def __setstate__(self, state: tuple) -> None:
        """The elements (version, shape, type, whether columns come first, bytes)."""
        _, shape, kind, columns_first, data = state
        order: Order = "F" if columns_first else "C"
        if kind.dtype.kind == "O":
            values = _of_list(data, shape, order)
            elements: object = values.flatten().tolist()
        else:
            values = _from_buffer(data, kind, shape, order)
            elements = values.tobytes()
        checked: Any = (1, values.shape, values.dtype, False, elements)
        super().__setstate__(checked)


def _reconstruct(_class: object, _shape: object, _code: object) -> _Array:
    """An empty array, to be given its state."""
    return np.ndarray.__new__(_Array, 0)


def _of_list(data: object, shape: tuple[int, ...], order: Order) -> np.ndarray:
    """An array of objects out of their list."""
    if not isinstance(data, list):
        raise pickle.UnpicklingError("an array of objects without their list")
    values = np.empty(len(data), object)
    for place, value in enumerate(data):
        values[place] = value
    return values.reshape(shape, order=order)


def _from_buffer(
    data: bytes | str, kind: _Type, shape: tuple[int, ...], order: Order
) -> np.ndarray:
    """An array out of the bytes of its elements; bytes of Python 2 come as text."""
    if isinstance(data, str):
        data = data.encode("latin1")
    values = np.frombuffer(bytes(data), kind.dtype)
    return values.reshape(shape, order=order)


def _scalar(kind: _Type, data: bytes | str) -> Any:
    """A number out of its bytes."""
    return _from_buffer(data, kind, (1,), "C").tolist()[0]


def _encode(text: str, encoding: str) -> bytes:
    """Bytes that protocol 2 of Python 3 writes as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as text in {encoding!r:.40}")
    return text.encode("latin1")


def _names() -> dict[tuple[str, str], object]:
    """(module, name) -> what stands for it, under the module names before and from NumPy 2 on."""
    names: dict[tuple[str, str], object] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }
    for package in ("numpy.core", "numpy._core"):
        names[f"{package}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{package}.multiarray", "scalar"] = _scalar
        names[f"{package}.numeric", "_frombuffer"] = _from_buffer
    return names


_STANDS_FOR = _names()
