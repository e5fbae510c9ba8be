from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from gureum.cli import events
from gureum.cli.main import app
from gureum.cli.output import NOT_RUNNING, CliError


def event(number: int, severity: str = "info") -> dict[str, Any]:
    return {
        "EventId": f"event-{number}",
        "Time": datetime(2026, 1, 1, 12, 0, number, tzinfo=UTC),
        "Name": "HostDown",
        "Severity": severity,
        "HostId": "host-1",
        "Message": f"number {number}",
    }


def test_a_line() -> None:
    assert events.line(event(3)) == "2026-01-01 12:00:03 number 3"
    assert events.line(event(3, "warning")) == "2026-01-01 12:00:03 warning: number 3"


def test_pages_and_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def call(state_dir: object, operation: str, **parameters: Any) -> dict[str, Any]:
        asked.append((operation, parameters))
        if "NextToken" in parameters:
            return {"Events": [event(3), event(4)]}
        return {"Events": [event(1), event(2)], "NextToken": "t"}

    monkeypatch.setattr(events, "call", call)
    said = CliRunner().invoke(app, ["events", "--last", "3", "--host", "host-1"])
    assert said.exit_code == 0, said.output
    assert [line.partition("number ")[2] for line in said.output.splitlines()] == ["2", "3", "4"]
    assert asked == [
        ("describe_events", {"HostId": "host-1"}),
        ("describe_events", {"HostId": "host-1", "NextToken": "t"}),
    ]


def test_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(state_dir: object, operation: str, **parameters: Any) -> dict[str, Any]:
        assert (operation, parameters) == (
            "set_instance_recovery",
            {"InstanceId": "i-1", "Policy": "stop", "Priority": 7},
        )
        return {"Recovery": parameters}

    monkeypatch.setattr(events, "call", call)
    said = CliRunner().invoke(app, ["instance", "recovery", "i-1", "--policy", "stop", "--priority", "7"])
    assert said.output == "i-1: stop, priority 7\n"
    assert CliRunner().invoke(app, ["instance", "recovery", "i-1", "--policy", "x"]).exit_code != 0


def test_one_who_watches_waits_for_the_next_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    away = CliError("the cloud does not answer", exit_code=NOT_RUNNING)
    answers: list[Any] = [[event(1)], away, away, [event(2)], CliError("AccessDenied: no")]
    seen = []

    def call(state_dir: object, operation: str, **parameters: Any) -> dict[str, Any]:
        seen.append(parameters.get("After"))
        answer = answers.pop(0)
        if isinstance(answer, CliError):
            raise answer
        return {"Events": answer}

    monkeypatch.setattr(events, "call", call)
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.0)
    said = CliRunner().invoke(app, ["events", "--follow"])
    assert isinstance(said.exception, CliError | SystemExit)
    assert seen == [None, "event-1", "event-1", "event-1", "event-2"]
    assert "number 1" in said.output
    assert "number 2" in said.output
    assert said.output.count("this goes on when it does") == 1


def test_what_nothing_is_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "call", lambda *_args, **_values: {"Events": []})
    said = CliRunner().invoke(app, ["events", "--host", "nosuch"])
    assert (said.exit_code, said.stdout) == (0, "")
    assert said.stderr == "nothing is known to have happened to nosuch; see gureum host list\n"
    assert CliRunner().invoke(app, ["events"]).stderr == ""
    monkeypatch.setattr(events, "call", lambda *_args, **_values: {"Events": [event(1)]})
    assert CliRunner().invoke(app, ["events", "--host", "host-1", "-n", "0"]).stderr == ""
