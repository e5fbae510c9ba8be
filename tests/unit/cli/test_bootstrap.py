import fcntl
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.cli import bootstrap
from gureum.cli.bootstrap import (
    SetupError,
    command_of,
    install_packages,
    is_agreed,
    is_ready,
    make_venv,
    prepare,
    typed,
)
from gureum.cli.commands import COMMANDS, Command
from gureum.cli.packages import PACKAGES, Need, Package

CHECKOUT = Path(__file__).resolve().parents[3]
NFT = next(package for package in PACKAGES if package.name == "nftables")


class Runs(list[list[str]]):
    """Stands in for subprocess.run: notes the commands; makes what `venv` would; answers with `codes`."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.before_pip = lambda: None

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.append(command)
        if command[1:3] == ["-m", "venv"]:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(command[-1]) / "bin" / "python").touch()
            (Path(command[-1]) / "pyvenv.cfg").touch()
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True, exist_ok=True)
        if "pip" in command:
            self.before_pip()
        return subprocess.CompletedProcess(command, self.codes.pop(0) if self.codes else 0)

    @property
    def cleared(self) -> bool:
        return "--clear" in self[0]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(bootstrap.subprocess, "run", runs)
    return runs


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "requirements.lock").write_text("a==1\n")
    (checkout / "requirements-dev.lock").write_text("a==1\nb==1\n")
    return checkout


# ---- the virtual environment


def test_fresh_environment(checkout: Path, runs: Runs) -> None:
    venv = checkout / ".venv"
    make_venv(venv, checkout, dev=False)
    assert is_ready(venv, checkout, dev=False)
    assert not is_ready(venv, checkout, dev=True)
    assert "--require-hashes" in runs[1]
    assert runs[1][-1].endswith("requirements.lock")
    link = venv / "lib" / "python3.11" / "site-packages" / "gureum-checkout.pth"
    assert link.read_text() == f"{checkout / 'src'}\n"


def test_ready_environment_is_left_alone(checkout: Path, runs: Runs) -> None:
    make_venv(checkout / ".venv", checkout, dev=True)
    runs.clear()
    make_venv(checkout / ".venv", checkout, dev=True)
    make_venv(checkout / ".venv", checkout, dev=False)
    assert runs == []


def test_development_lock_adds_to_a_ready_environment(checkout: Path, runs: Runs) -> None:
    make_venv(checkout / ".venv", checkout, dev=False)
    runs.clear()
    make_venv(checkout / ".venv", checkout, dev=True)
    assert len(runs) == 1
    assert is_ready(checkout / ".venv", checkout, dev=True)
    assert is_ready(checkout / ".venv", checkout, dev=False)


def test_changed_lock_makes_it_anew(checkout: Path, runs: Runs) -> None:
    make_venv(checkout / ".venv", checkout, dev=False)
    runs.clear()
    (checkout / "requirements.lock").write_text("a==2\n")
    assert not is_ready(checkout / ".venv", checkout, dev=False)
    make_venv(checkout / ".venv", checkout, dev=False)
    assert runs.cleared


def test_interrupted_set_up_is_made_anew(checkout: Path, runs: Runs) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    runs.before_pip = interrupt
    with pytest.raises(KeyboardInterrupt):
        make_venv(checkout / ".venv", checkout, dev=False)
    assert not is_ready(checkout / ".venv", checkout, dev=False)
    runs.clear()
    runs.before_pip = lambda: None
    make_venv(checkout / ".venv", checkout, dev=False)
    assert runs.cleared
    assert is_ready(checkout / ".venv", checkout, dev=False)


def test_failed_pip_is_no_environment(checkout: Path, runs: Runs) -> None:
    runs.codes = [0, 1]
    with pytest.raises(SetupError, match="pip install failed"):
        make_venv(checkout / ".venv", checkout, dev=False)
    assert not is_ready(checkout / ".venv", checkout, dev=False)


def test_an_environment_made_by_others_is_completed(checkout: Path, runs: Runs) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").touch()
    make_venv(checkout / ".venv", checkout, dev=False)
    assert not runs.cleared


def test_environment_of_a_moved_checkout_is_not_ready(checkout: Path, runs: Runs) -> None:
    make_venv(checkout / ".venv", checkout, dev=False)
    moved = checkout.rename(checkout.with_name("moved"))
    assert not is_ready(moved / ".venv", moved, dev=False)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_damaged_stamp_is_no_stamp(checkout: Path, runs: Runs, text: str) -> None:
    make_venv(checkout / ".venv", checkout, dev=False)
    (checkout / ".venv" / bootstrap.STAMP).write_text(text)
    assert not is_ready(checkout / ".venv", checkout, dev=False)


@pytest.mark.parametrize("below", [False, True])
def test_a_place_that_cannot_be_written_is_named(checkout: Path, runs: Runs, below: bool) -> None:
    """As with a checkout on read-only media: here a file is in the way, which stops root too."""
    (checkout / "file").touch()
    venv = checkout / "file" / "venv" if below else checkout / "file"
    with pytest.raises(SetupError, match=f"{venv} cannot be made: (.|\n)*GUREUM_VENV"):
        make_venv(venv, checkout, dev=False)
    assert runs == []


def test_failed_venv_is_not_blamed_on_the_index(checkout: Path, runs: Runs) -> None:
    runs.codes = [1]
    with pytest.raises(SetupError, match=r"python3 -m venv failed(.|\n)*disk") as caught:
        make_venv(checkout / ".venv", checkout, dev=False)
    assert "index" not in str(caught.value)


def test_set_up_is_locked(checkout: Path, runs: Runs) -> None:
    venv = checkout / ".venv"
    refused = []

    def try_lock() -> None:
        descriptor = os.open(venv, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refused.append(True)
        finally:
            os.close(descriptor)

    runs.before_pip = try_lock
    make_venv(venv, checkout, dev=False)
    assert refused == [True]


# ---- Debian packages


@pytest.mark.parametrize(
    ("yes", "environ", "agreed"),
    [
        (False, {}, False),
        (True, {}, True),
        (False, {"GUREUM_YES": "1"}, True),
        (False, {"GUREUM_YES": "0"}, False),
        (False, {"CI": "true"}, True),
        (False, {"CI": "false"}, False),
    ],
)
def test_agreement(yes: bool, environ: dict[str, str], agreed: bool) -> None:
    assert is_agreed(yes, environ) is agreed


class Answer(io.StringIO):
    """A terminal at which somebody types this."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Root on Debian with a terminal and no agreement."""
    for name in ("CI", "GUREUM_YES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap.os.path, "exists", lambda _path: True)
    monkeypatch.setattr(bootstrap.sys, "stdin", Answer(""))
    return monkeypatch


BY_HAND = "apt-get update && apt-get install -y --no-install-recommends nftables\n"


def test_names_packages_and_asks(asked: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked.setattr(bootstrap.sys, "stdin", Answer("y\n"))
    bootstrap.may_install([NFT], "env", False)
    said = capsys.readouterr()
    assert "nftables" in said.err
    assert said.err.endswith("[y/N] ")
    assert said.out == "", 'a question on stdout is lost in eval "$(./gureum env)"'


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "no\n", "what\n"])
def test_anything_but_yes_is_no(asked: pytest.MonkeyPatch, answer: str) -> None:
    asked.setattr(bootstrap.sys, "stdin", Answer(answer))
    with pytest.raises(SetupError) as caught:
        bootstrap.may_install([NFT], "up", False)
    # The lists of a fresh machine are empty: without the update, the command would not find the package.
    assert BY_HAND in str(caught.value)
    assert "then ./gureum up" in str(caught.value)


