import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gureum
from gureum.cli import api, layers
from gureum.cli import doctor as doctor_module
from gureum.cli import main as main_module
from gureum.cli.cloud import Cloud
from gureum.cli.commands import COMMANDS
from gureum.cli.output import NOT_RUNNING, USAGE, CliError

from .test_cloud import free_port

Cli = Callable[..., int]
SURVIVES = {"Survivable": 2, "Message": ""}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gureum", *arguments])
        return main_module.main()

    return run


def test_every_command_is_in_the_table_and_the_other_way_round() -> None:
    names = {command.name for command in main_module.app.registered_commands}
    names |= {group.name for group in main_module.app.registered_groups}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Cli, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(name, "--help") == 0
    assert "Usage: gureum" in capsys.readouterr().out


def test_version(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--version") == cli("version") == cli("version", "--json") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"gureum {gureum.__version__}\n" * 2)
    assert json.loads(said.split("\n", 2)[2]) == {"version": gureum.__version__}


def test_what_guests_read_is_readable_whatever_the_umask(cli: Cli) -> None:
    """Hypervisors run as users of their own. What is secret is made so by name."""
    before = os.umask(0o077)
    try:
        assert cli("version") == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("arguments", [("upp",), ("up", "--port", "x"), ("up", "--port", "0"), ("console",)])
def test_usage_errors(cli: Cli, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*arguments) == USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["down", "status", "env", "logs", "console i-0123456789abcdef0", "image list"]
)
def test_no_cloud_says_how_to_make_one(
    cli: Cli, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*command.split(), "--state-dir", "/nonexistent/gureum") == NOT_RUNNING
    assert "next: gureum up -d" in capsys.readouterr().err


def test_state_dir_too_long(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("status", "--state-dir", "/" + "x" * 100) == USAGE
    assert "longer than" in capsys.readouterr().err


def test_up_status_env_logs_down(
    cli: Cli, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cloud's day, as far as the CLI manages it."""
    monkeypatch.setattr("gureum.cli.cloud.require_root", lambda: None)
    monkeypatch.setenv("GUREUM_STATE", str(cloud.state_dir))
    port = str(free_port())
    assert cli("up", "-d", "--port", port) == 0
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out
    assert cli("up", "-d", "--json") == 0
    assert json.loads(capsys.readouterr().out)["started"] is False

    monkeypatch.setattr(api, "instances_by_state", lambda _cloud: {"running": 2})
    monkeypatch.setattr(api, "failed", lambda _cloud: {"vol-1": "the pool is full"})
    monkeypatch.setattr(api, "hosts_down", lambda _cloud: {"host-1": "nat-1"})
    monkeypatch.setattr(api, "survival", lambda _cloud: {"Survive": 1, "Domains": [SURVIVES]})
    assert cli("status") == 0
    said = capsys.readouterr().out
    assert "host host-1 is down, and with it nat-1" in said
    assert "instances: 2 running" in said
    assert "all zones: the loss of a host would be survived (2 at once)" in said
    assert "failed: vol-1: the pool is full" in said
    assert cli("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert [process["is_ready"] for process in status["processes"]] == [True, True, True]

    assert cli("env") == 0
    assert f"export AWS_ENDPOINT_URL=http://127.0.0.1:{port}" in capsys.readouterr().out
    assert cli("logs", "manager", "-n", "1") == 0
    assert capsys.readouterr().out == "manager says hello\n"
    assert cli("logs", "nobody") == USAGE
    capsys.readouterr()

    other = str(free_port())
    assert cli("up", "-d", "--port", other) == 1
    assert "with other settings" in capsys.readouterr().err
    assert cloud.config().port == int(port)

    assert cli("down") == 0
    assert "stopped" in capsys.readouterr().out
    assert (cloud.state_dir / "evacuated").exists()
    assert cli("down") == 0
    assert "was not running" in capsys.readouterr().out
    assert cli("status") == NOT_RUNNING


def test_down_can_keep_guests(
    cli: Cli, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.start(cloud.configure(port=free_port()), lambda _: None)
    monkeypatch.setattr(Cloud, "guests", lambda _self: ["i-0123456789abcdef0"])
    monkeypatch.setenv("GUREUM_STATE", str(cloud.state_dir))
    assert cli("down", "--keep-guests", "--json") == 0
    assert json.loads(capsys.readouterr().out)["guests_running"] == ["i-0123456789abcdef0"]
    assert not (cloud.state_dir / "evacuated").exists()


def test_what_failed_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    answers = {
        "describe_volumes": {"Volumes": [{"VolumeId": "vol-1"}]},
        "describe_volume_status": {
            "VolumeStatuses": [{"VolumeId": "vol-1", "Events": [{"Description": "the pool is full"}]}]
        },
        "describe_snapshots": {"Snapshots": [{"SnapshotId": "snap-1", "StateMessage": "no volume"}]},
    }
    monkeypatch.setattr(api, "client", lambda *_: None)
    monkeypatch.setattr(api, "_send", lambda _client, operation, *_: answers[operation])
    assert api.failed(cloud) == {"vol-1": "the pool is full", "snap-1": "no volume"}


def test_unreachable_api_is_told_as_such(cloud: Cloud) -> None:
    cloud.configure(port=free_port())
    with pytest.raises(CliError, match="does not answer") as caught:
        api.instances_by_state(cloud)
    assert caught.value.exit_code == NOT_RUNNING


def test_doctor_fails_where_something_does(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [doctor_module.Finding("disk", "fail", "full", "free space")]
    monkeypatch.setattr(doctor_module, "examine", lambda *_: iter(findings))
    assert cli("doctor") == 1
    assert "-> free space" in capsys.readouterr().out
    assert cli("doctor", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["why"] == "full"
    findings.clear()
    assert cli("doctor") == 0


def test_test_passes_its_arguments_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(layers, "run", lambda _checkout, arguments: given.append(arguments) or 1)
    assert cli("test", "unit", "-k", "name", "--pdb") == 1
    assert given == [["unit", "-k", "name", "--pdb"]]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CliError("it broke", "mend it", exit_code=7), 7, "gureum: it broke\n  next: mend it\n"),
        (ValueError("what"), 1, "unexpected ValueError: what"),
        (PermissionError(13, "x", "/f"), 3, "/f: permission denied"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_show_no_traceback(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(**_: object) -> None:
        raise error

    stdout = os.dup(1)
    try:
        monkeypatch.setattr(main_module, "app", fail)
        assert cli("status") == code
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    said = capfd.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_starts_without_what_it_does_not_need() -> None:
    """What is slow to import is imported by the commands that use it."""
    code = "import gureum.cli.main, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    heavy = {"botocore", "rich", "msgspec", "asyncio", "cryptography", "lxml", "uvicorn"}
    assert not heavy & set(done.stdout.split())


def test_up_waits_until_down_is_done(cli: Cli, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a new agent would find guests that are being shut down, and take them for ones that did so."""
    assert cli("up", "-d", "--state-dir", str(cloud.state_dir), "--port", str(free_port())) == 0
    seen: list[bool] = []
    evacuate = Cloud.evacuate

    def is_locked() -> bool:
        with open(cloud.run_dir / "up.lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def watched(self: Cloud) -> None:
        seen.append(is_locked())
        evacuate(self)

    monkeypatch.setattr(Cloud, "evacuate", watched)
    assert cli("down", "--state-dir", str(cloud.state_dir)) == 0
    assert seen == [True]
    assert not is_locked()
