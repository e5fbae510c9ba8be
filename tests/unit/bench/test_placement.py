"""The measurement on a small cloud: that it places what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gureum.bench import placement
from gureum.bench.servers import BenchError


def test_all_figures_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HOSTS": 6,
        "HOT_HOSTS": 2,
        "INSTANCES": 30,
        "FEW": 6,
        "PLACED": 80,
        "DECISIONS": 4,
    }.items():
        monkeypatch.setattr(placement, name, value)
    said: list[str] = []
    figures = placement.measure(tmp_path, said.append, quick=True)
    assert [line.partition(":")[0] for line in said] == ["20 placed besides 6", "20 placed besides 30"]
    assert all(figure.value > 0 for figure in figures)
    *promised, balanced = [figure.name for figure in figures if figure.promise]
    assert balanced.endswith(" moves decided that relieve 2 hot hosts")
    assert promised == [
        "placements, 6 hosts, 30 instances",
        "CPU time of a placement",
        "a lost host's 25 instances placed elsewhere",
    ]


def test_what_does_not_fit_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOSTS": 3, "INSTANCES": 6, "FEW": 3, "DECISIONS": 1}.items():
        monkeypatch.setattr(placement, name, value)
    monkeypatch.setattr(placement, "PLACED", 4 * 3 * 60)
    with pytest.raises(BenchError, match="were not placed"):
        placement.measure(tmp_path, lambda text: None, quick=True)
