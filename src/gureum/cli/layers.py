"""`gureum test`: the checks and the layers of tests, cheapest first, and what they leave on the machine."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gureum.cli.output import MISSING, USAGE, CliError, note, table

CHECK = "check"
LAYERS = ("unit", "conformance", "sim", "integration", "system")
CHOSEN = "chosen"
LAYER_TIMEOUT_S = 3600
NO_TESTS = 5  # pytest's exit code
WORKERS_MAX = 4
"""Each may run a storage cluster and some guests, and has networks of its own (tests/conftest.py)."""
NICENESS = "19"
"""The most there is: what waits for guests must not wait for what does not."""
PATIENT = ("-o", "timeout=1800")
"""For pytest: tests that have little of the processors are not taken for ones that hang."""
REPORT = "report.xml"
RUN_VARIABLE = "GUREUM_TEST_RUN"
SHARED_MACHINE = ("integration", "system")
"""Layers whose tests wait for real guests and clusters, and have less of the machine beside others."""
ASIDE = ("sim",)
"""Layers whose tests have a clock of their own: they take what those on a SHARED_MACHINE leave of it."""
ALONE_MAX = 16
"""More failures than this have another cause than what ran beside them."""


@dataclass(frozen=True)
class Result:
    layer: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    remark: str = ""
    skips: tuple[str, ...] = ()  # the reason of each
    failures: tuple[str, ...] = ()  # by name
    only_alone: tuple[str, ...] = ()  # tests that failed beside others, and passed by themselves


@dataclass(frozen=True)
class Footprint:
    """What tests could leave on the machine, by name."""

    namespaces: frozenset[str]
    tables: frozenset[str]
    links: frozenset[str]
    mounts: frozenset[str]

    @classmethod
    def take(cls) -> "Footprint":
        mounts = lasting_mounts(Path("/proc/self/mounts").read_text())
        links = frozenset(path.name for path in Path("/sys/class/net").glob("*"))
        return cls(_lines("ip", "netns", "list"), _lines("nft", "list", "tables"), links, mounts)

    def added_since(self, before: "Footprint") -> list[str]:
        kinds = {
            "network namespace": (self.namespaces, before.namespaces),
            "nftables": (self.tables, before.tables),
            "network link": (self.links, before.links),
            "mount": (self.mounts, before.mounts),
        }
        return [f"{kind} {name}" for kind, (now, then) in kinds.items() for name in sorted(now - then)]


def lasting_mounts(mounts: str) -> frozenset[str]:
    """Mount points of /proc/self/mounts, without the directory that a machine's first `ip netns add` mounts.

    That mount is iproute2's, belongs to all namespaces together, and stays until the machine is shut down.
    """
    points = frozenset(line.split()[1] for line in mounts.splitlines())
    return points - {"/run/netns", "/var/run/netns"}


def _lines(*command: str) -> frozenset[str]:
    """The output's lines; none where the program or the right to run it is missing."""
    environ = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=environ)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(done.stdout.splitlines())


