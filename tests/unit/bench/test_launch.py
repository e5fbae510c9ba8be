"""Waiting for the first line."""

import threading
from pathlib import Path

import pytest

from gureum.bench import launch
from gureum.bench.fleet import percentile
from gureum.bench.servers import BenchError


def test_the_last_console_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("BIOS\nhello there\n")
    writer = threading.Timer(0.05, second.write_text, ["BIOS\nhello there\n"])
    writer.start()
    found = launch.last_line([first, second], "hello")
    writer.join()
    assert second.exists()
    assert found > 0


def test_a_line_that_never_comes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LINE_SECONDS_MAX", 0.01)
    (tmp_path / "console").write_text("BIOS\n")
    with pytest.raises(BenchError, match="no 'hello'"):
        launch.last_line([tmp_path / "console"], "hello")


@pytest.mark.parametrize(("share", "found"), [(0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentile(share: float, found: int) -> None:
    assert percentile(range(100, 0, -1), share) == found
