from __future__ import annotations

import logging

import pytest

from gureum.agent.once import REASONS_MAX, Once


def test_each_reason_is_logged_once_until_it_went_well(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(logging.getLogger("x"))
    for reason in ("a", "b", "a", "b"):
        once.warn(reason)
    assert caplog.messages == ["a", "b"]
    once.done()
    once.warn("a")
    assert caplog.messages == ["a", "b", "a"]


def test_few_reasons_are_kept() -> None:
    once = Once(logging.getLogger("x"))
    for number in range(10 * REASONS_MAX):
        once.warn(str(number))
    assert len(once._said) <= REASONS_MAX
