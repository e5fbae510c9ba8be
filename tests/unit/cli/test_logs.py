from pathlib import Path

import pytest

from gureum.cli import logs
from gureum.cli.logs import Follower, follow, show


def test_show_marks_lines_where_there_are_several_logs(tmp_path: Path) -> None:
    (tmp_path / "manager.log").write_text("one\ntwo\n")
    (tmp_path / "agent.log").write_text("three\n")
    lines: list[str] = []
    show(tmp_path, ["manager", "agent"], 1, lines.append)
    assert lines == ["manager    | two", "agent      | three"]
    lines.clear()
    show(tmp_path, ["manager"], 5, lines.append)
    assert lines == ["one", "two"]


def test_follower_gives_whole_lines_once(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("before\n")
    follower = Follower(log)
    with open(log, "a") as writer:
        writer.write("on")
        writer.flush()
        assert follower.new_lines() == []
        writer.write("e\ntwo\n")
    assert follower.new_lines() == ["one", "two"]
    assert follower.new_lines() == []
    follower.close()


def test_follower_starts_over_where_the_log_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("a long line before\n")
    follower = Follower(log)
    log.write_text("new\n")
    assert follower.new_lines() == ["new"]
    follower.close()


def test_follower_waits_for_a_log_that_is_not_there(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    follower = Follower(log)
    assert follower.new_lines() == []
    log.write_text("first\n")
    assert follower.new_lines() == ["first"]
    follower.close()


def test_follow_until_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "agent.log"
    log.write_text("old\n")
    lines: list[str] = []

    def pause(_seconds: float) -> None:
        if len(lines) == 2:
            raise KeyboardInterrupt
        with open(log, "a") as writer:
            writer.write("new\n")

    monkeypatch.setattr(logs.time, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        follow(tmp_path, ["agent"], 10, lines.append)
    assert lines == ["old", "new"]