def test_nobody_to_ask(asked: pytest.MonkeyPatch) -> None:
    asked.setattr(bootstrap.sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(SetupError, match=r"obody to ask(.|\n)*--yes up") as caught:
        bootstrap.may_install([NFT], "up", False)
    assert BY_HAND in str(caught.value)
    bootstrap.may_install([NFT], "up", True)


def test_a_closed_stdin_is_nobody_to_ask(asked: pytest.MonkeyPatch) -> None:
    asked.setattr(bootstrap.sys, "stdin", None)
    with pytest.raises(SetupError, match="obody to ask"):
        bootstrap.may_install([NFT], "up", False)


@pytest.mark.parametrize("has_sudo", [True, False])
def test_others_than_root_are_told_what_root_has_to_run(asked: pytest.MonkeyPatch, has_sudo: bool) -> None:
    asked.setattr(bootstrap.os, "geteuid", lambda: 1000)
    asked.setattr(bootstrap.shutil, "which", lambda _program: "/usr/bin/sudo" if has_sudo else None)
    with pytest.raises(SetupError, match="only root may install") as caught:
        bootstrap.may_install([NFT], "up", True)
    wanted = BY_HAND.replace("apt-get", "sudo apt-get") if has_sudo else BY_HAND
    assert wanted in str(caught.value)


def test_install_updates_stale_lists(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.Path, "glob", lambda _self, _pattern: iter([Path("x_Packages")]))
    runs.codes = [100, 0, 0]
    install_packages([NFT])
    assert [command[-1] for command in runs] == ["nftables", "update", "nftables"]


def test_a_source_that_does_not_answer_is_not_the_end(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """`apt-get update` fails for one bad source among good ones; what is wanted comes from the good ones."""
    monkeypatch.setattr(bootstrap.Path, "glob", lambda _self, _pattern: iter(()))
    runs.codes = [100, 0]
    install_packages([NFT])
    assert [command[-1] for command in runs] == ["update", "nftables"]


def test_install_that_fails_says_so(runs: Runs) -> None:
    runs.codes = [100, 100, 100]
    with pytest.raises(SetupError, match=r"apt-get failed(.|\n)*/etc/apt") as caught:
        install_packages([NFT])
    assert BY_HAND in str(caught.value) + "\n"


def test_prepare_installs_before_it_makes_the_environment(
    checkout: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking: list[list[Package]] = [[NFT], []]
    monkeypatch.setattr(bootstrap, "missing", lambda _needs: lacking.pop(0))
    monkeypatch.setattr(bootstrap, "may_install", lambda *_: None)
    monkeypatch.delenv("GUREUM_VENV", raising=False)
    python = prepare(checkout, "up", Command("", frozenset({Need.RUN})), yes=True)
    assert python == checkout / ".venv" / "bin" / "python"
    programs = [Path(command[0]).name for command in runs]
    assert programs.index("apt-get") < programs.index(Path(sys.executable).name)


# ---- the launcher itself


def launch(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "gureum"), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], **environ},
        timeout=60,
        check=False,
    )


