"""A cloud whose manager and agent are small scripts: what the CLI does with processes, not what they do."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.cli import cloud as cloud_module
from gureum.cli import config as config_module
from gureum.cli.children import package_root
from gureum.cli.cloud import Cloud

# Says that it answers, and does so until SIGTERM. A file STATE/crash-NAME makes it end at once instead.
FAKE_ROLE = """
import json, os, signal, sys
name, state = NAME, sys.argv[sys.argv.index("--state-dir") + 1]
if "--host" in sys.argv:
    name += "-" + sys.argv[sys.argv.index("--host") + 1]
if "--evacuate" in sys.argv:
    open(f"{state}/evacuated" + name.removeprefix("agent"), "w").close()
    sys.exit(3 if os.path.exists(f"{state}/evacuate-fails") else 0)
print(f"{name} says hello", flush=True)
if os.path.exists(f"{state}/crash-{name}"):
    sys.exit(f"{name} cannot go on")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(f"{state}/run/{name}.ready.new", "w") as file:
    json.dump({"pid": os.getpid(), "endpoint": "http://127.0.0.1:1"}, file)
os.rename(f"{state}/run/{name}.ready.new", f"{state}/run/{name}.ready")
while True:
    signal.pause()
"""

FAKE_SUPERVISOR = """
import sys
sys.path[:0] = [{root!r}]
from gureum.cli import supervisor
supervisor.MODULES = {{"manager": "fake_manager", "agent": "fake_agent"}}
supervisor.WARDEN_SCRIPT = {warden!r}
supervisor.BACKOFF_FIRST_S = 0.02
sys.exit(supervisor.main(["--state-dir", {state!r}, *{roles!r}]))
"""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    modules = tmp_path / "modules"
    modules.mkdir()
    for name in ("manager", "agent"):
        (modules / f"fake_{name}.py").write_text(FAKE_ROLE.replace("NAME", repr(name)))
    (modules / "fake_warden.py").write_text(FAKE_ROLE.replace("NAME", repr("warden")))
    warden = f"import sys; sys.path.append({str(modules)!r}); import fake_warden"
    monkeypatch.setenv("PYTHONPATH", str(modules))

    def fake_process(_module: str, state_dir: Path, *roles: str) -> list[str]:
        code = FAKE_SUPERVISOR.format(root=package_root(), state=str(state_dir), roles=roles, warden=warden)
        return [sys.executable, "-S", "-c", code]

    monkeypatch.setattr(cloud_module, "little_process", fake_process)
    monkeypatch.setattr(cloud_module, "AGENT_MODULE", "fake_agent")
    monkeypatch.setattr(cloud_module, "default_base", lambda: tmp_path / "base")
    monkeypatch.setattr(config_module, "STATE_PATH_MAX", 4096)
    # The first index of this base is that of another cloud on the machine, too.
    monkeypatch.setattr(cloud_module.Fabric, "remove", lambda _self: None)
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    if cloud.run_dir.exists():
        cloud.stop_processes()
        cloud.stop_wardens()
    assert not os.path.exists(cloud.run_dir / "supervisor.pid")