def processes_of(run: str) -> list[str]:
    """Processes of the run that still live: they inherited the run's mark in their environment."""
    mark = f"{RUN_VARIABLE}={run}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if int(directory.name) == os.getpid() or mark not in (directory / "environ").read_bytes().split(
                b"\0"
            ):
                continue
            command = (
                (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            )
        except OSError:
            continue
        if command:
            found.append(f"process {directory.name}: {command[:150]}")
    return found


def choose(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into layers, in their order, and what pytest gets.

    No layer named: all, or only what pytest is told to run where its arguments name paths.
    """
    known = (CHECK, *LAYERS)
    count = 0
    while count < len(arguments) and not arguments[count].startswith("-") and "/" not in arguments[count]:
        if arguments[count] not in known:
            raise CliError(
                f"there is no test layer {arguments[count]!r}",
                f"choose from: {', '.join(known)}",
                exit_code=USAGE,
            )
        count += 1
    named, extra = arguments[:count], list(arguments[count:])
    if named:
        return [layer for layer in known if layer in named], extra
    return ([CHOSEN] if names_paths(extra) else list(known)), extra


def names_paths(extra: Sequence[str]) -> bool:
    return any("/" in argument and not argument.startswith("-") for argument in extra)


def run_check(checkout: Path) -> Result:
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(checkout / "scripts" / "check")], cwd=checkout, check=False)
    good = done.returncode == 0
    return Result(CHECK, int(good), int(not good), 0, time.monotonic() - began)


def run_layer(checkout: Path, layer: str, extra: Sequence[str]) -> Result:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gureum-test-") as directory:
        shared = workers(layer, extra)
        where = [] if names_paths(extra) else [f"tests/{layer}"]
        result = run_pytest(checkout, layer, [*shared, *where, *extra], Path(directory))
        files = files_of(checkout, result.failures)
        if shared and layer in SHARED_MACHINE and files and len(result.failures) <= ALONE_MAX:
            note(f"--- {layer}: what failed, alone")
            result = told_apart(result, run_pytest(checkout, layer, files, Path(directory)))
    return replace(result, seconds=time.monotonic() - began)


def files_of(checkout: Path, tests: Sequence[str]) -> list[str]:
    """Those with these tests, whole: some go on where the one before ended. Empty unless all are known."""
    found = {_file_of(checkout, Path(*test.partition("::")[0].split("."))) for test in tests}
    return [] if "" in found else sorted(found)


def _file_of(checkout: Path, name: Path) -> str:
    """``name``: of a module, or of a class in one."""
    candidates = (f"{each}.py" for each in (name, name.parent))
    return next((each for each in candidates if (checkout / each).is_file()), "")


def told_apart(together: Result, alone: Result) -> Result:
    """The result of a layer of which some tests failed beside others and ran by themselves after that."""
    if alone.failed and not alone.failures:  # it did not come to its end
        return together
    passed = tuple(test for test in together.failures if test not in alone.failures)
    return replace(
        together,
        passed=together.passed + together.failed - alone.failed,
        failed=alone.failed,
        failures=alone.failures,
        only_alone=passed,
    )


def run_pytest(checkout: Path, layer: str, arguments: Sequence[str], directory: Path) -> Result:
    """``directory`` is for its report, and what it would keep for another run."""
    began = time.monotonic()
    (directory / REPORT).unlink(missing_ok=True)
    code: int | None = None
    with suppress(subprocess.TimeoutExpired):
        command = pytest_command(directory, arguments)
        code = subprocess.run(command, cwd=checkout, timeout=LAYER_TIMEOUT_S, check=False).returncode
    return result_of(layer, directory, code, time.monotonic() - began)


def pytest_command(directory: Path, arguments: Sequence[str]) -> list[str]:
    kept = ["-o", f"cache_dir={directory / 'cache'}", f"--junitxml={directory / REPORT}"]
    return [sys.executable, "-m", "pytest", *kept, *arguments]


def result_of(layer: str, directory: Path, code: int | None, seconds: float) -> Result:
    """``code``: pytest's exit code, None if it did not end in time."""
    if code is None:
        return Result(layer, 0, 1, 0, seconds, f"did not end within {LAYER_TIMEOUT_S} s")
    passed, failures, skips = read_report(directory / REPORT)
    result = Result(layer, passed, len(failures), len(skips), seconds, skips=skips, failures=failures)
    if code == NO_TESTS:
        return replace(result, failed=0, remark="no tests")
    if code != 0 and not failures:
        return replace(result, failed=1, remark=f"pytest ended with code {code}")
    return result


class Aside:
    """pytest for a layer while others run, with what they leave of the processors; its output comes later."""

    def __init__(self, checkout: Path, layer: str) -> None:
        self._layer, self._began = layer, time.time()
        self._directory = tempfile.TemporaryDirectory(prefix="gureum-test-")
        command = pytest_command(
            Path(self._directory.name), [*workers(layer, ()), *PATIENT, f"tests/{layer}"]
        )
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                ["nice", "-n", NICENESS, *command],
                cwd=checkout,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Where sessions share the processors evenly, whatever is nice in them (sched(7)).
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/autogroup").write_text(NICENESS)

    @property
    def _output(self) -> Path:
        return Path(self._directory.name, "output")

    def result(self) -> Result:
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(LAYER_TIMEOUT_S)
        note(f"--- {self._layer}, meanwhile")
        print(self._output.read_text(errors="replace"), flush=True)
        seconds = self._output.stat().st_mtime - self._began  # it may have ended long ago
        return result_of(self._layer, Path(self._directory.name), code, seconds)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._directory.cleanup()


def workers(layer: str, extra: Sequence[str]) -> list[str]:
    """For pytest: a whole layer is shared out by files among processes.

    What somebody chose runs in one process: it can be stopped in a debugger, and starts at once.
    """
    processors = os.cpu_count() or 1
    if extra or processors < 2:
        return []
    # Tests of integration wait for a third of their time. Emulated guests and clusters need all of theirs.
    count = min(processors + (layer == "integration"), WORKERS_MAX)
    return ["--numprocesses", str(count), "--dist", "loadfile", "--durations=10"]


def read_report(report: Path) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Passed, the names of the failed and the reasons of the skipped from a JUnit file; nothing where
    pytest wrote none. A test that failed and could not clean up either is one that failed."""
    if not report.exists():
        return 0, (), ()
    total = 0
    failures: dict[str, None] = {}
    skips: list[str] = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        total += 1
        if case.find("failure") is not None or case.find("error") is not None:
            failures[f"{case.get('classname')}::{case.get('name')}"] = None
        skips += (skip.get("message", "") for skip in case.iter("skipped"))
    return max(0, total - len(failures) - len(skips)), tuple(failures), tuple(skips)


def run(checkout: Path, names: Sequence[str]) -> int:
    """Runs what `names` chooses. Returns the exit code: 0 only if all passed and nothing was left behind."""
    if not (checkout / "tests").is_dir():
        raise CliError(
            "the tests are not part of an installed gureum",
            "run ./gureum test in a checkout",
            exit_code=MISSING,
        )
    layers, extra = choose(names)
    began = time.monotonic()
    mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ[RUN_VARIABLE] = mark
    before = Footprint.take()
    results = run_layers(checkout, layers, extra)
    left = [*Footprint.take().added_since(before), *processes_of(mark)]
    return summarize(results, left, time.monotonic() - began)


def run_layers(checkout: Path, layers: Sequence[str], extra: Sequence[str]) -> list[Result]:
    """One after the other, but for those ASIDE, which begin in their turn and end last."""
    results: dict[str, Result] = {}
    shares = not {*layers}.isdisjoint(SHARED_MACHINE)
    with ExitStack() as stack:
        aside: dict[str, Aside] = {}
        for layer in layers:
            if shares and layer in ASIDE and workers(layer, extra):
                note(f"--- {layer}, beside what follows")
                aside[layer] = Aside(checkout, layer)
                stack.callback(aside[layer].close)
                continue
            note(f"--- {layer}")
            results[layer] = run_check(checkout) if layer == CHECK else run_layer(checkout, layer, extra)
        results |= {layer: each.result() for layer, each in aside.items()}
    return [results[layer] for layer in layers]


def summarize(results: Sequence[Result], left: Sequence[str], seconds: float) -> int:
    rows = [
        (result.layer, result.passed, result.failed, result.skipped, f"{result.seconds:.1f} s", result.remark)
        for result in results
    ]
    print("\n" + table(("layer", "passed", "failed", "skipped", "time", ""), rows))
    if reasons := Counter(reason for result in results for reason in result.skips):
        print("\nSkipped:")
        for reason, count in reasons.most_common():
            print(f"  {count} x {reason}")
    if alone := [test for result in results for test in result.only_alone]:
        print("\nFailed beside others and passed alone; find out why:")
        for test in alone:
            print(f"  {test}")
    if left:
        print("\nLeft on the machine by the tests:")
        for thing in left:
            print(f"  {thing}")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results) + bool(left)
    skipped = sum(result.skipped for result in results)
    print(f"\nTotal time: {seconds:.1f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 0 if failed == 0 and passed > 0 else 1
