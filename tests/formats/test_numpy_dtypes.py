"""NumPy's names of dtypes, against NumPy and PyTorch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from convinspect.formats.numpy_dtypes import EXTENSIONS, array_dtype, extension_dtype, told

CODES = ["?", "b", "h", "i", "l", "q", "B", "H", "I", "L", "e", "f", "d", "F", "D"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", CODES)
def test_a_dtype_of_numbers_is_that_of_pytorch(code: str, order: str) -> None:
    native = np.dtype(code)
    dtype = np.dtype(order + native.str[1:])
    found = array_dtype(dtype.str)
    expected = str(torch.from_numpy(np.zeros(1, native)).dtype).removeprefix("torch.")
    assert found is not None
    assert (found.name, found.itemsize) == (expected, dtype.itemsize)
    assert found.byteorder == ("big" if order == ">" and dtype.itemsize > 1 else "little")
    assert array_dtype(dtype.str[1:], dtype.str[0]) == found


def test_one_float_of_8_bits_has_a_name_in_numpy() -> None:
    named = [name for name in sorted(EXTENSIONS) if np.dtype(getattr(ml_dtypes, name)).str[1:] == "f1"]
    assert named == ["float8_e5m2"]
    assert array_dtype("<f1") == array_dtype("|f1") == extension_dtype("float8_e5m2", 1)


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_a_dtype_of_ml_dtypes_is_that_of_pytorch(name: str) -> None:
    found = extension_dtype(name, np.dtype(getattr(ml_dtypes, name)).itemsize)
    assert found is not None
    assert found.itemsize == getattr(torch, name).itemsize
    assert extension_dtype(name, 4) is None


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("O", "Python objects"),
        ("U3", "text"),
        ("S5", "text"),
        ("M8[ns]", "dates"),
        ("m8", "time spans"),
        ("V8", "raw bytes or records"),
        ("longdouble", "extended-precision floats"),
        ("clongdouble", "extended-precision complex numbers"),
    ],
)
def test_other_dtypes_are_told_in_words(dtype: str, words: str) -> None:
    text = np.dtype(dtype).str
    assert array_dtype(text) is None
    assert told(text) == words


@pytest.mark.parametrize("text", ["", "<", "f", "f3", "f44", "i16", "b2", "?1", "<f4 ", "f4\n", "<<f4", "9", "x" * 99])
def test_what_is_no_dtype_is_none(text: str) -> None:
    assert array_dtype(text) is None
    assert told(text) in ("", "extended-precision floats")
