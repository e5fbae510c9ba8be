"""A run: a cloud, its load, its faults, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from gureum.bench.chaos import plan, settled
from gureum.bench.chaos.faults import Faults, Underway
from gureum.bench.chaos.plan import Fault, Step
from gureum.bench.chaos.report import Happening, Report, Violation
from gureum.bench.chaos.traffic import SMALL, Traffic, Wanted
from gureum.bench.chaos.writers import Writer
from gureum.bench.copies import Watch
from gureum.bench.leftovers import leftovers
from gureum.bench.san_faults import Guest, exported, launched, tiny_image
from gureum.bench.servers import BenchError, free_port
from gureum.cli import api, machine_hosts, storage
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.cli.san_options import Choice

HOSTS = 3
WRITERS = 3
OSD_BYTES = 6 << 30
SETTLE_SECONDS = 240.0
"""Until all is well after a fault, or as it was asked for in the end. An emulated guest boots in 10 s,
and in two minutes where several do beside other work."""
CLEAN_SECONDS = 90.0
"""Until what nobody has open any more is seen so: a dead client's watch is kept for 30 s."""
LOOK_SECONDS = 0.5


class Run:
    """``directory``: for what is needed meanwhile. ``say``: a line for each thing that happens."""

    def __init__(self, cloud: Cloud, directory: Path, seed: int, say: Callable[[str], None]) -> None:
        self.cloud = cloud
        self.report = Report(seed=seed)
        self._directory = directory
        self._say = say
        self._began = time.monotonic()
        self._wanted = Wanted()
        self._writers: list[Writer] = []
        self._watch = Watch(cloud, self.violated)

    def tell(self, words: str) -> None:
        seconds = int(time.monotonic() - self._began)
        self._say(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} {words}")

    def violated(self, words: str) -> None:
        self.report.violations.append(Violation(round(time.monotonic() - self._began, 1), words))
        self.tell(f"VIOLATED: {words}")

    def run(self, seconds: float) -> None:
        """Raises BenchError and CliError where there is nothing that could be judged."""
        image = self._start()
        traffic = Traffic(self.cloud, self.report.seed, image, self._wanted, HOSTS, self.violated)
        loads: list[Watch | Writer | Traffic] = [self._watch, *self._writers, traffic]
        with ExitStack() as stack:
            for load in loads:
                load.start()
                stack.callback(load.close)
            self._faults(seconds)
            traffic.close()
            self._settle()
            for writer in self._writers:
                writer.close()
            self._compare()
            self._clean_up()
        self._sum_up(traffic)

    # ---- the cloud and its guests

    def _start(self) -> str:
        """Returns the image's id."""
        machine_hosts.change(self.cloud, HOSTS, 1)
        config = self.cloud.configure(port=free_port(), hosts=HOSTS, host_zones=1)
        storage.choose(self.cloud, Choice("ceph", osd_bytes=OSD_BYTES))
        storage.prepare(self.cloud, config, self.tell)
        self.cloud.start(config, self.tell)
        storage.settle(self.cloud, self.tell)
        self.tell(f"{WRITERS} guests that write")
        image = tiny_image(self.cloud)
        for guest in launched(self.cloud, self._directory, image, WRITERS):
            self._wanted.instances[guest.instance] = "running"
            self._wanted.types[guest.instance] = SMALL
            self._writers.append(self._writer(guest))
        return image

    def _writer(self, guest: Guest) -> Writer:
        own = self._directory / guest.instance
        own.mkdir()

        def read() -> bytes:
            return exported(self.cloud, guest.volume, own)

        return Writer(guest.instance, guest.volume, guest.ssh, read, self.violated)

    # ---- faults

    def _faults(self, seconds: float) -> None:
        faults = Faults(self.cloud, HOSTS, lambda: self._watch.now)
        self._wait("all to be well at first", lambda: self._ill(self._began))
        ends = time.monotonic() + seconds
        for step in plan.steps(self.report.seed):
            if time.monotonic() > ends:
                return
            if any(fault.kind in plan.HOST_KINDS for fault in step.faults):
                # With another one away these would be most of them.
                self._wait("the hosts to be up", self._hosts_away)
            self._step(step, faults)

    def _step(self, step: Step, faults: Faults) -> None:
        began = time.monotonic()
        hosts = {each.instance: self._watch.host_of(each.instance) for each in self._watch.now}
        with ThreadPoolExecutor(len(step.faults)) as together:
            ended = together.map(lambda fault: self._do(fault, faults), step.faults)
            done = [each for each in ended if each is not None]
        if not done:
            return
        healed = time.monotonic()
        time.sleep(step.pause)
        if step.waits:
            self._wait("all to be well", lambda: self._ill(healed))
        now = time.monotonic()
        away = {host for each in done for host in each.hosts}
        hit = {id for id, host in hosts.items() if host in away} | {each.instance for each in done}
        again = {
            seen.copy.instance: round(seen.at - began, 1)
            for seen in reversed(self._watch.began)
            if seen.at > began and seen.copy.instance in hit and not seen.copy.comes
        }
        happening = Happening(
            at=round(began - self._began, 1),
            kinds=tuple(fault.kind for fault in step.faults),
            words=" and ".join(each.words for each in done),
            again=again,
            waits={each.instance: round(each.longest_wait(began, now), 1) for each in self._writers},
            well=round(now - began, 1) if step.waits else None,
        )
        self.report.happenings.append(happening)
        self.tell(f"  {happening.came()}")

    def _do(self, fault: Fault, faults: Faults) -> Underway | None:
        """From its time to its end. None: there was nothing to do it to."""
        time.sleep(fault.after)
        if (underway := faults.begin(fault)) is None:
            return None
        self.tell(underway.words)
        try:
            time.sleep(fault.seconds)
        finally:
            underway.close()
        return underway

    # ---- what is looked at

    def _wait(self, what: str, ill: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while found := ill():
            if time.monotonic() > deadline:
                self.violated(f"waited {SETTLE_SECONDS:.0f} s in vain for {what}: {'; '.join(found)}")
                return
            time.sleep(LOOK_SECONDS)

    def _hosts_away(self) -> list[str]:
        try:
            return settled.away(api.hosts(self.cloud))
        except CliError as error:
            return [str(error)]

    def _ill(self, since: float) -> list[str]:
        silent = [each for each in self._writers if not each.answered or each.answered[-1] < since]
        return [
            *(f"{each.instance} writes nothing" for each in silent),
            *(f"{each.name} does not run" for each in self.cloud.processes() if not each.is_ready),
            *self._hosts_away(),
        ]

    # ---- the end

    def _settle(self) -> None:
        ended = time.monotonic()
        self.tell("the faults have ended")
        self._wait(
            "all to be as it was asked for",
            lambda: self._ill(ended) + settled.unsettled(self.cloud, self._wanted, self._watch.now),
        )
        self.report.settled = round(time.monotonic() - ended, 1)
        self.tell(f"all is as it was asked for after {self.report.settled:.0f} s")

    def _compare(self) -> None:
        self._wait_clean("the storage to hold what is asked for", lambda: settled.storage(self.cloud))

    def _clean_up(self) -> None:
        """All is deleted, then nothing must be left; of the cloud that has ended neither.

        What is not as it must be is kept to be looked at.
        """
        if not self.report.violations:
            self.tell("all is deleted")
            try:
                settled.delete_all(self.cloud)
            except (BenchError, CliError) as error:
                self.violated(f"not all could be deleted: {error}")
            self._wait_clean("the storage to be empty", lambda: settled.empty(self.cloud))
            self._wait_clean("the hosts to be empty", lambda: settled.on_hosts(self.cloud))
        self._watch.close()
        self.cloud.stop_processes()
        self.cloud.evacuate()
        for left in leftovers(self.cloud):
            self.violated(f"left on the machine: {left}")

    def _wait_clean(self, what: str, look: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + CLEAN_SECONDS
        while (found := look()) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for each in found:
            self.violated(f"waited in vain for {what}: {each}")

    def _sum_up(self, traffic: Traffic) -> None:
        report = self.report
        report.seconds = round(time.monotonic() - self._began, 1)
        report.calls, report.refused = dict(traffic.calls), dict(traffic.refused)
        report.unanswered, report.looks = traffic.unanswered, self._watch.looks
        report.writes = sum(len(each.answered) for each in self._writers)
        report.checks = sum(each.checks for each in self._writers)
        report.bytes_verified = sum(each.bytes_checked for each in self._writers)
        report.longest_waits = {each.instance: round(each.longest_wait_of_all(), 1) for each in self._writers}
