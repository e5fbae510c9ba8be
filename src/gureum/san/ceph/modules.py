"""The modules of a Ceph manager, which are Python: those that it must have, and nothing in them.

A cluster of one machine has no use for any. Without those that are always on a manager is unhealthy; with
them as they are it takes half as much memory again.
"""

from __future__ import annotations

from pathlib import Path

MGR_LIBRARY = Path("/usr/share/ceph/mgr")
ALWAYS_ON = (
    "balancer",
    "crash",
    "devicehealth",
    "orchestrator",
    "pg_autoscaler",
    "progress",
    "rbd_support",
    "status",
    "telemetry",
    "volumes",
)
"""Modules without which a manager is unhealthy (MgrMonitor.cc, always_on_modules)."""
IDLE_MODULE = """from mgr_module import MgrModule


class Module(MgrModule):
    \"\"\"Does nothing: the manager must have a module of this name, and this cluster no use for it.\"\"\"
"""
UTILITIES = "mgr_util.py"
OWN_UTILITIES = """def profile_method(*_):
    \"\"\"All that `mgr_module` wants from here: a decorator, which would measure.\"\"\"
    return lambda method: method
"""
"""In the place of Ceph's, which imports bcrypt: that of Debian 13 cannot be loaded by a manager."""


def are_in(directory: Path) -> bool:
    """Whether they are there, and of the Ceph that is installed."""
    there = {path.name for path in directory.iterdir()} - {"__pycache__"}
    return there == {*_libraries(), *ALWAYS_ON} and not (directory / UTILITIES).is_symlink()


def make(directory: Path) -> None:
    """A directory for `mgr_module_path`."""
    directory.mkdir()
    for library in _libraries() - {UTILITIES}:
        (directory / library).symlink_to(MGR_LIBRARY / library)
    (directory / UTILITIES).write_text(OWN_UTILITIES)
    for name in ALWAYS_ON:
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text("from .module import Module\n")
        (directory / name / "module.py").write_text(IDLE_MODULE)


def _libraries() -> set[str]:
    return {path.name for path in MGR_LIBRARY.glob("*.py")} | {UTILITIES}
