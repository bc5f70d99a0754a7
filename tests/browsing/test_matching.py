"""What a search finds."""

from __future__ import annotations

import pytest

from convinspect.browsing.matching import found

NAMES = ["encoder.0.conv", "encoder.10.conv", "encoder.10.Norm", "decoder.conv_out", "head[0].fc"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", NAMES),
        ("   ", NAMES),
        ("conv", NAMES[:2] + NAMES[3:4]),
        ("CONV", []),
        ("norm", ["encoder.10.Norm"]),
        ("Norm", ["encoder.10.Norm"]),
        ("10 conv", ["encoder.10.conv"]),
        ("conv 10", ["encoder.10.conv"]),
        ("enc*conv", NAMES[:2]),
        ("encoder.?.conv", NAMES[:1]),
        ("[1].", []),
        ("dcvt", ["decoder.conv_out"]),
        ("head[", ["head[0].fc"]),
        ("nothing like it", []),
    ],
)
def test_words_globs_and_characters_in_order(query: str, names: list[str]) -> None:
    assert [NAMES[place] for place in found(NAMES, query)] == names
