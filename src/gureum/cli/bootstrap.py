"""Sets up what a checkout is missing, then becomes the CLI.

Standard library only, no network when nothing is missing, and cheap: every start of `./gureum` passes here.

The virtual environment (`.venv` in the checkout, or $GUREUM_VENV) is exactly one lock file. A stamp in it
says which. While pip works, a marker says so: an environment found with the marker was interrupted and is
made anew. Everything that changes it happens under a file lock on its directory.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from gureum.cli.commands import COMMANDS, TYPED_VARIABLE, Command, exit_code_help
from gureum.cli.packages import Need, Package, apt_command, by_hand, missing

EXIT_MISSING = 3
STAMP = "gureum-stamp.json"
MARKER = "gureum-setup-in-progress"
LOCKS = {False: "requirements.lock", True: "requirements-dev.lock"}
APT_TIMEOUT_S = 1800
PIP_TIMEOUT_S = 1800


class SetupError(Exception):
    """Set-up cannot go on; the text says why and what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the command line, as far as the launcher reads it


def command_of(arguments: Sequence[str]) -> tuple[str | None, bool]:
    """The command's name and whether --yes stands before it."""
    yes = False
    for argument in arguments:
        if not argument.startswith("-"):
            return argument, yes
        yes = yes or argument in ("--yes", "-y")
    return None, yes


def no_command(name: str, arguments: Sequence[str]) -> str:
    """What is wrong where the first word is no command: perhaps it belongs to an option."""
    options = list(arguments[: list(arguments).index(name)])
    later = next((each for each in arguments if each in COMMANDS), None)
    if options and options[-1].startswith("--") and later is not None:
        return f"options go after the command: ./gureum {later} {options[-1]} {name}"
    return f"there is no command {name!r}. Commands: {', '.join(COMMANDS)}"


def needs_of(arguments: Sequence[str]) -> frozenset[Need]:
    """What options of the command ask for beyond what it needs by itself: `--san ceph`, `--san=ceph:...`."""
    pairs = pairwise([*arguments, ""])
    chosen = [one.partition("=")[2] or two for one, two in pairs if one.partition("=")[0] == "--san"]
    return frozenset({Need.SAN}) if any(value.startswith("ceph") for value in chosen) else frozenset()


def wants_help(arguments: Sequence[str]) -> bool:
    if "--" in arguments:
        arguments = arguments[: list(arguments).index("--")]
    return not arguments or "--help" in arguments or "-h" in arguments


def launcher_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: ./gureum [--yes] COMMAND [OPTIONS]",
            "",
            "The first command sets up what is missing: a virtual environment in the checkout (or in",
            "$GUREUM_VENV) and Debian packages, which it names before it installs them. --yes, GUREUM_YES=1",
            "or CI=true agree.",
            "",
            "Commands:",
            *lines,
            "",
            exit_code_help(),
        ]
    )


# ---- Debian packages


def is_agreed(yes: bool, environ: Mapping[str, str]) -> bool:
    return yes or environ.get("GUREUM_YES") == "1" or environ.get("CI", "").lower() in ("true", "1")


