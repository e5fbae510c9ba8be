"""RunInstances to the guest's first userspace line, against QEMU by hand; one, and ten at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gureum.bench import rawqemu
from gureum.bench.clouds import Bench, bench_cloud, wait
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.servers import BenchError

TYPE = "t3.nano"
AT_ONCE = 10
PROMISED = Promise(limit=1.25, of="ratio")
LINE_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.002
SETTLE_SECONDS = 1.0

Variant = Callable[..., list[str]]


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """By turns: ours, raw, ours, raw ... after one of ours that does not count."""
    with bench_cloud(say) as bench:
        bench.up()
        client = bench.client()
        command = warm_up(bench, client)
        alone = _series(bench, client, directory, command, 1, 3 if quick else 9, say)
        together = _series(bench, client, directory, command, AT_ONCE, 1 if quick else 3, say)
    return [*alone, *together]


def _series(
    bench: Bench, client: Any, directory: Path, command: list[str], count: int, rounds: int, say: Say
) -> list[Figure]:
    """QEMU with its own defaults stands beside one: "raw" may mean that too. Nothing is promised of it."""
    ours, same, plain = [], [], []
    what = "one" if count == 1 else f"{count} at once"
    for number in range(1, rounds + 1):
        ours.append(launch(bench, client, count))
        same.append(by_hand(directory, bench, command, rawqemu.same_hardware, count))
        said = f"{what}, round {number} of {rounds}: {ours[-1]:.2f} s, raw QEMU {same[-1]:.2f} s"
        if count == 1:
            plain.append(by_hand(directory, bench, command, rawqemu.plain, count))
            said += f", with its own defaults {plain[-1]:.2f} s"
        say(said)
    title = f"RunInstances to first userspace line, {what}"
    figures = [compare(title, "s", ours, same, peer_name="QEMU, same hardware", promise=PROMISED)]
    if plain:
        figures.append(compare(title, "s", ours, plain, peer_name="QEMU, its defaults"))
    return figures


def warm_up(bench: Bench, client: Any) -> list[str]:
    """Launch one that does not count; returns the command line that it got."""
    instance = run(bench, client, 1)[0]
    last_line([bench.machine_dir(instance) / "console.log"], bench.manifest.first_line or "")
    found = [
        command
        for path in Path("/proc").glob("[0-9]*")
        if (command := _qemu_command(path)) and f"guest={instance}," in " ".join(command)
    ]
    terminate(bench, client, [instance])
    if len(found) != 1:
        raise BenchError(f"{instance} has {len(found)} hypervisor processes")
    return found[0]


def _qemu_command(path: Path) -> list[str]:
    try:
        command = rawqemu.command_of(int(path.name))
    except OSError:
        return []
    return command if "qemu-system" in command[0] else []


def run(bench: Bench, client: Any, count: int) -> list[str]:
    made = client.run_instances(ImageId=bench.image, InstanceType=TYPE, MinCount=count, MaxCount=count)
    return [instance["InstanceId"] for instance in made["Instances"]]


def launch(bench: Bench, client: Any, count: int) -> float:
    """Seconds from the call until the last of so many instances shows its first line."""
    began = time.monotonic()
    instances = run(bench, client, count)
    consoles = [bench.machine_dir(instance) / "console.log" for instance in instances]
    seconds = last_line(consoles, bench.manifest.first_line or "") - began
    terminate(bench, client, instances)
    return seconds


def terminate(bench: Bench, client: Any, instances: list[str]) -> None:
    """And wait until nothing of them is left, so that the next one is measured alone."""
    client.terminate_instances(InstanceIds=instances, SkipOsShutdown=True)

    def gone() -> bool:
        described = client.describe_instances(InstanceIds=instances)["Reservations"]
        states = {each["State"]["Name"] for found in described for each in found["Instances"]}
        return states == {"terminated"} and not bench.cloud.guests()

    wait(f"{len(instances)} instances to terminate", gone)
    time.sleep(SETTLE_SECONDS)


def by_hand(directory: Path, bench: Bench, command: list[str], variant: Variant, count: int) -> float:
    """Seconds from the start of so many raw machines until the last shows its first line."""
    machines = rawqemu.RawMachines(directory / "raw", bench.manifest, count)
    try:
        commands = [
            variant(command, bench.manifest, overlay, console)
            for overlay, console in zip(machines.overlays, machines.consoles, strict=True)
        ]
        began = machines.start(commands)
        seconds = last_line(machines.consoles, bench.manifest.first_line or "") - began
    finally:
        machines.end()
        (directory / "raw").rmdir()
    time.sleep(SETTLE_SECONDS)
    return seconds


def last_line(consoles: Sequence[Path], text: str) -> float:
    """When (monotonic) the last of the logs had the line. A log need not exist yet."""
    wanted, waiting = text.encode(), list(consoles)
    deadline = time.monotonic() + LINE_SECONDS_MAX
    while True:
        waiting = [path for path in waiting if wanted not in _read(path)]
        now = time.monotonic()
        if not waiting:
            return now
        if now > deadline:
            raise BenchError(f"no {text!r} in {waiting[0]} after {LINE_SECONDS_MAX:.0f} s")
        time.sleep(LOOK_SECONDS)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
