from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.env import Env
from gureum.network.tokens import KEY_BYTES, Tokens, load_key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_holds_for_its_instance_and_time() -> None:
    clock = Clock()
    tokens = Tokens(Env(clock, Random(1)), b"k" * KEY_BYTES)
    token = tokens.issue("i-1", 60)
    assert tokens.valid("i-1", token)
    assert not tokens.valid("i-2", token)
    clock.now += 59
    assert tokens.valid("i-1", token)
    clock.now += 1
    assert not tokens.valid("i-1", token)


def test_a_token_outlives_the_process_but_not_the_key() -> None:
    env = Env(Clock(), Random(1))
    token = Tokens(env, b"k" * KEY_BYTES).issue("i-1", 60)
    assert Tokens(env, b"k" * KEY_BYTES).valid("i-1", token)
    assert not Tokens(env, b"x" * KEY_BYTES).valid("i-1", token)


def test_an_altered_token_is_refused() -> None:
    tokens = Tokens(Env(Clock(), Random(1)), b"k" * KEY_BYTES)
    token = tokens.issue("i-1", 60)
    for at in range(len(token)):
        assert not tokens.valid("i-1", token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])


@given(st.text())
def test_any_text(text: str) -> None:
    assert not Tokens(Env(Clock(), Random(1)), b"k" * KEY_BYTES).valid("i-1", text)


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = load_key(path, Env())
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, Env()) == key
    path.write_bytes(b"torn")
    assert len(load_key(path, Env())) == KEY_BYTES


def test_a_key_that_cannot_be_kept_is_good_for_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = tmp_path / "absent" / "imds.key"
    assert len(load_key(absent, Env())) == KEY_BYTES
    assert "will not outlive this agent" in caplog.text
