"""How the processes of a cloud are started: with which interpreter, environment and arguments."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import gureum
from gureum.cli.output import CliError

EVACUATE_TIMEOUT_S = 120.0
LITTLE_SCRIPT = "import sys; sys.path[:0] = [{root!r}]; from {module} import main; sys.exit(main({argv!r}))"


def package_root() -> str:
    """The directory that holds the package: what has to be on the module path to import it."""
    return str(Path(gureum.__file__).resolve().parent.parent)


def child_environment() -> dict[str, str]:
    """The environment of the cloud's processes: they import the same package as this one."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if package_root() != sysconfig.get_path("purelib"):
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package_root(), os.environ.get("PYTHONPATH"))))
    return environ


def little_process(module: str, state_dir: Path, *more: str) -> list[str]:
    """The command that runs `main(["--state-dir", DIR, ...])` of a module of the standard library's only.

    -S leaves site-packages out: a third less memory, for as long as the cloud lives.
    """
    argv = ["--state-dir", str(state_dir), *more]
    code = LITTLE_SCRIPT.format(root=package_root(), module=module, argv=argv)
    return [sys.executable, "-S", "-P", "-c", code]


def run_all(commands: dict[str, list[str]], log_dir: Path) -> list[str]:
    """Runs commands at the same time, each with its name's log; returns the names of those that failed."""
    running = {}
    for name, command in commands.items():
        with open(log_dir / f"{name}.log", "ab") as log:
            running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_environment()
            )
    deadline = time.monotonic() + EVACUATE_TIMEOUT_S
    late = []
    for name, process in running.items():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            late.append(name)
    if late:
        raise CliError(
            f"the guests did not stop within {EVACUATE_TIMEOUT_S:.0f} s ({', '.join(late)})",
            "gureum down, once more",
        )
    return [name for name, process in running.items() if process.returncode != 0]
