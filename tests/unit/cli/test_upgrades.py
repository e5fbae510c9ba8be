"""`gureum host upgrade`: what it asks, and what it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gureum.cli import upgrades
from gureum.cli.host import app

UPGRADE = {"UpgradeId": "upg-1", "State": "running", "Hosts": [{"HostId": "host-0", "Step": "returning"}]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    asked: list[tuple[str, dict[str, Any]]] = []
    states = iter(["running", "failed"])

    def call(_state_dir: Path | None, operation: str, **parameters: Any) -> dict[str, Any]:
        asked.append((operation, parameters))
        if operation != "describe_upgrades":
            return {"Upgrade": UPGRADE}
        message = {"StateMessage": "host host-0 did not come back"}
        return {"Upgrades": [{**UPGRADE, **message, "State": next(states, "failed")}]}

    monkeypatch.setattr(upgrades, "call", call)
    monkeypatch.setattr("gureum.cli.output.LOOK_SECONDS", 0.0)
    return asked


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["upgrade", *arguments])
    return done.exit_code, done.output + str(done.exception or "")


def test_hosts_are_named_in_their_order(asked: list[Any]) -> None:
    code, said = run("host-1", "host-0", "--evacuate", "--reboots", "--max", "2", "--timeout", "60")
    assert code == 0
    assert "the upgrade is running" in said
    wanted = {"HostIds": ["host-1", "host-0"], "Evacuate": True, "Reboots": True}
    assert asked == [("start_upgrade", {**wanted, "AtOnce": 2, "WaitSeconds": 60})]


def test_one_that_fails_fails_the_command(asked: list[Any]) -> None:
    code, said = run("host-0", "--wait")
    assert code == 1
    assert "the upgrade is failed" in said
    assert [operation for operation, _ in asked] == ["start_upgrade", *["describe_upgrades"] * 2]


def test_the_one_under_way_is_cancelled(asked: list[Any]) -> None:
    assert run("--cancel")[0] == 0
    assert asked[-1] == ("cancel_upgrade", {"UpgradeId": "upg-1"})


@pytest.mark.parametrize(
    "arguments", [("host-0", "--all"), ("host-0", "--cancel"), ("--evacuate",), ("--max", "2")]
)
def test_what_makes_no_sense_is_refused(asked: list[Any], arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] != 0
    assert not asked
