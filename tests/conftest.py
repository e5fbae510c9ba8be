"""What all tests share."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.postgres import Server, lacks_postgres, server

INDICES = 4
"""That a test run uses from its first: clouds and networks of tests that run at once need their own."""


def own_index(first: int, worker: str) -> int:
    """Of a worker of pytest-xdist ("gw0", "gw1" ...), or of the only process ("")."""
    return first - INDICES * int(worker[2:] or 0)


# Before any test module reads it.
os.environ["GUREUM_TEST_INDEX"] = str(
    own_index(int(os.environ.get("GUREUM_TEST_INDEX", "62")), os.environ.get("PYTEST_XDIST_WORKER", ""))
)

# However this run was started: what commands say is compared with what is written in the source.
os.environ.pop("GUREUM_TYPED", None)

# A busy machine makes an example slow, not wrong.
settings.register_profile("gureum", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gureum")


@cache
def lacks_root() -> str:
    """Why tests marked `root` cannot run here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root"
    trial = ["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode == 0:
        return ""
    return f"needs a root that may make namespaces and mounts: {done.stderr.strip() or done.returncode}"


@cache
def lacks_qemu() -> str:
    return "" if shutil.which("qemu-system-x86_64") else "needs qemu-system-x86_64"


@cache
def lacks_ceph() -> str:
    """Daemons as users of their own, so root; and the packages."""
    programs = [name for name in ("ceph-mon", "ceph-mgr", "ceph-osd", "rbd") if shutil.which(name) is None]
    return lacks_root() or (f"needs {', '.join(programs)}" if programs else "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests whose mark says that they need what this machine does not have are skipped, saying so."""
    needs = {"root": lacks_root, "qemu": lacks_qemu, "ceph": lacks_ceph, "postgres": lacks_postgres}
    for item in items:
        for mark, lacks in needs.items():
            if item.get_closest_marker(mark) and (reason := lacks()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from support.shares import Shares  # only where there is xdist

    return Shares(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def postgres_url(postgres_server: Server) -> Callable[[Path], str]:
    """The database of a directory, made if there is none."""

    def url(directory: Path) -> str:
        mark = directory / "database"
        name = hashlib.sha256(bytes(directory)).hexdigest()[:20]
        if not mark.exists():
            postgres_server.create_database(name)
            mark.touch()
        return postgres_server.url(name)

    return url
