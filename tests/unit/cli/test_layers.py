import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gureum.cli import layers
from gureum.cli.layers import (
    CHECK,
    CHOSEN,
    LAYERS,
    Footprint,
    Result,
    choose,
    processes_of,
    run_layer,
    summarize,
)
from gureum.cli.output import CliError


@pytest.mark.parametrize(
    ("arguments", "chosen", "extra"),
    [
        ([], [CHECK, *LAYERS], []),
        (["system", "unit"], ["unit", "system"], []),
        (["unit", "-k", "name"], ["unit"], ["-k", "name"]),
        (["-x"], [CHECK, *LAYERS], ["-x"]),
        (["tests/unit/cli", "-q"], [CHOSEN], ["tests/unit/cli", "-q"]),
        (["-q", "tests/unit/cli"], [CHOSEN], ["-q", "tests/unit/cli"]),
    ],
)
def test_choose(arguments: list[str], chosen: list[str], extra: list[str]) -> None:
    assert choose(arguments) == (chosen, extra)


def test_unknown_layer() -> None:
    with pytest.raises(CliError, match="no test layer 'unti'"):
        choose(["unti"])


@pytest.mark.parametrize(
    ("processors", "layer", "count"),
    [
        (1, "unit", None),
        (1, "system", None),
        (2, "unit", "2"),
        (2, "system", "2"),
        (2, "integration", "3"),
        (64, "system", "4"),
        (None, "unit", None),
    ],
)
def test_a_whole_layer_is_shared_out(
    processors: int | None, layer: str, count: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    options = layers.workers(layer, [])
    assert (options[1] if options else None) == count
    assert layers.workers(layer, ["-x"]) == layers.workers(layer, ["tests/unit/cli"]) == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return tmp_path


def test_layer_is_counted(checkout: Path) -> None:
    (checkout / "tests" / "unit" / "test_x.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_error(broken): pass\n"
        "@pytest.mark.skip\ndef test_not(): pass\n"
    )
    result = run_layer(checkout, "unit", ["-q"])
    assert (result.passed, result.failed, result.skipped) == (1, 2, 1)


def fails_once(seen: Path) -> str:
    """A test that passes when it is run for the second time."""
    return f"    there = pathlib.Path({str(seen)!r})\n    assert there.exists() or there.touch()\n"


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(layers, "NICENESS", "0")


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize(("layer", "failed"), [("system", 1), ("unit", 2)])
def test_what_failed_beside_others_is_run_alone(
    layer: str, failed: int, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tests" / layer).mkdir(exist_ok=True)
    (checkout / "tests" / layer / "test_x.py").write_text(
        "import pathlib\nseen = []\ndef test_good(): seen.append(1)\ndef test_bad(): assert False\n"
        f"def test_once():\n    assert seen\n{fails_once(tmp_path / 'seen')}"
    )
    result = run_layer(checkout, layer, [])
    assert (result.passed, result.failed) == (3 - failed, failed)
    capsys.readouterr()
    assert summarize([result], [], 1.0) == 1
    named = "Failed beside others and passed alone; find out why:\n  tests.system.test_x::test_once\n"
    assert (named in capsys.readouterr().out) == (layer == "system")


def test_files_of_tests(checkout: Path) -> None:
    (checkout / "tests" / "unit" / "test_x.py").touch()
    assert layers.files_of(checkout, ["tests.unit.test_x.TestX::test_a", "tests.unit.test_x::test_b"]) == [
        "tests/unit/test_x.py"
    ]
    assert layers.files_of(checkout, ["tests.unit.test_x::test_b", "::tests.unit.test_y"]) == []


@pytest.mark.usefixtures("two_workers")
def test_what_all_fails_is_not_run_again(checkout: Path) -> None:
    (checkout / "tests" / "system").mkdir()
    (checkout / "tests" / "system" / "test_x.py").write_text(
        "import pytest\n"
        f"@pytest.mark.parametrize('number', range({layers.ALONE_MAX + 1}))\n"
        "def test_bad(number): assert False\n"
    )
    result = run_layer(checkout, "system", [])
    assert (result.failed, result.only_alone) == (layers.ALONE_MAX + 1, ())


WAITS = """
import pathlib, time
def test_waits():
    path = pathlib.Path({path!r})
    for _ in range(2500):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError
"""
"""A test that ends when another has made this file."""


@pytest.mark.usefixtures("two_workers")
def test_a_layer_with_a_clock_of_its_own_runs_beside_those_that_wait(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = str(tmp_path / "mark")
    for layer, text in (("sim", WAITS.format(path=mark)), ("system", f"def test(): open({mark!r}, 'w')")):
        (checkout / "tests" / layer).mkdir()
        (checkout / "tests" / layer / "test_x.py").write_text(text)
    found = layers.run_layers(checkout, ["sim", "system"], [])
    assert [(each.layer, each.passed, each.failed) for each in found] == [("sim", 1, 0), ("system", 1, 0)]
    said = capfd.readouterr()
    assert said.err.index("--- sim, beside what follows") < said.err.index("--- system")
    assert said.out.count("1 passed") == 2


@pytest.mark.usefixtures("two_workers")
def test_what_runs_beside_ends_with_what_it_was_begun_for(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> Result:
        raise KeyboardInterrupt

    (checkout / "tests" / "sim").mkdir()
    (checkout / "tests" / "sim" / "test_x.py").write_text(WAITS.format(path=str(tmp_path / "never")))
    monkeypatch.setattr(layers, "run_layer", stop)
    monkeypatch.setenv(layers.RUN_VARIABLE, "mark-of-what-runs-beside")
    with pytest.raises(KeyboardInterrupt):
        layers.run_layers(checkout, ["sim", "system"], [])
    deadline = time.monotonic() + 60  # those that were killed
    while left := processes_of("mark-of-what-runs-beside"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_what_does_not_end_alone_has_failed() -> None:
    together = Result("system", 3, 1, 0, 1, failures=("x::y",))
    assert layers.told_apart(together, Result("system", 0, 1, 0, 1, "did not end within 1 s")) == together


def test_layer_without_tests_is_no_failure(checkout: Path) -> None:
    result = run_layer(checkout, "unit", [])
    assert (result.passed, result.failed, result.remark) == (0, 0, "no tests")


def test_pytest_that_cannot_start_is_a_failure(checkout: Path) -> None:
    result = run_layer(checkout, "unit", ["--no-such-option"])
    assert result.failed == 1
    assert "code 4" in result.remark


def test_summary_ends_with_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert summarize([Result("unit", 3, 0, 1, 1.5), Result("sim", 0, 0, 0, 0.1, "no tests")], [], 1.6) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize(
    ("results", "left"),
    [
        ([Result("unit", 3, 1, 0, 1)], []),
        ([Result("unit", 3, 0, 0, 1)], ["mount /x"]),
        ([Result("unit", 0, 0, 0, 1)], []),
        ([], []),
    ],
)
def test_summary_that_fails(
    results: list[Result], left: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert summarize(results, left, 1.0) == 1
    assert all(thing in capsys.readouterr().out for thing in left)


def test_leftover_processes_are_found_by_their_mark() -> None:
    code = "print(1, flush=True); input()"
    environ = {**os.environ, layers.RUN_VARIABLE: "mark-of-a-test"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = processes_of("mark-of-a-test")
        assert found.startswith(f"process {process.pid}: ")
        process.communicate(b"\n")
    assert processes_of("mark-of-a-test") == []


def test_footprint_names_what_was_added() -> None:
    before = Footprint(frozenset({"a"}), frozenset(), frozenset({"lo"}), frozenset({"/"}))
    after = Footprint(
        frozenset({"b"}), frozenset({"table inet g"}), frozenset({"lo", "tap0"}), frozenset({"/"})
    )
    assert after.added_since(before) == ["network namespace b", "nftables table inet g", "network link tap0"]
    assert before.added_since(before) == []
    assert "/" in Footprint.take().mounts


def test_the_first_namespace_of_a_machine_is_not_left_behind() -> None:
    """`ip netns add` mounts its directory once, after a boot, and nothing ever unmounts it."""
    mounts = "tmpfs /run tmpfs rw 0 0\ntmpfs /run/netns tmpfs rw 0 0\nnsfs /run/netns/a nsfs rw 0 0\n"
    assert layers.lasting_mounts(mounts) == {"/run", "/run/netns/a"}


def test_summary_says_why_tests_were_skipped(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "tests" / "unit" / "test_x.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.skip(reason='needs root')\ndef test_one(): pass\n"
        "@pytest.mark.skip(reason='needs root')\ndef test_two(): pass\n"
    )
    result = run_layer(checkout, "unit", ["-q"])
    capsys.readouterr()
    assert summarize([result, result], [], 1.0) == 0
    assert "Skipped:\n  4 x needs root\n" in capsys.readouterr().out


def test_installed_gureum_has_no_tests(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="not part of an installed gureum"):
        layers.run(tmp_path, [])