def may_install(packages: Sequence[Package], command: str, yes: bool) -> None:
    """Names the packages and returns if they may be installed, or raises with what to do."""
    apt = by_hand(packages)
    again = f"then ./gureum {command} again."
    say(f"gureum {command} needs Debian packages that are missing:")
    for package in packages:
        say(f"  {package.name:<18} {package.why}")
    if not os.path.exists("/usr/bin/apt-get"):
        raise SetupError("this is not a Debian system: install the programs above by its own means.")
    if os.geteuid() != 0:
        sudo = shutil.which("sudo") is not None
        say_who = "Run" if sudo else "Let root run"
        raise SetupError(f"only root may install them. {say_who}:\n  {by_hand(packages, sudo=sudo)}\n{again}")
    if is_agreed(yes, os.environ):
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise SetupError(
            "nobody to ask (no terminal). Agree with --yes or GUREUM_YES=1:\n"
            f"  ./gureum --yes {command}\nor run:\n  {apt}\n{again}"
        )
    # Not input(): it asks on stdout, which is a pipe in eval "$(./gureum env)".
    sys.stderr.write("Install them now? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        say("")
    if answer.strip().lower() not in ("y", "yes"):
        raise SetupError(f"not installed. To do it yourself, run:\n  {apt}\n{again}")


def install_packages(packages: Sequence[Package]) -> None:
    install = apt_command(packages)
    install[1:1] = ["-o", "DPkg::Lock::Timeout=300", "-q"]
    has_lists = any(Path("/var/lib/apt/lists").glob("*Packages*"))
    if has_lists and _apt(install):
        return
    # No lists, or lists so old that the versions they name are gone. One bad source among good ones makes
    # the update fail, and what is wanted may come from the good ones all the same.
    _apt(["apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", "update"])
    if not _apt(install):
        raise SetupError(
            "apt-get failed; its messages are above. Do the sources in /etc/apt answer? Then run the same\n"
            f"command again, or first:\n  {by_hand(packages)}"
        )


def _apt(command: list[str]) -> bool:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    say("+ " + " ".join(command))
    try:
        # Its output goes to stderr: the command's own stdout stays clean.
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"apt-get did not end within {APT_TIMEOUT_S} s") from None
    return done.returncode == 0


# ---- the virtual environment


def venv_directory(checkout: Path, environ: Mapping[str, str]) -> Path:
    chosen = environ.get("GUREUM_VENV")
    return Path(chosen).expanduser().absolute() if chosen else checkout / ".venv"


def lock_digest(checkout: Path, *, dev: bool) -> str:
    return hashlib.sha256((checkout / LOCKS[dev]).read_bytes()).hexdigest()


def read_stamp(venv: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_ready(venv: Path, checkout: Path, *, dev: bool) -> bool:
    """Whether the environment is complete, of the lock asked for (dev contains run), and of this checkout."""
    stamp = read_stamp(venv)
    wanted = {"dev": lock_digest(checkout, dev=True)}
    if not dev and stamp.get("dev") != wanted["dev"]:
        wanted = {"run": lock_digest(checkout, dev=False)}
    wanted["checkout"] = str(checkout)
    return (
        all(stamp.get(key) == value for key, value in wanted.items())
        and not (venv / MARKER).exists()
        and (venv / "bin" / "python").exists()
    )


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """One set-up at a time. The lock is on the directory itself, which `venv --clear` empties but keeps.

    Yields its descriptor: pip inherits it, so that a pip whose launcher was killed still holds the lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another set-up of {directory} ...")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def make_venv(venv: Path, checkout: Path, *, dev: bool) -> None:
    """Makes the environment, or makes it right: after an interruption, a new lock or a new Python."""
    try:
        with locked(venv) as lock:
            if not is_ready(venv, checkout, dev=dev):
                say(f"Setting up {venv} from {LOCKS[dev]}: downloads, takes about a minute ...")
                _fill(venv, checkout, lock, dev=dev)
    except OSError as error:
        raise SetupError(
            f"the virtual environment {venv} cannot be made: {error.strerror}.\n"
            "Choose another place for it: GUREUM_VENV=DIRECTORY"
        ) from error


def _fill(venv: Path, checkout: Path, lock: int, *, dev: bool) -> None:
    stamp = read_stamp(venv)
    foreign = (venv / "pyvenv.cfg").exists() and not stamp and not (venv / MARKER).exists()
    only_grows = (
        dev
        and stamp.get("run") == lock_digest(checkout, dev=False)
        and not (venv / MARKER).exists()
        and (venv / "bin" / "python").exists()
    )
    # One that somebody else made, perhaps with another Python, is completed, not thrown away.
    if not only_grows and not (foreign and _has_pip(venv)):
        _run(
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            "python3 -m venv",
            "Is there room on the disk?",
            lock,
        )
    (venv / MARKER).touch()
    (venv / STAMP).unlink(missing_ok=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    pip += ["--require-hashes", "--only-binary", ":all:", "--no-deps"]
    _run([*pip, "-r", str(checkout / LOCKS[dev])], "pip install", "Is the package index reachable?", lock)
    _link_checkout(venv, checkout)
    _write_stamp(venv, checkout, dev=dev)
    (venv / MARKER).unlink()


def _has_pip(venv: Path) -> bool:
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "--version"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _run(command: list[str], name: str, question: str, lock: int) -> None:
    """Runs a step of the set-up; `question` is what to look at where it fails."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            pass_fds=(lock,),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{name} did not end within {PIP_TIMEOUT_S} s. {question}") from None
    if done.returncode != 0:
        raise SetupError(
            f"{name} failed; its messages are above. {question} Then run the same command again."
        )


