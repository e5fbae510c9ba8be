from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from gureum.cli import main as main_module
from gureum.cli.campaign import again_of
from gureum.sim import campaign
from gureum.sim.campaign import Done
from gureum.sim.modes import MODES, mode

Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gureum", "sim", "campaign", *arguments])
        return main_module.main()

    return run


class Fake:
    """A campaign in which seed 30 finds something, and which is ended by hand at seed 50."""

    def __init__(self, seeds: range, jobs: int) -> None:
        self._seeds = seeds
        self.next = seeds.start

    def run(self) -> Iterator[Done]:
        for seed in self._seeds:
            if seed == 50:
                raise KeyboardInterrupt
            wrong = "it runs twice" if seed == 30 else ""
            self.next = seed + (not wrong)
            yield Done(
                seed=seed,
                mode=mode(seed),
                seconds=2,
                cpu_seconds=1,
                virtual_seconds=60,
                calls=5,
                faults=2,
                violation=wrong,
            )
            if wrong:
                return


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "Campaign", Fake)


def test_what_was_done_is_told_by_mode(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * len(MODES)
    assert cli(str(count)) == 0
    said = capsys.readouterr().out
    assert f"{count} runs in" in said
    [one] = [line for line in said.splitlines() if line.startswith("one host")]
    assert one.split() == ["one", "host", "2", "10", "4", "0", "0.0", "4", "2", "1.0"]
    assert cli(str(count), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["Runs"], told["Next"], told["Violation"]) == (count, count, None)
    assert told["All"]["Calls"] == 5 * count
    assert told["Modes"]["lost hosts"]["Runs"] == 2


def test_the_first_violation_ends_it(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("100", "--from", "20") == 1
    said = capsys.readouterr().err
    assert f"seed 30 ({mode(30)}): VIOLATED: it runs twice" in said
    assert f"again: {again_of(30)}\n" in said
    assert "to go on: gureum sim campaign 90 --from 30" in said
    assert cli("100", "--from", "20", "--json") == 1
    found = json.loads(capsys.readouterr().out)["Violation"]
    assert (found["Seed"], found["Mode"]) == (30, mode(30))


def test_one_that_is_ended_can_go_on(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("100", "--from", "40") == 1
    said = capsys.readouterr()
    assert "10 runs in" in said.out
    assert "to go on: gureum sim campaign 90 --from 50" in said.err
