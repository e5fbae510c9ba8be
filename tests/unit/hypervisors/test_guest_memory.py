"""What a guest says that it uses of its memory, asked of a QEMU that is played."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.guest_memory import POLL_SECONDS, STALE_SECONDS, GuestMemory
from gureum.hypervisors.qemu.monitor import Monitor

MIB = 1 << 20
NOW = 1_750_000_000
SAID = {"stat-total-memory": 960 * MIB, "stat-available-memory": 700 * MIB, "stat-free-memory": 9 * MIB}


class Qemu:
    def __init__(self, answer: object, fails: bool = False) -> None:
        self.answer, self.fails = answer, fails
        self.polled: list[int] = []

    async def execute(self, command: str, arguments: Mapping[str, Any], seconds: float) -> object:
        if self.fails:
            raise HypervisorError("it is gone")
        if command == "qom-set":
            self.polled.append(arguments["value"])
            return {}
        return self.answer


def memory(qemu: Qemu) -> GuestMemory:
    return GuestMemory(Env(lambda: NOW, random.Random(1), lambda _: None), cast(Monitor, qemu))


async def test_what_is_used_is_without_what_would_be_given_up() -> None:
    qemu = Qemu({"last-update": NOW - POLL_SECONDS, "stats": SAID})
    guest = memory(qemu)
    assert [await guest.used_bytes() for _ in range(2)] == [260 * MIB] * 2
    assert qemu.polled == [POLL_SECONDS]


NOTHING = 2**64 - 1


@pytest.mark.parametrize(
    "answer",
    [
        {"last-update": 0, "stats": dict.fromkeys(SAID, NOTHING)},
        {"last-update": NOW - STALE_SECONDS - 1, "stats": SAID},
        {"last-update": NOW, "stats": {**SAID, "stat-available-memory": NOTHING}},
        {"last-update": NOW, "stats": dict.fromkeys(SAID, NOTHING)},
        {"last-update": NOW, "stats": {**SAID, "stat-available-memory": 961 * MIB}},
        {"last-update": NOW, "stats": {"stat-total-memory": 960 * MIB}},
        {"last-update": NOW},
        None,
    ],
)
async def test_what_is_not_said(answer: object) -> None:
    assert await memory(Qemu(answer)).used_bytes() == -1


async def test_a_machine_that_is_ending_is_asked_again_later() -> None:
    qemu = Qemu({"last-update": NOW, "stats": SAID}, fails=True)
    guest = memory(qemu)
    assert await guest.used_bytes() == -1
    qemu.fails = False
    assert await guest.used_bytes() == 260 * MIB
