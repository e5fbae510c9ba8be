"""A real cloud to measure: started through the command line like a user's, and taken away again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gureum.bench.figures import Say
from gureum.bench.requests import Endpoint, client
from gureum.bench.servers import BenchError, first_answer, free_port
from gureum.cli import images
from gureum.cli.children import child_environment
from gureum.cli.cloud import Cloud
from gureum.cli.config import default_base
from gureum.cli.output import CliError
from gureum.control.images import image_id
from gureum.images.library import newest
from gureum.images.manifest import ImageManifest

LAUNCHER = Path(__file__).resolve().parents[3] / "gureum"
UP_SECONDS_MAX = 60.0
WAIT_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.05


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The cloud and what its machines boot."""

    cloud: Cloud
    endpoint: Endpoint
    image: str
    manifest: ImageManifest

    def client(self) -> Any:
        return client(self.endpoint, "ec2")

    def machine_dir(self, instance: str) -> Path:
        return self.cloud.run_dir / "machines" / instance

    def up(self) -> float:
        """Runs `gureum up -d`. Returns the seconds from its exec to the first answer to a signed call."""
        command = [*launcher(), "up", "-d", "--state-dir", str(self.cloud.state_dir)]
        with open(self.cloud.log_dir / "up.log", "wb") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_environment()
            )
        seconds = first_answer(self.endpoint, began)
        code = process.wait(UP_SECONDS_MAX)
        if seconds is None or code != 0:
            said = (self.cloud.log_dir / "up.log").read_text()
            raise BenchError(f"gureum up ended with code {code}:\n{said}")
        return seconds


def launcher() -> list[str]:
    """The command, as a checkout has it or as it was installed."""
    if LAUNCHER.is_file():
        return [sys.executable, str(LAUNCHER)]
    return [str(Path(sys.executable).parent / "gureum")]


@contextmanager
def bench_cloud(say: Say) -> Iterator[Bench]:
    """A cloud of its own, not started yet, its image built. At the end it is stopped and removed."""
    cloud = Cloud(default_base() / "bench")
    if cloud.is_running() or cloud.guests():
        raise CliError(
            f"a measured cloud is still running in {cloud.state_dir}",
            f"gureum down --state-dir {cloud.state_dir}",
        )
    forget(cloud)
    config = cloud.configure(port=free_port())
    try:
        say("the image tiny")
        built = images.build(cloud.state_dir / "images", "tiny", refresh=False)
        manifest = newest(cloud.state_dir / "images", lambda found: image_id(found) == built["ImageId"])
        if manifest is None or manifest.first_line is None:
            raise BenchError("the image has no first line to wait for")
        endpoint = Endpoint(
            port=config.port, access_key=config.access_key_id, secret=config.secret_access_key
        )
        yield Bench(cloud=cloud, endpoint=endpoint, image=built["ImageId"], manifest=manifest)
    finally:
        cloud.stop_processes()
        cloud.evacuate()
        forget(cloud)


def forget(cloud: Cloud) -> None:
    """Remove the state of a measured cloud, but for the image, which takes longest to make."""
    if not cloud.state_dir.exists():
        return
    for path in cloud.state_dir.iterdir():
        if path.name == "images":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def wait(what: str, look: Callable[[], bool], seconds_max: float = WAIT_SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds_max
    while not look():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {seconds_max:.0f} s in vain for {what}")
        time.sleep(LOOK_SECONDS)
