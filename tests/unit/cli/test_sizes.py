from __future__ import annotations

from typing import Any

import pytest
import typer

from gureum.cli import output, sizes

SETTLED = {
    "InstanceId": "i-1",
    "InstanceType": "t3.medium",
    "State": "settled",
    "TypeVCpus": 2,
    "TypeMemoryMiB": 4096,
    "VCpus": 2,
    "MemoryMiB": 4096,
    "VCpusMax": 4,
    "MemoryMiBMax": 8192,
}
RESIZING = {**SETTLED, "State": "resizing", "MemoryMiB": 1024}
STUCK = {**RESIZING, "State": "stuck", "Message": "it does nothing"}
MOVING = {**RESIZING, "State": "moving", "TargetInstanceType": "t3.large", "MigrationId": "mig-1"}
WAITING = {**SETTLED, "State": "waiting", "TargetInstanceType": "t3.large", "Message": "a host is woken"}
STOPPED = {key: SETTLED[key] for key in ("InstanceId", "InstanceType", "TypeVCpus", "TypeMemoryMiB")}


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        (SETTLED, ("settled", "2 of 2", "4096 of 4096", "4, 8192 MiB", "")),
        (STUCK, ("stuck", "2 of 2", "1024 of 4096", "4, 8192 MiB", "it does nothing")),
        ({**STOPPED, "State": "stopped"}, ("stopped", 2, 4096, "-", "")),
    ],
)
def test_rows(size: dict[str, Any], cells: tuple[object, ...]) -> None:
    assert sizes._row(size)[2:] == cells


def resize(
    monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any], wait: bool = False, type: str = "t3.medium"
) -> list[dict[str, Any]]:
    left, asked = list(answers), []

    def call(state_dir: object, operation: str, **input: Any) -> dict[str, Any]:
        asked.append(input)
        found = left.pop(0)
        return {"InstanceSize": found} if operation == "resize_instance" else {"InstanceSizes": [found]}

    monkeypatch.setattr(sizes, "call", call)
    monkeypatch.setattr(output, "LOOK_SECONDS", 0)
    sizes.resize("i-1", type, move=False, wait=wait)
    assert not left
    return asked


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (SETTLED, "i-1: a t3.medium, with 2 vCPUs and 4096 MiB\n"),
        (RESIZING, "i-1: becomes a t3.medium, and has 2 vCPUs and 1024 MiB\n"),
        (MOVING, "i-1: migrates to become a t3.large (mig-1)\n"),
        (WAITING, "i-1: is to become a t3.large: a host is woken\n"),
    ],
)
def test_what_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: dict[str, Any],
    words: str,
) -> None:
    [asked] = resize(monkeypatch, size)
    assert asked == {"InstanceId": "i-1", "InstanceType": "t3.medium", "MoveIfFull": False}
    assert capsys.readouterr().out == words


def test_it_is_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resize(monkeypatch, MOVING, RESIZING, SETTLED, wait=True)
    with pytest.raises(typer.Exit):
        resize(monkeypatch, RESIZING, STUCK, wait=True)
    assert "has 2 vCPUs and 1024 MiB: it does nothing" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        # Its migration failed: it is what it was.
        resize(monkeypatch, MOVING, SETTLED, wait=True, type="t3.large")
    assert "gureum events" in capsys.readouterr().err
