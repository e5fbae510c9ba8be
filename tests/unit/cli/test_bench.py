"""`gureum bench`: what it measures, prints and exits with; the measuring itself is not tested by timing."""

import json
from pathlib import Path

import pytest

from gureum.bench.figures import Figure, Promise, Say
from gureum.bench.servers import BenchError
from gureum.cli import bench
from gureum.cli.output import CliError

KEPT = Figure(name="kept", value=1, unit="s", promise=Promise(limit=1))
MISSED = Figure(name="missed", value=2, unit="s", promise=Promise(limit=1))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Which measures ran, and whether quickly."""
    calls: list[tuple[str, bool]] = []

    def measure(name: str, *found: Figure) -> bench.Measure:
        def run(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
            assert directory.is_dir()
            say("measuring")
            calls.append((name, quick))
            return list(found)

        return run

    def broken(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
        raise BenchError("no peer")

    measures = {"good": measure("good", KEPT), "bad": measure("bad", KEPT, MISSED), "broken": broken}
    monkeypatch.setattr(bench, "MEASURES", measures)
    monkeypatch.setattr(bench, "PARTS", {"part": measure("part", KEPT)})
    return calls


def test_all_promises_kept(asked: list[tuple[str, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run(["good"], as_json=False) == 0
    output = capsys.readouterr()
    assert "kept" in output.out
    assert "1 of 1 promises kept" in output.err
    assert asked == [("good", False)]


def test_a_missed_promise_fails_and_is_named(
    asked: list[tuple[str, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(["bad", "good", "bad", "--quick"], as_json=False) == 1
    output = capsys.readouterr()
    assert "NO" in output.out
    assert "missed: missed" in output.err
    assert asked == [("bad", True), ("good", True)]


def test_a_part_is_measured_only_where_it_is_asked_for(
    asked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.run(["part"], as_json=False) == 0
    monkeypatch.delitem(bench.MEASURES, "broken")
    bench.run([], as_json=False)
    assert [name for name, _ in asked] == ["part", "good", "bad"]


def test_json(asked: list[tuple[str, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    bench.run(["bad"], as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["met"]) for each in document["figures"]] == [
        ("kept", True),
        ("missed", False),
    ]
    assert document["machine"]["cores"]


def test_unknown_names(asked: list[tuple[str, bool]]) -> None:
    with pytest.raises(CliError, match="nope"):
        bench.run(["nope"], as_json=False)
    assert asked == []


def test_what_cannot_be_measured_is_an_error(asked: list[tuple[str, bool]]) -> None:
    with pytest.raises(CliError, match="no peer"):
        bench.run(["broken"], as_json=False)
