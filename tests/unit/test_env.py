from __future__ import annotations

import random
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from gureum.env import CRASH_MARK_VARIABLE, CRASH_VARIABLE, Env


def seeded() -> Env:
    return Env(lambda: 1_750_000_000.1236, random.Random(1))


def test_time_is_the_clocks_in_whole_milliseconds() -> None:
    assert seeded().now() == 1_750_000_000.1236
    assert seeded().utcnow().isoformat() == "2025-06-15T15:06:40.124000+00:00"


def test_ids_look_like_ec2s_and_follow_the_seed() -> None:
    env = seeded()
    first, second = env.new_id("i"), env.new_id("i")
    assert re.fullmatch(r"i-[0-9a-f]{17}", first)
    assert first != second
    assert seeded().new_id("i") == first
    assert len(env.token(5)) == 5


def test_uuids_are_of_version_4() -> None:
    env = seeded()
    for _ in range(50):
        made = uuid.UUID(env.uuid())
        assert (made.version, made.variant) == (4, uuid.RFC_4122)


def test_a_crash_point_is_nothing_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CRASH_VARIABLE, raising=False)
    Env().crashpoint("here")
    seen: list[str] = []
    Env(crashpoint=seen.append).crashpoint("there")
    assert seen == ["there"]


def test_a_named_crash_point_kills_once_with_a_mark(tmp_path: Path) -> None:
    program = (
        "from gureum.env import Env; e = Env(); e.crashpoint('other'); e.crashpoint('here'); print('on')"
    )
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        CRASH_VARIABLE: "here,elsewhere",
        CRASH_MARK_VARIABLE: str(tmp_path / "mark"),
    }
    runs = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=60)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [-9, 0]
    assert runs[1].stdout == b"on\n"