def test_help_needs_no_environment(tmp_path: Path) -> None:
    done = launch("--help", GUREUM_VENV=str(tmp_path / "venv"))
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert not (tmp_path / "venv").exists()


def test_unknown_command_sets_nothing_up(tmp_path: Path) -> None:
    done = launch("upp", GUREUM_VENV=str(tmp_path / "venv"))
    assert done.returncode == 2
    assert "no command 'upp'" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_ready_environment_is_executed(tmp_path: Path) -> None:
    """The launcher becomes the environment's python, from whatever directory, and passes the arguments on."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    bootstrap._write_stamp(venv, CHECKOUT, dev=True)
    done = launch("version", "--json", GUREUM_VENV=str(venv), PYTHONPATH=os.pathsep.join(sys.path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (None, False)),
        (["up", "-y"], ("up", False)),
        (["--yes", "demo", "-x"], ("demo", True)),
        (["-y", "test"], ("test", True)),
        (["--version"], (None, False)),
    ],
)
def test_command_of(arguments: list[str], expected: tuple[str | None, bool]) -> None:
    assert command_of(arguments) == expected


def test_launcher_needs_the_standard_library_only() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(CHECKOUT / "gureum"), "--help"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["up", "--san", "ceph"], {Need.SAN}),
        (["up", "--san=ceph:/etc/ceph/ceph.conf", "-d"], {Need.SAN}),
        (["up", "--san", "local"], set()),
        (["up", "--san"], set()),
        ([], set()),
        (["up", "--state-dir", "ceph"], set()),
    ],
)
def test_storage_in_ceph_needs_more_packages(arguments: list[str], wanted: set[Need]) -> None:
    assert bootstrap.needs_of(arguments) == wanted


def test_an_option_before_the_command_is_not_taken_for_one() -> None:
    said = bootstrap.no_command("/x", ["--state-dir", "/x", "status", "--json"])
    assert said == "options go after the command: ./gureum status --state-dir /x"
    assert bootstrap.no_command("stauts", ["stauts"]).startswith(
        "there is no command 'stauts'. Commands: up,"
    )


def test_how_it_was_called_unless_its_name_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gureum"
    program.touch(0o755)
    assert typed(str(program)) == str(program)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert typed(str(program)) == ""
    assert typed("./gureum") == "./gureum"
