from __future__ import annotations

import pytest

from gureum.cli.net import split_port
from gureum.cli.output import CliError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i-0123456789abcdef0:22", ("i-0123456789abcdef0", 22)),
        ("i-0123456789abcdef0", ("i-0123456789abcdef0", None)),
        ("10.0.1.5:443", ("10.0.1.5", 443)),
        ("fd00::5", ("fd00::5", None)),
        ("[fd00::5]:443", ("fd00::5", 443)),
        ("[fd00::5]", ("fd00::5", None)),
    ],
)
def test_destinations(text: str, expected: tuple[str, int | None]) -> None:
    assert split_port(text) == expected


@pytest.mark.parametrize("text", ["10.0.1.5:ssh", "10.0.1.5:65536", "[fd00::5:443"])
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(CliError, match="is no destination"):
        split_port(text)
