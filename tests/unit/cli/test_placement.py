from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gureum.cli import api, placement
from gureum.cli.output import CliError

INSTANCE: dict[str, Any] = {
    "InstanceId": "i-1",
    "State": {"Name": "running"},
    "InstanceType": "t3.micro",
    "Placement": {"AvailabilityZone": "us-east-1a"},
    "PrivateIpAddress": "172.31.0.4",
    "Tags": [{"Key": "a", "Value": "b"}, {"Key": "Name", "Value": "web"}],
}
GOOD = {
    "HostId": "host-1",
    "Fits": True,
    "Chosen": True,
    "Reasons": [],
    "Weights": [{"Name": "members", "Value": 2.0}, {"Name": "free memory", "Value": float(1 << 30)}],
}
OUT = {
    "HostId": "host-0",
    "Fits": False,
    "Chosen": False,
    "Reasons": [{"Filter": "draining", "Message": "is being drained"}],
    "Weights": [{"Name": "free memory", "Value": 0.0}],
}
ANSWER = {"Hosts": [GOOD, OUT], "HostId": "host-0"}
NOWHERE = {"Hosts": [OUT], "HostId": "host-0", "Message": "No host can have it."}


def test_rows() -> None:
    assert placement.row(INSTANCE, "host-1") == (
        *("i-1", "web", "running", "t3.micro", "host-1", "us-east-1a", "172.31.0.4", "-"),
    )


def test_verdicts() -> None:
    assert placement.verdict_row(GOOD) == ("host-1", "chosen", "1.0 GiB", "2", "")
    assert placement.verdict_row({**GOOD, "Chosen": False})[1] == "fits"
    assert placement.verdict_row(OUT) == ("host-0", "out", "0 B", "-", "draining: is being drained")


def test_the_best_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    placement.tell(ANSWER, GOOD, explain=False)
    assert capsys.readouterr().out == "host-1\n"
    placement.tell(ANSWER, GOOD, explain=True)
    told = capsys.readouterr()
    assert "chosen" in told.out
    assert "draining: is being drained" in told.out
    assert "it is on host-0 now" in told.err


def test_why_there_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    placement.tell(NOWHERE, None, explain=False)
    told = capsys.readouterr()
    assert told.out == ""
    assert "No host can have it.\n" in told.err
    assert "host-0 is being drained" in told.err


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["i-1"], {"InstanceId": "i-1"}),
        (
            ["--type", "t3.micro", "--zone", "z", "--group", "g", "--partition", "2", "--dedicated"],
            {
                "InstanceType": "t3.micro",
                "Zone": "z",
                "GroupName": "g",
                "PartitionNumber": 2,
                "Tenancy": "dedicated",
            },
        ),
        (
            ["--type", "t3.micro", "--label", "a=b"],
            {"InstanceType": "t3.micro", "RequiredLabels": {"a": "b"}},
        ),
    ],
)
def test_what_is_asked(monkeypatch: pytest.MonkeyPatch, args: list[str], asked: dict[str, Any]) -> None:
    calls: list[dict[str, Any]] = []

    def call(state_dir: Any, operation: str, **parameters: Any) -> Any:
        assert operation == "explain_placement"
        calls.append(parameters)
        return ANSWER if len(calls) == 1 else NOWHERE

    monkeypatch.setattr(placement, "call", call)
    app = typer.Typer()
    app.command()(placement.place)
    assert CliRunner().invoke(app, args).exit_code == 0
    assert CliRunner().invoke(app, args).exit_code == 1
    assert calls == [asked, asked]


def test_one_instance_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError):
        placement.place()
    with pytest.raises(CliError):
        placement.place("i-1", type_="t3.micro")


def test_instances_are_listed_with_their_hosts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {**INSTANCE, "InstanceId": "i-2", "State": {"Name": "terminated"}}
    monkeypatch.setattr(placement, "cloud_at", lambda state_dir: None)
    monkeypatch.setattr(api, "hosts", lambda cloud: iter([{"HostId": "host-7", "InstanceIds": ["i-1"]}]))
    monkeypatch.setattr(api, "instances", lambda cloud: iter([INSTANCE, ended]))
    placement.list_instances()
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert "host-7" in shown[1]
    placement.list_instances(all_=True)
    assert "i-2" in capsys.readouterr().out
