"""What `gureum status` says of hosts that may run nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gureum.agent.warden import notes
from gureum.cli import status
from gureum.cli.cloud import Cloud


def test_hosts_whose_machines_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "DIRECTORY", str(tmp_path / "notes"))
    state = tmp_path / "state"
    directories = [state, state / "hosts" / "1"]
    for directory, is_held in zip(directories, (False, True), strict=True):
        (directory / "run").mkdir(parents=True)
        note = notes.Note(notes.directory(str(directory)), notes.STATE)
        note.write(held=is_held, why="the manager was not reached yet")
        note.close()
    assert status.held(Cloud(state)) == {str(directories[1]): "the manager was not reached yet"}
