"""The matrices of numbers in a MATLAB file, version 7 and earlier.

scipy's reader takes types and sizes as they stand in the file, and ends the process with a
segmentation fault where a byte is damaged; here they are looked at. The format is MATLAB's "Level 5
MAT-File Format":

    file     128 bytes of header, then elements
    element  type, number of bytes, data, filled up to 8 bytes
    matrix   an element of elements: flags (with its class), sizes, name, then the values
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import DomainError, UserError
from common.text import read_bytes

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

HEADER = 128  # bytes
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15  # types of elements
VALUES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
SPARSE = 5  # a class of matrices, as is what follows
NUMBERS = range(6, 16)  # double, single, and whole numbers of 8 to 64 bits
COMPLEX = 0x800  # a flag: the imaginary parts follow


def read_matrices(path: Path) -> dict[str, Any]:
    """Return the variables of a .mat file by name.

    They are arrays and SciPy's sparse matrices, and None for what holds no real numbers.
    DomainError for a file that is missing, damaged, of another format, or holds a name twice.
    """
    try:
        data = read_bytes(path)
    except UserError as error:
        raise DomainError(str(error)) from error
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise DomainError(f"{path}: MATLAB 7.3 files are not supported; save it with -v7")

    try:
        if _is_level_4(data):
            from scipy.io import loadmat

            return loadmat(path)
        return _variables(data)
    except Exception as error:  # struct, zlib, NumPy and scipy raise many kinds for a damaged file
        raise DomainError(f"{path}: not a readable MATLAB file ({error})") from error


def _is_level_4(data: bytes) -> bool:
    """Level 4 files have no header.

    Of the first four bytes, text in a header, one is zero there.
    """
    return 0 in data[:4]


def _variables(data: bytes) -> dict[str, Any]:
    """Names and values; ValueError for an element that is none, and for a name that comes twice."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:HEADER])
    if order is None:
        raise ValueError("it has no header of one")

    variables: dict[str, Any] = {}
    for kind, part in _elements(data[HEADER:], order, is_padded=False):
        if kind == COMPRESSED:
            kind, part = next(_elements(zlib.decompress(part), order))
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} in the place of a matrix")
        name, value = _variable(part, order)
        if name in variables:
            raise ValueError(f"the variable {name!r} stands there twice")
        variables[name] = value
    return variables


def _variable(part: bytes, order: str) -> tuple[str, Any]:
    """Name and value of the elements of a matrix."""
    elements = list(_elements(part, order))
    if [kind for kind, _ in elements[:3]] != [UINT32, INT32, INT8]:
        raise ValueError("a variable without flags, sizes and name")
    flags = int(np.frombuffer(elements[0][1], f"{order}u4")[0])
    sizes = np.frombuffer(elements[1][1], f"{order}i4").tolist()
    name = elements[2][1].decode("latin1")

    matrix_class = flags & 0xFF
    is_sparse = matrix_class == SPARSE
    if flags & COMPLEX or not (is_sparse or matrix_class in NUMBERS):
        return name, None

    parts = [_numbers(kind, values, order) for kind, values in elements[3:]]
    expected = 3 if is_sparse else 1
    if len(parts) != expected or len(sizes) < 2 or min(sizes) < 0:
        raise ValueError(f"the variable {name!r} is no matrix")
    if is_sparse:
        rows, starts, values = parts
        return name, _sparse(rows, starts, values, sizes)
    return name, parts[0].reshape(sizes, order="F")


def _sparse(
    rows: np.ndarray, starts: np.ndarray, values: np.ndarray, sizes: list[int]
) -> "csc_matrix":
    """Read a sparse matrix.

    It is stored as row and value of every entry, and where each column starts; more entries may be
    reserved.

    ValueError where a row lies outside of it: scipy would write there.
    """
    from scipy.sparse import csc_matrix

    height, width = sizes
    count = int(starts[-1])
    rows = rows[:count].astype(np.int64)
    is_ordered = len(starts) == width + 1 and starts[0] == 0 and (starts[1:] >= starts[:-1]).all()
    is_inside = ((rows >= 0) & (rows < height)).all()
    if not is_ordered or not is_inside or len(rows) != count or len(values) < count:
        raise ValueError("the entries of a sparse matrix lie outside of it")
    return csc_matrix((values[:count], rows, starts.astype(np.int64)), shape=sizes)


def _numbers(kind: int, data: bytes, order: str) -> np.ndarray:
    """The numbers of an element, in the byte order of this machine."""
    if kind not in VALUES:
        raise ValueError(f"values of type {kind}")
    values = np.frombuffer(data, f"{order}{VALUES[kind]}")
    return values.astype(values.dtype.newbyteorder("="))


def _elements(data: bytes, order: str, *, is_padded: bool = True) -> Iterator[tuple[int, bytes]]:
    """Return type and bytes of the elements, one after the other.

    ValueError where one reaches beyond the end. Up to four bytes of data may stand in the tag
    itself. The outermost elements fill themselves up.
    """
    place = 0
    while place < len(data):
        tag = data[place : place + 8]
        if len(tag) < 8:
            raise ValueError("cut short in a tag")
        kind, size = struct.unpack(f"{order}II", tag)
        if kind >> 16:
            size = kind >> 16
            if size > 4:
                raise ValueError(f"a tag that holds {size} bytes")
            yield kind & 0xFFFF, tag[4 : 4 + size]
            place += 8
            continue

        begin = place + 8
        if begin + size > len(data):
            raise ValueError(f"an element of {size} bytes, of which {len(data) - begin} are there")
        yield kind, data[begin : begin + size]
        place = begin + size
        if is_padded:
            place += -size % 8
