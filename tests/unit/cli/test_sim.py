from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gureum.cli import main as main_module
from gureum.cli import sim
from gureum.cli.output import USAGE
from gureum.sim import run as sim_run
from gureum.sim.violation import Violation

Cli = Callable[..., int]
COMMANDS = "# It shows a launch.\n+0 hosts 1\n+3 launch web\n+0 wait-for web running within 30\n"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gureum", "sim", *arguments])
        return main_module.main()

    return run


@pytest.fixture
def scenarios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a-launch").mkdir()
    (tmp_path / "a-launch" / "commands").write_text(COMMANDS)
    monkeypatch.setattr(sim, "SCENARIOS", tmp_path)
    return tmp_path


def test_a_seed_is_replayed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "4", "--steps", "10") == 0
    first = capsys.readouterr().out
    assert cli("run", "4", "--steps", "10") == 0
    assert capsys.readouterr().out == first
    assert "  call      " in first
    assert "all as it must be" in first
    assert cli("run", "4", "--steps", "10", "--quiet", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert f"digest {found['Digest']}" in first
    assert found["Timeline"] == []


def test_what_is_violated_is_told_with_how_to_see_it_again(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = sim_run.simulate

    def simulate(seed: int, **options: object) -> object:
        if seed == 6:
            raise Violation("it runs twice")
        return right(seed, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sim_run, "simulate", simulate)
    assert cli("runs", "3", "--from", "5", "--hosts", "3", "--ha", "--steps", "5") == 1
    said = capsys.readouterr()
    assert "seed 6: VIOLATED: it runs twice" in said.err
    assert "3 runs, 1 violation\n" in said.out
    assert "again: gureum sim run 6 --steps 5 --hosts 3 --shared --ha\n" in said.out
    assert cli("run", "6") == 1
    assert "seed 6: VIOLATED: it runs twice" in capsys.readouterr().out
    assert cli("runs", "1", "--from", "6", "--json") == 1
    assert json.loads(capsys.readouterr().out)["Violations"] == [{"Seed": 6, "Message": "it runs twice"}]


def test_a_shared_pool_needs_hosts(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("run", "1", "--shared") == USAGE
    assert "--hosts 3" in capsys.readouterr().err


def test_a_log_is_kept_and_compared(cli: Cli, scenarios: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("scenario", "a-launch") == 1
    assert "no log was kept" in capsys.readouterr().out
    assert cli("scenario", "a-launch", "--update") == 0
    assert cli("scenario") == 0
    assert capsys.readouterr().out.endswith("a-launch: as it must be\n")
    log = scenarios / "a-launch" / "log"
    log.write_text(log.read_text().replace("web: running", "web: walking"))
    assert cli("scenario", str(scenarios / "a-launch")) == 1
    said = capsys.readouterr().out
    assert "instance  web: walking\n+" in said
    assert "instance  web: running" in said


def test_what_fails_is_not_kept(cli: Cli, scenarios: Path) -> None:
    (scenarios / "a-launch" / "commands").write_text(COMMANDS + "+0 expect web stopped\n")
    assert cli("scenario", "a-launch", "--update") == 1
    assert not (scenarios / "a-launch" / "log").exists()


def test_names_and_texts_that_are_wrong(
    cli: Cli, scenarios: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("scenario", "a-lunch") == USAGE
    assert "is it a-launch?" in capsys.readouterr().err
    (scenarios / "a-launch" / "commands").write_text(COMMANDS + "+0 stopp web\n")
    assert cli("scenario", "a-launch") == USAGE
    assert "commands:5: there is no command 'stopp'; is it stop?" in capsys.readouterr().err


def test_what_there_is(cli: Cli, scenarios: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("list") == 0
    assert "a-launch   It shows a launch." in capsys.readouterr().out
    assert cli("list", "--json") == 0
    assert [each["Name"] for each in json.loads(capsys.readouterr().out)] == ["a-launch"]
    assert cli("list", "--commands") == 0
    assert "kill guest INSTANCE" in capsys.readouterr().out
    assert cli("list", "--commands", "--json") == 0
    assert {"Command", "Help"} == set(json.loads(capsys.readouterr().out)[0])
