"""The servers that are measured: a manager alone on a seeded store, and moto's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gureum.bench.client import Connection
from gureum.bench.requests import Endpoint, client, identity
from gureum.bench.seed import seed_instances
from gureum.cli.children import child_environment
from gureum.cli.config import CloudConfig, make_state_dir
from gureum.cli.processes import rss_kib
from gureum.env import Env
from gureum.errors import GureumError
from gureum.store.sqlite import SqliteStore

START_SECONDS_MAX = 60.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.005
MOTO_PER_CALL = 250
ACCOUNT = "123456789012"


class BenchError(GureumError):
    """Something that is to be measured did not work."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A running server. ``start_seconds``: from its exec to its first answer to a signed call."""

    endpoint: Endpoint
    pid: int
    start_seconds: float
    instances: tuple[str, ...] = ()

    @property
    def rss_mb(self) -> float:
        return (rss_kib(self.pid) or 0) / 1024


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_answer(endpoint: Endpoint, began: float, seconds_max: float = START_SECONDS_MAX) -> float | None:
    """Seconds from ``began`` (monotonic) to the first answered GetCallerIdentity; None: it took too long."""
    request = identity(endpoint)
    while time.monotonic() < began + seconds_max:
        connection = Connection("127.0.0.1", endpoint.port)
        try:
            connection.exchange(request)
        except OSError:
            time.sleep(LOOK_SECONDS)
        else:
            return time.monotonic() - began
        finally:
            connection.close()
    return None


@contextmanager
def _running(command: list[str], endpoint: Endpoint, log: Path) -> Iterator[Server]:
    """A server process, from its first answer on; it is ended, and waited for, at the end."""
    with open(log, "ab") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=child_environment()
        )
    try:
        seconds = first_answer(endpoint, began)
        if seconds is None:
            raise BenchError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
        yield Server(endpoint=endpoint, pid=process.pid, start_seconds=seconds)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Seeded(msgspec.Struct, frozen=True, kw_only=True):
    """A state directory with so many instances in its store, and no host for them."""

    state_dir: Path
    config: CloudConfig
    instances: tuple[str, ...]

    @contextmanager
    def manager(self) -> Iterator[Server]:
        """A manager on it, as ``gureum up`` runs it."""
        endpoint = Endpoint(
            port=self.config.port,
            access_key=self.config.access_key_id,
            secret=self.config.secret_access_key,
        )
        command = [sys.executable, "-P", "-m", "gureum.control", "--state-dir", str(self.state_dir)]
        with _running(command, endpoint, self.state_dir / "log" / "manager.log") as server:
            yield msgspec.structs.replace(server, instances=self.instances)


def seeded(state_dir: Path, count: int) -> Seeded:
    make_state_dir(state_dir)
    config = CloudConfig(
        name=state_dir.name,
        index=0,
        account_id=ACCOUNT,
        access_key_id="GUBENCHBENCHBENCHBEN",
        secret_access_key=os.urandom(20).hex(),
        port=free_port(),
    )
    config.save(state_dir)
    ids = asyncio.run(_seed(state_dir, config, count))
    return Seeded(state_dir=state_dir, config=config, instances=tuple(ids))


async def _seed(state_dir: Path, config: CloudConfig, count: int) -> list[str]:
    from gureum.control.__main__ import cloud_settings

    store = SqliteStore.open(state_dir / "store.db")
    try:
        return await seed_instances(store, Env(), cloud_settings(config), count)
    finally:
        await store.close()


@contextmanager
def moto(directory: Path, count: int) -> Iterator[Server]:
    """moto's server with so many instances."""
    endpoint = Endpoint(port=free_port(), access_key="moto", secret="moto")
    program = Path(sys.executable).parent / "moto_server"
    if not program.exists():
        raise BenchError(f"{program.name} is not installed: the development lock has it")
    command = [str(program), "-H", "127.0.0.1", "-p", str(endpoint.port)]
    with _running(command, endpoint, directory / "moto.log") as server:
        ec2 = client(endpoint, "ec2")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        ids: list[str] = []
        while len(ids) < count:
            wanted = min(MOTO_PER_CALL, count - len(ids))
            made = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=wanted, MaxCount=wanted)
            ids += [instance["InstanceId"] for instance in made["Instances"]]
        yield msgspec.structs.replace(server, instances=tuple(ids))