def _link_checkout(venv: Path, checkout: Path) -> None:
    for site in venv.glob("lib/python3*/site-packages"):
        (site / "gureum-checkout.pth").write_text(f"{checkout / 'src'}\n")


def _write_stamp(venv: Path, checkout: Path, *, dev: bool) -> None:
    stamp = {
        "run": lock_digest(checkout, dev=False),
        "checkout": str(checkout),
        "python": sys.version.split()[0],
    }
    if dev:
        stamp["dev"] = lock_digest(checkout, dev=True)
    os.sync()  # pip flushes nothing: after a power cut there would be the stamp and, behind it, empty files
    scratch = venv / (STAMP + ".new")
    scratch.write_text(json.dumps(stamp, indent=2) + "\n")
    scratch.replace(venv / STAMP)


# ---- all of it


def prepare(
    checkout: Path, name: str, command: Command, *, yes: bool, more: Collection[Need] = frozenset()
) -> Path:
    """Installs what `command` misses, and what `more` is for. Returns the environment's python."""
    venv = venv_directory(checkout, os.environ)
    ready = is_ready(venv, checkout, dev=command.dev)
    needs = set(command.needs) | set(more) | (set() if ready else {Need.SETUP})
    lacking = missing(needs)
    if lacking:
        may_install(lacking, name, yes)
        install_packages(lacking)
        still = missing(needs)
        if still:
            names = " ".join(package.name for package in still)
            raise SetupError(f"apt-get ended well, but these are still missing: {names}")
    if not ready:
        make_venv(venv, checkout, dev=command.dev)
    return venv / "bin" / "python"


def typed(program: str) -> str:
    """How to call the launcher again; "" where its name alone is enough."""
    found = shutil.which("gureum")
    return "" if found is not None and os.path.realpath(found) == os.path.realpath(program) else program


def main(checkout: Path, arguments: Sequence[str]) -> NoReturn:
    name, yes = command_of(arguments)
    command = COMMANDS.get(name or "", Command(help=""))
    if wants_help(arguments):
        # Help installs nothing: the CLI's own where there is one, else the launcher's.
        venv = venv_directory(checkout, os.environ)
        if not is_ready(venv, checkout, dev=False):
            print(launcher_help())
            sys.exit(0)
        command = Command(help="")
    elif name is not None and name not in COMMANDS:
        say(f"gureum: {no_command(name, arguments)}")
        sys.exit(2)
    try:
        python = prepare(checkout, name or "", command, yes=yes, more=needs_of(arguments))
    except SetupError as error:
        say(f"gureum: {error}")
        sys.exit(EXIT_MISSING)
    except KeyboardInterrupt:
        say("gureum: interrupted; run the same command again to go on.")
        sys.exit(130)
    os.environ[TYPED_VARIABLE] = typed(sys.argv[0])
    # -P: a file named like a module, in the directory where the user happens to be, must not be imported.
    os.execv(python, [str(python), "-P", "-m", "gureum.cli", *arguments])
