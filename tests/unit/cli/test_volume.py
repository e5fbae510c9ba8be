from __future__ import annotations

from typing import Any

import pytest

from gureum.cli import output, volume
from gureum.cli.volume import row, share

MOVING = {
    "VolumeId": "vol-1",
    "PoolName": "local",
    "State": "moving",
    "SourcePoolName": "local",
    "TargetPoolName": "gureum",
    "DoneBytes": 1 << 20,
    "TotalBytes": 4 << 20,
}
DONE = {**MOVING, "PoolName": "gureum", "State": "completed", "Cleaning": ["local"]}
FAILED = {**MOVING, "State": "failed", "Message": "no room"}


def test_how_far_it_is() -> None:
    assert share(MOVING) == "1.0 MiB of 4.0 MiB"
    assert share({**MOVING, "TotalBytes": 0}) == "begins"
    assert share(DONE) == "-"


def test_rows() -> None:
    assert row(MOVING)[1:] == ("local", "gureum", "moving", "1.0 MiB of 4.0 MiB", "")
    assert row(DONE)[-1] == "its copy in local is being removed"
    assert row(FAILED)[-1] == "no room"


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (MOVING, "vol-1: on its way from local to gureum\n"),
        (DONE, "vol-1: in gureum\n"),
        (FAILED, "vol-1: stays in local: no room\n"),
    ],
)
def test_what_is_said(capsys: pytest.CaptureFixture[str], move: dict[str, Any], words: str) -> None:
    volume.report(move, as_json=False)
    assert capsys.readouterr().out == words


def test_it_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([MOVING, DONE])

    def call(state_dir: Any, operation: str, **parameters: Any) -> Any:
        assert (operation, parameters) == ("describe_volume_moves", {"VolumeIds": ["vol-1"]})
        return {"VolumeMoves": [next(answers)]}

    monkeypatch.setattr(volume, "call", call)
    monkeypatch.setattr(output, "LOOK_SECONDS", 0.0)
    assert volume.ended(None, MOVING)["State"] == "completed"


def test_without_waiting_it_says_how_to_follow_a_move(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(volume, "call", lambda *_, **__: {"VolumeMove": MOVING})
    volume.move("vol-1", "gureum")
    said = capsys.readouterr()
    assert said.out == "vol-1: on its way from local to gureum\n"
    assert "gureum volume moves" in said.err
    volume.move("vol-1", "gureum", as_json=True)
    assert capsys.readouterr().err == ""
