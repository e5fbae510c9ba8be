from __future__ import annotations

from typing import Any

import pytest

from gureum.cli import autosize, output

POLICY = {
    "InstanceId": "i-1",
    "InstanceType": "t3.large",
    "Mode": "recommend",
    "TargetPercent": 60,
    "MinInstanceType": "t3.small",
    "MaxInstanceType": "m5.2xlarge",
    "CoolDownSeconds": 300,
}
SEEN = {
    **POLICY,
    "Recent": {"CpuPercent": 80.4, "MemoryPercent": 61.0},
    "Peak": {"CpuPercent": 99.6},
    "RecommendedInstanceType": "t3.xlarge",
    "StoppedInstanceType": "m5.2xlarge",
    "Reason": "it used much",
}


@pytest.mark.parametrize(
    ("each", "cells"),
    [
        ({"InstanceId": "i-1", "InstanceType": "t3.large", "Mode": "off"}, ("-", "-", "-", "-", "-")),
        (POLICY, ("t3.small to m5.2xlarge", "60 %", "-", "-", "-")),
        (
            SEEN,
            (
                "t3.small to m5.2xlarge",
                "60 %",
                "cpu 80 %, memory 61 %",
                "cpu 100 %, memory ?",
                "t3.xlarge, m5.2xlarge (after a stop)",
            ),
        ),
    ],
)
def test_rows(each: dict[str, Any], cells: tuple[str, ...]) -> None:
    assert autosize.row(each) == ("i-1", "t3.large", each["Mode"], *cells)


def test_remarks() -> None:
    assert autosize.remarks(POLICY) == []
    assert autosize.remarks(SEEN) == ["it used much", "to let it become that by itself: --mode automatic"]
    assert autosize.remarks({**SEEN, "Mode": "automatic"}) == ["it used much"]
    held = {**SEEN, "HeldBecause": "it is being migrated"}
    assert autosize.remarks(held) == ["it used much", "nothing is changed now: it is being migrated"]


def called(monkeypatch: pytest.MonkeyPatch, instance: str | None, **options: Any) -> list[Any]:
    asked = []

    def call(state_dir: object, operation: str, **input: Any) -> dict[str, Any]:
        asked.append((operation, input))
        return {"InstanceAutosize": POLICY, "InstanceAutosizes": [SEEN]}

    monkeypatch.setattr(autosize, "call", call)
    autosize.autosize(instance, **options)
    return asked


def test_what_is_said_is_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"mode": "automatic", "target": 70, "smallest": "t3.small", "cool_down": "10m"}
    assert called(monkeypatch, "i-1", **options) == [
        (
            "set_instance_autosize",
            {
                "InstanceId": "i-1",
                "Mode": "automatic",
                "TargetPercent": 70,
                "MinInstanceType": "t3.small",
                "CoolDownSeconds": 600,
            },
        )
    ]
    assert "t3.small to m5.2xlarge" in capsys.readouterr().out


def test_otherwise_it_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "i-1") == [("describe_instance_autosizes", {"InstanceIds": ["i-1"]})]
    assert "cpu 80 %, memory 61 %" in capsys.readouterr().out
    called(monkeypatch, "i-1", as_json=True)
    assert '"StoppedInstanceType": "m5.2xlarge"' in capsys.readouterr().out


@pytest.mark.parametrize(("instance", "mode"), [("i-1", "always"), (None, "off")])
def test_wrong_words(monkeypatch: pytest.MonkeyPatch, instance: str | None, mode: str) -> None:
    with pytest.raises(output.CliError) as caught:
        called(monkeypatch, instance, mode=mode)
    assert caught.value.exit_code == output.USAGE
