"""`gureum test`: the checks and the layers of tests, cheapest first, and what they leave on the machine."""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gureum.cli.output import MISSING, USAGE, CliError, note, table

CHECK = "check"
LAYERS = ("unit", "conformance", "sim", "integration", "system")
CHOSEN = "chosen"
LAYER_TIMEOUT_S = 3600
NO_TESTS = 5  # pytest's exit code
WORKERS_MAX = 4
"""Each may run a storage cluster and some guests, and has networks of its own (tests/conftest.py)."""
RUN_VARIABLE = "GUREUM_TEST_RUN"


@dataclass(frozen=True)
class Result:
    layer: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    remark: str = ""
    skips: tuple[str, ...] = ()  # the reason of each


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
        report = Path(directory) / "report.xml"
        where = [] if names_paths(extra) else [f"tests/{layer}"]
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *workers(extra), *where, *extra]
        try:
            code = subprocess.run(command, cwd=checkout, timeout=LAYER_TIMEOUT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            return Result(layer, 0, 1, 0, time.monotonic() - began, f"did not end within {LAYER_TIMEOUT_S} s")
        passed, failed, skips = read_report(report)
    skipped = len(skips)
    seconds = time.monotonic() - began
    if code == NO_TESTS:
        return Result(layer, passed, 0, skipped, seconds, "no tests", skips)
    if code != 0 and failed == 0:
        return Result(layer, passed, 1, skipped, seconds, f"pytest ended with code {code}", skips)
    return Result(layer, passed, failed, skipped, seconds, skips=skips)


def workers(extra: Sequence[str]) -> list[str]:
    """For pytest: a whole layer is shared out by files among processes, as most tests wait for something.

    What somebody chose runs in one process: it can be stopped in a debugger, and starts at once.
    """
    count = min(os.cpu_count() or 1, WORKERS_MAX)
    return (
        [] if extra or count < 2 else ["--numprocesses", str(count), "--dist", "loadfile", "--durations=10"]
    )


def read_report(report: Path) -> tuple[int, int, tuple[str, ...]]:
    """Passed, failed and the reasons of the skipped from a JUnit file; nothing where pytest wrote none."""
    if not report.exists():
        return 0, 0, ()
    total = failed = 0
    skips: list[str] = []
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skips += (skip.get("message", "") for skip in suite.iter("skipped"))
    return max(0, total - failed - len(skips)), failed, tuple(skips)


def run(checkout: Path, names: Sequence[str]) -> int:
    """Runs what `names` chooses. Returns the exit code: 0 only if all passed and nothing was left behind."""
    if not (checkout / "tests").is_dir():
        raise CliError(
            "the tests are not part of an installed gureum",
            "run ./gureum test in a checkout",
            exit_code=MISSING,
        )
    layers, extra = choose(names)
    mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ[RUN_VARIABLE] = mark
    before = Footprint.take()
    results = []
    for layer in layers:
        note(f"--- {layer}")
        results.append(run_check(checkout) if layer == CHECK else run_layer(checkout, layer, extra))
    left = [*Footprint.take().added_since(before), *processes_of(mark)]
    return summarize(results, left)


def summarize(results: Sequence[Result], left: Sequence[str]) -> int:
    rows = [
        (result.layer, result.passed, result.failed, result.skipped, f"{result.seconds:.1f} s", result.remark)
        for result in results
    ]
    print("\n" + table(("layer", "passed", "failed", "skipped", "time", ""), rows))
    if reasons := Counter(reason for result in results for reason in result.skips):
        print("\nSkipped:")
        for reason, count in reasons.most_common():
            print(f"  {count} x {reason}")
    if left:
        print("\nLeft on the machine by the tests:")
        for thing in left:
            print(f"  {thing}")
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results) + bool(left)
    skipped = sum(result.skipped for result in results)
    print(f"\nTotal time: {sum(result.seconds for result in results):.1f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 0 if failed == 0 and passed > 0 else 1
