"""RunInstances to the guest's first userspace line, against QEMU by hand; one, and ten at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gureum.bench import rawqemu
from gureum.bench.clouds import Bench, bench_cloud, wait
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.processes import cpu_seconds
from gureum.bench.servers import BenchError

TYPE = "t3.nano"
AT_ONCE = 10
PROMISED = Promise(limit=1.25, of="ratio")
LINE_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.002
SETTLE_SECONDS = 1.0

Variant = Callable[..., list[str]]


class Taken(NamedTuple):
    """Until the last first line: seconds on the clock, and CPU time of all the hypervisor processes."""

    seconds: float
    cpu: float


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """By turns: ours, raw, ours, raw ... after one of ours that does not count."""
    with bench_cloud(say) as bench:
        bench.up()
        client = bench.client()
        command = warm_up(bench, client)
        alone = _series(bench, client, directory, command, 1, 3 if quick else 9, say)
        together = _series(bench, client, directory, command, AT_ONCE, 1 if quick else 5, say)
    return [*alone, *together]


def _series(
    bench: Bench, client: Any, directory: Path, command: list[str], count: int, rounds: int, say: Say
) -> list[Figure]:
    """QEMU with its own defaults stands beside one: "raw" may mean that too. Nothing is promised of it."""
    ours: list[Taken] = []
    same: list[Taken] = []
    plain: list[Taken] = []
    what = "one" if count == 1 else f"{count} at once"
    for number in range(1, rounds + 1):
        ours.append(launch(bench, client, count))
        same.append(by_hand(directory, bench, command, rawqemu.same_hardware, count))
        said = f"{what}, round {number} of {rounds}: {_said(ours[-1])}, raw QEMU {_said(same[-1])}"
        if count == 1:
            plain.append(by_hand(directory, bench, command, rawqemu.plain, count))
            said += f", with its own defaults {_said(plain[-1])}"
        say(said)
    title = f"RunInstances to first userspace line, {what}"
    peer = "QEMU, same hardware"
    figures = [compare(title, "s", _seconds(ours), _seconds(same), peer_name=peer, promise=PROMISED)]
    if plain:
        figures.append(compare(title, "s", _seconds(ours), _seconds(plain), peer_name="QEMU, its defaults"))
    cpu = f"{title}: CPU time in QEMU"
    figures.append(
        compare(cpu, "s", [each.cpu for each in ours], [each.cpu for each in same], peer_name=peer)
    )
    return figures


def _said(taken: Taken) -> str:
    return f"{taken.seconds:.2f} s ({taken.cpu:.1f} s of CPU time)"


def _seconds(taken: Sequence[Taken]) -> list[float]:
    return [each.seconds for each in taken]


def warm_up(bench: Bench, client: Any) -> list[str]:
    """Launch one that does not count; returns the command line that it got."""
    instance = run(bench, client, 1)[0]
    last_line([bench.machine_dir(instance) / "console.log"], bench.manifest.first_line or "")
    found = [command for _, command in _hypervisors([instance])]
    terminate(bench, client, [instance])
    if len(found) != 1:
        raise BenchError(f"{instance} has {len(found)} hypervisor processes")
    return found[0]


def _hypervisors(instances: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The processes that run these instances, with their command lines."""
    wanted = tuple(f"guest={instance}," for instance in instances)
    return [
        (int(path.name), command)
        for path in Path("/proc").glob("[0-9]*")
        if (command := _qemu_command(path)) and any(argument.startswith(wanted) for argument in command)
    ]


def _qemu_command(path: Path) -> list[str]:
    try:
        command = rawqemu.command_of(int(path.name))
    except OSError:
        return []
    return command if "qemu-system" in command[0] else []


def run(bench: Bench, client: Any, count: int) -> list[str]:
    made = client.run_instances(ImageId=bench.image, InstanceType=TYPE, MinCount=count, MaxCount=count)
    return [instance["InstanceId"] for instance in made["Instances"]]


def launch(bench: Bench, client: Any, count: int) -> Taken:
    """From the call until the last of so many instances shows its first line."""
    began = time.monotonic()
    instances = run(bench, client, count)
    consoles = [bench.machine_dir(instance) / "console.log" for instance in instances]
    seconds = last_line(consoles, bench.manifest.first_line or "") - began
    cpu = sum(cpu_seconds(pid) for pid, _ in _hypervisors(instances))
    terminate(bench, client, instances)
    return Taken(seconds, cpu)


def terminate(bench: Bench, client: Any, instances: list[str]) -> None:
    """And wait until nothing of them is left, so that the next one is measured alone."""
    client.terminate_instances(InstanceIds=instances, SkipOsShutdown=True)

    def gone() -> bool:
        described = client.describe_instances(InstanceIds=instances)["Reservations"]
        states = {each["State"]["Name"] for found in described for each in found["Instances"]}
        return states == {"terminated"} and not bench.cloud.guests()

    wait(f"{len(instances)} instances to terminate", gone)
    time.sleep(SETTLE_SECONDS)


def by_hand(directory: Path, bench: Bench, command: list[str], variant: Variant, count: int) -> Taken:
    """From the start of so many raw machines until the last shows its first line."""
    machines = rawqemu.RawMachines(directory / "raw", bench.manifest, count)
    try:
        commands = [
            variant(command, bench.manifest, rawqemu.overlay_disk(overlay), console)
            for overlay, console in zip(machines.overlays, machines.consoles, strict=True)
        ]
        began = machines.start(commands)
        seconds = last_line(machines.consoles, bench.manifest.first_line or "") - began
        cpu = sum(map(cpu_seconds, machines.pids))
    finally:
        machines.end()
        (directory / "raw").rmdir()
    time.sleep(SETTLE_SECONDS)
    return Taken(seconds, cpu)


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
