from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from gureum.cli import campaign as command
from gureum.cli import main as main_module
from gureum.cli.campaign import again_of, build
from gureum.sim import campaign
from gureum.sim.campaign import Done
from gureum.sim.campaign_ledger import Build
from gureum.sim.modes import MODES, Seeded

Cli = Callable[..., int]
BAD = Seeded("networks", 21)
LAST = Seeded("quiet", 42)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gureum", "sim", "campaign", *arguments])
        return main_module.main()

    return run


class Fake:
    """A campaign in which BAD finds something, and which is ended by hand after LAST."""

    done: ClassVar[list[Seeded]] = []
    right = False

    def __init__(self, todo: Iterable[Seeded], jobs: int, nice: int) -> None:
        self._todo = list(todo)
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> Iterator[Done]:
        for run in self._todo:
            self.done.append(run)
            wrong = "it runs twice" if run == BAD and not self.right else ""
            numbers = {"seconds": 2.0, "cpu_seconds": 1.0, "virtual_seconds": 60.0, "calls": 5, "faults": 2}
            yield Done(seed=run.seed, mode=run.mode, violation=wrong, **numbers)  # type: ignore[arg-type]
            if run == LAST:
                signal.raise_signal(signal.SIGTERM)
            if self._stopped:
                return


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(campaign, "Campaign", Fake)
    monkeypatch.setattr(Fake, "done", [])
    monkeypatch.setattr(Fake, "right", False)
    monkeypatch.setattr(command, "build", lambda: Build("0.8.0", "aaaa"))
    return Fake


@pytest.mark.usefixtures("fake")
def test_what_was_done_is_told_by_mode(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * len(MODES)
    assert cli(str(count)) == 0
    said = capsys.readouterr().out
    assert f"{count} of {count} runs in" in said
    assert f"0.8.0 aaaa: {count} runs, {count} s of processor time" in said
    [one] = [line for line in said.splitlines() if line.startswith("one host")]
    assert one.split() == ["one", "host", "2", "10", "4", "0", "0.0", "4", "2", "1.0"]
    assert cli(str(count), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["Done"], told["Count"], told["Next"], told["Violations"]) == (count, count, None, [])
    assert told["All"]["Calls"] == 5 * count
    assert told["Modes"]["lost hosts"]["Runs"] == 2
    [session] = told["Sessions"]
    assert session["Command"] == f"gureum sim campaign {count} --json"
    assert (session["Runs"], session["CpuSeconds"]) == (count, count)


@pytest.mark.usefixtures("fake")
def test_the_first_violation_ends_it(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    count = 5 * len(MODES)
    assert cli(str(count), "--from", "20") == 1
    said = capsys.readouterr().err
    assert f"seed 21 ({BAD.mode}): VIOLATED: it runs twice" in said
    assert f"again: {again_of(*BAD)}\n" in said
    assert f"to go on: gureum sim campaign {4 * len(MODES)} --from 21" in said
    assert cli(str(count), "--from", "20", "--json") == 1
    [found] = json.loads(capsys.readouterr().out)["Violations"]
    assert (found["Seed"], found["Mode"], found["Again"]) == (21, BAD.mode, again_of(*BAD))


@pytest.mark.usefixtures("fake")
def test_one_that_is_ended_can_go_on(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    count = 5 * len(MODES)
    assert cli(str(count), "--from", "40") == 130
    said = capsys.readouterr()
    done = 2 * len(MODES) + 1 + list(MODES).index(LAST.mode)
    assert f"{done} of {count} runs in" in said.out
    assert f"to go on: gureum sim campaign {3 * len(MODES)} --from 42" in said.err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_ledger_is_gone_on_with(
    cli: Cli,
    fake: type[Fake],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, count = str(tmp_path / "ledger"), 50 * len(MODES)
    asked = (str(count), "--ledger", path)
    assert cli(*asked) == 130  # past the violation, to LAST
    capsys.readouterr()
    first = set(fake.done)
    assert BAD in first
    assert cli(*asked, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["Done"], told["Next"]) == (count - 1, BAD.seed)
    assert first.isdisjoint(fake.done[len(first) :])
    assert len(fake.done) == len(set(fake.done)) == count
    assert [session["Runs"] for session in told["Sessions"]] == [len(first), count - len(first)]

    # With the code in which it is mended, that one is all there is to do.
    fake.right, fake.done[:] = True, []
    monkeypatch.setattr(command, "build", lambda: Build("0.8.0", "bbbb"))
    assert cli(*asked, "--show") == 1
    assert cli(*asked) == 0
    assert fake.done == [BAD]
    capsys.readouterr()
    assert cli(*asked, "--json", "--show") == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["Right"] for each in told["Violations"]] == ["bbbb"]
    assert {name: each["Runs"] for name, each in told["Builds"].items()} == {
        "0.8.0 aaaa": count - 1,
        "0.8.0 bbbb": 1,
    }


@pytest.mark.usefixtures("fake")
def test_so_many_violations_end_one_with_a_ledger(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 30 * len(MODES)
    assert cli(str(count), "--ledger", str(tmp_path / "ledger"), "--violations", "1", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["Done"] == 21 * len(MODES) + list(MODES).index(BAD.mode)


@pytest.mark.usefixtures("fake")
def test_what_is_no_ledger_is_refused(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger").write_text("notes")
    assert cli("10", "--ledger", str(tmp_path / "ledger")) == 1
    said = capsys.readouterr().err
    assert "is no ledger of a campaign" in said
    assert "next: " in said


def test_a_checkout_says_its_commit() -> None:
    assert build().version
    assert build().commit or not (command.CHECKOUT / ".git").exists()


def test_processes_that_are_ended_keep_what_they_did(tmp_path: Path) -> None:
    """SIGTERM is for all that it started, too; after SIGKILL it goes on with what was saved last."""
    path = tmp_path / "ledger"
    words = (*("sim", "campaign", "100000", "--ledger", str(path), "--jobs", "2"), "--json")
    program = [sys.executable, "-c", "from gureum.cli.main import main; raise SystemExit(main())", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    counts: list[int] = []
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        began = subprocess.Popen(
            program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            wait_for_runs(path, (counts or [0])[-1] + 1, began)
            os.killpg(began.pid, number)
            output, errors = began.communicate(timeout=120)
        finally:
            if began.poll() is None:
                os.killpg(began.pid, signal.SIGKILL)
                began.communicate()
        assert began.returncode == (130 if number != signal.SIGKILL else -9), errors
        counts.append(runs_in(path))
        if number != signal.SIGKILL:
            assert json.loads(output)["All"]["Runs"] == counts[-1]
    assert counts == sorted(set(counts))


def runs_in(path: Path) -> int:
    if not path.exists():
        return 0
    modes = json.loads(path.read_text())["Modes"]
    return sum(tally["Runs"] for tallies in modes.values() for tally in tallies)


def wait_for_runs(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while runs_in(path) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
