"""What agent and warden write for each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from gureum.agent.warden import notes
from gureum.agent.warden.notes import BYTES, STATE, WORD, Note


def test_the_last_one_counts(tmp_path: Path) -> None:
    writer, reader = Note(str(tmp_path / "dir"), WORD), Note(str(tmp_path / "dir"), WORD)
    assert reader.read() == {}
    writer.write(sent=12.5, text="a" * 500)
    writer.write(sent=13.5)
    assert reader.read()["sent"] == 13.5
    assert set(reader.read()) == {"sent", "boot"}
    writer.close()


def test_one_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    """The warden ended, and there is another: the agent is the same."""
    note = Note(str(tmp_path / "dir"), WORD)
    note.write(sent=1.0)
    notes.remove(str(tmp_path / "dir"))
    assert not (tmp_path / "dir").exists()
    note.write(sent=2.0)
    assert Note(str(tmp_path / "dir"), WORD).read()["sent"] == 2.0
    note.close()


def test_the_longest_that_a_warden_writes_fits(tmp_path: Path) -> None:
    note = Note(str(tmp_path), STATE)
    note.write(lease=12345.678901, held=True, until=0.0, fence=10**13, why="ö" * 200, error="ö" * 200, pid=1)
    assert note.read()["why"] == "ö" * 200
    note.close()


def test_what_is_half_written_is_nothing(tmp_path: Path) -> None:
    note = Note(str(tmp_path), STATE)
    note.write(until=1.0)
    data = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(data.replace(b"1.0", b"2.0"))
    assert note.read() == {}
    (tmp_path / STATE).write_bytes(b"")
    assert note.read() == {}
    note.close()


def test_what_another_boot_left_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Note(str(tmp_path), WORD)
    note.write(sent=1.0)
    note.close()
    monkeypatch.setattr(notes, "boot_id", lambda: "another")
    assert Note(str(tmp_path), WORD).read() == {}


def test_a_note_has_a_bound(tmp_path: Path) -> None:
    note = Note(str(tmp_path), WORD)
    with pytest.raises(ValueError, match="too long"):
        note.write(text="a" * BYTES)
    note.close()


def test_hosts_have_directories_of_their_own() -> None:
    assert notes.directory("/a") != notes.directory("/b")
    assert notes.directory("/a/../a") == notes.directory("/a")


def test_the_clock_goes_on() -> None:
    assert 0 < notes.now() <= notes.now()
