"""A machine on its way from this host to another one, or to here.

QEMU copies its memory and the state of its devices; its disks are in storage that both hosts reach, or are
copied before (``disk_copies``). The destination's QEMU is started held (``-S -incoming defer``), and touches
no disk before ``cont`` (late-block-activate) but for what it takes of a copy. The source's holds the guest
once all is copied, lets go of the disks, and never continues by itself after that. Which of the two goes on
is for the manager to decide.

What is under way is found again from QEMU itself, and from the record: which attempt it is, and for an
incoming machine where it is listened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Incoming, Migration, Outgoing
from gureum.hypervisors.qemu import secret_dir
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.channel import Listener, beside, connect
from gureum.hypervisors.qemu.disk_copies import Copy, DiskCopies, Roads, end_export, export
from gureum.hypervisors.qemu.live_nodes import item
from gureum.hypervisors.qemu.migration_settings import CREDENTIALS, set_capabilities, use_secret
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.hypervisors.qemu.progress import (
    PRE_SWITCHOVER,
    downtime_limit,
    parse_figures,
    parse_phase,
    sends,
)
from gureum.migrationspec import MigrationPhase

if TYPE_CHECKING:
    from gureum.hypervisors.qemu.machine import Machine

log = logging.getLogger(__name__)

CONNECTION = "migration"
POLL_SECONDS = 1.0
BEGIN_SECONDS = 15.0
"""From the connection to the first of what is copied."""
SILENT_SECONDS = 30.0
"""QEMU that does not answer for so long is taken to wait for a disk of the other host."""
DROP_AGAIN_SECONDS, DROP_AGAIN_SECONDS_MAX = 1.0, 60.0
"""When copies that could not be let go of are tried again: later each time."""
CANCEL_SECONDS = 20.0
CANCEL_POLL_SECONDS = 0.05
ARRIVAL_SECONDS = 5.0
FIGURES_TRIES, FIGURES_SECONDS = 400, 0.005
UNBOUNDED, BANDWIDTH_MIN = 1 << 40, 1 << 16
"""Bytes a second. QEMU takes a few for no bound."""
CONNECT_TRIES = 30
"""The destination's agent may just be restarted, and listen elsewhere."""

COPYING = MigrationPhase.copying
UNDER_WAY = (MigrationPhase.waiting, MigrationPhase.copying)


class Migrating:
    """``status`` is what is known of it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._secret = machine.files.directory / "psk"
        self._listener: Listener | None = None
        self._background = Background(machine.id)
        self._watching: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._told_to_stay = False
        """What is held here after all was sent was told to go on. Perhaps QEMU has not answered that."""
        self._bounds: Outgoing | None = None
        self._advanced = asyncio.Event()
        self._turn = asyncio.Lock()
        """Between disks and memory, and between memory and devices."""
        self._disks_first = False
        """Disks are being copied, and nothing else yet."""
        self._volumes: tuple[str, ...] = ()
        """Disks of which there may be copies under way, or that have ended."""
        self._copied: tuple[str, ...] = ()
        self._roads = Roads()
        self._tries = 0
        self.status: Migration | None = None

    @property
    def away(self) -> bool:
        """Whether the guest runs elsewhere, or soon does, as far as is known here."""
        completed = self.status is not None and self.status.phase is MigrationPhase.completed
        return self._machine.saved.incoming or completed

    @property
    def under_way(self) -> bool:
        """Or completed."""
        phase = self.status.phase if self.status is not None else MigrationPhase.failed
        return self._machine.saved.incoming or phase is not MigrationPhase.failed

    @property
    def holds_still(self) -> bool:
        """Whether a guest that is paused has to stay so: not while only its disks are being copied."""
        return self.under_way and not self._disks_first

    def require_settled(self) -> None:
        """Before the machine is changed: what it consists of must stay the same on both hosts."""
        if self._machine.saved.incoming:
            raise HypervisorError(f"{self._machine.id}: is on its way here from another host")
        if self.under_way:
            raise HypervisorError(f"{self._machine.id}: is on its way to another host")

    # --- to here

    async def receive(self, incoming: Incoming) -> None:
        """Of a QEMU that was just started: wait for the guest."""
        monitor = self._machine.monitor()
        await use_secret(monitor, self._secret, incoming.secret, self._machine.saved.uid, "server")
        capabilities = ("events", "late-block-activate", "auto-converge")
        await set_capabilities(monitor, capabilities)
        await monitor.execute("migrate-set-parameters", {"tls-creds": CREDENTIALS})
        if incoming.copies:
            disks = self._machine.disks()
            address = await export(monitor, disks, incoming.copies, incoming.listen, CREDENTIALS)
            await self._machine.save(exports=address)
        self._listen(incoming.listen, incoming.secret)

    def _listen(self, listen: str, secret: bytes) -> None:
        migration = self._machine.saved.migration
        self._listener = Listener(listen, secret, migration, self._came)
        self._show(
            Migration(
                migration=migration,
                incoming=True,
                phase=MigrationPhase.waiting,
                address=self._listener.address,
                disks_address=self._machine.saved.exports,
            )
        )

    async def _came(self, connection: socket.socket) -> None:
        """The source has connected: QEMU takes it from here, this once."""
        self._stop_listening()
        monitor = self._machine.monitor()
        try:
            await monitor.send_named_file(CONNECTION, connection.fileno())
            await monitor.execute("migrate-incoming", {"uri": f"fd:{CONNECTION}"})
        except HypervisorError as error:
            failed = messages.migration_failed(str(error))
            self._background.start(self._machine.end(MachineState.crashed, failed))
            raise
        self._advance(COPYING)
        self._background.start(self._expect_begin())

    async def _expect_begin(self) -> None:
        """QEMU tells nobody that the handshake of its TLS has failed."""
        await asyncio.sleep(BEGIN_SECONDS)
        if self._machine.saved.incoming and await self._phase() is None:
            await self._machine.end(
                MachineState.crashed, messages.migration_failed("the source did not begin")
            )

    # --- from here

    async def migrate(self, outgoing: Outgoing) -> None:
        machine = self._machine
        status = self.status
        if machine.saved.migration == outgoing.migration and status is not None:
            if status.phase is COPYING and outgoing != self._bounds:
                # Else what it may be held for, which grows with the passes, would begin anew.
                await self._bound(machine.monitor(), outgoing)
                if self._disks_first:
                    await self._copies().limit(outgoing.copies, outgoing.bytes_per_second)
            return
        self.require_settled()
        await machine.freezer.settled()
        if machine.state is not MachineState.running or machine.saved.frozen:
            raise HypervisorError(f"{machine.id}: is {machine.message or machine.state}: it cannot move now")
        self._volumes, self._copied, self._tries = outgoing.copies, (), 0
        if outgoing.copies:
            await machine.save(migration=outgoing.migration)
            await self._end_dropping()
            try:
                await self._begin_disks(machine.monitor(), outgoing)
            except HypervisorError:
                self._drop()
                raise
            self._disks_first = True
            self._show(Migration(migration=outgoing.migration, incoming=False, phase=COPYING))
        else:
            connecting = connect(outgoing.address, outgoing.secret, outgoing.migration)
            monitor, uid = machine.monitor(), machine.saved.uid
            told = use_secret(monitor, self._secret, outgoing.secret, uid, "client")
            kept = machine.save(migration=outgoing.migration)
            with await beside(connecting, told, kept) as connection:
                await self._begin(monitor, outgoing, connection)
        self._watch()

    def _drop(self) -> None:
        """Let the guest go on with its own disks alone, however long QEMU needs for that."""
        self._volumes = ()
        if self._dropping is None or self._dropping.done():
            self._dropping = self._background.start(self._drop_until_done())

    async def _drop_until_done(self) -> None:
        pause = DROP_AGAIN_SECONDS
        while True:
            try:
                await self._copies().drop()
            except HypervisorError as error:
                log.warning("%s; this is tried again in %g s", error, pause)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, DROP_AGAIN_SECONDS_MAX)

    async def _end_dropping(self) -> None:
        """Before another attempt, whose copies have the same names: it lets go of the earlier ones itself."""
        if self._dropping is not None:
            self._dropping.cancel()
            await asyncio.wait([self._dropping])

    def _copies(self) -> DiskCopies:
        return DiskCopies(self._machine.env, self._machine.monitor(), self._machine.disks(), self._roads)

    async def _begin_disks(self, monitor: Monitor, outgoing: Outgoing) -> None:
        await use_secret(monitor, self._secret, outgoing.secret, self._machine.saved.uid, "client")
        self._bounds = outgoing
        bound = outgoing.bytes_per_second
        await self._copies().begin(
            outgoing.copies, outgoing.disks_address, outgoing.migration, CREDENTIALS, bound
        )

    async def _look_at_disks(self) -> None:
        """Tell how far they are; let the memory follow once the destination has them."""
        async with self._turn:
            if not self._disks_first or self.status is None:
                return
            copies = await self._copies().look()
            done, total = sum(each.done_bytes for each in copies), sum(each.total_bytes for each in copies)
            self._show(replace(self.status, disk_done_bytes=done, disk_total_bytes=total))
            failed = [each.failure or f"the copy of {each.volume} has ended" for each in copies if each.over]
            if failed:
                self._fail(failed[0])
            elif self._bounds is None:
                return  # its agent was restarted, and says in a moment where the memory is to go
            elif {each.volume for each in copies} != set(self._bounds.copies):
                self._fail("not all of its disks are being copied")
            elif all(each.ready for each in copies):
                await self._send_memory(self._bounds)

    async def _send_memory(self, outgoing: Outgoing) -> None:
        machine = self._machine
        await machine.freezer.settled()
        if machine.state is not MachineState.running or machine.saved.frozen:
            return  # it goes on in a moment, or ends
        try:
            connection = await connect(outgoing.address, outgoing.secret, outgoing.migration)
        except HypervisorError as error:
            self._tries += 1
            if self._tries == CONNECT_TRIES:
                self._fail(str(error))
            return
        try:
            with connection:
                await self._begin(machine.monitor(), outgoing, connection)
        except CommandError as error:
            self._fail(str(error))
        else:
            self._disks_first = False

    async def _switch_over(self) -> None:
        """The guest is held: let its disks be whole at the destination, and the rest of it follow."""
        async with self._turn:
            monitor = self._machine.monitor()
            answer = item(await monitor.execute("query-migrate"))
            if answer.get("status") != PRE_SWITCHOVER or self._bounds is None:
                return
            try:
                self._copied = await self._copies().end(self._bounds.copies)
                await monitor.execute("migrate-continue", {"state": PRE_SWITCHOVER})
            except HypervisorError as error:
                log.warning("%s", error)
                await monitor.execute("migrate_cancel")

    def _fail(self, error: str) -> None:
        """Before any memory was sent."""
        self._disks_first = False
        if self.status is not None:
            self._show(replace(self.status, phase=MigrationPhase.failed, error=error))

    async def _begin(self, monitor: Monitor, outgoing: Outgoing, connection: socket.socket) -> None:
        held = {"pause-before-switchover": bool(outgoing.copies)}
        # Without "return-path": the source need not wait for what the destination says of itself.
        await set_capabilities(monitor, ("events", "auto-converge"), **held)
        await self._bound(monitor, outgoing)
        await monitor.execute("migrate-set-parameters", {"tls-creds": CREDENTIALS})
        await monitor.send_named_file(CONNECTION, connection.fileno())
        self._machine.env.crashpoint("qemu.migrate.begin")
        # From here on it may be under way, whatever comes back.
        if not outgoing.copies:
            self._show(Migration(migration=outgoing.migration, incoming=False, phase=COPYING))
        try:
            await monitor.execute("migrate", {"uri": f"fd:{CONNECTION}"})
        except CommandError:
            self.status = self.status if outgoing.copies else None
            raise
        except HypervisorError as error:
            if not self._machine.lives:
                self.process_ended(str(error))
                raise
            # QEMU may do it yet. It does one command after the other: what it says of it next is the truth.
            log.warning("%s; whether it leaves is asked until that is known", error)
        self._machine.env.crashpoint("qemu.migrate.begun")

    async def _bound(self, monitor: Monitor, outgoing: Outgoing, passes: int = 0) -> None:
        self._bounds = outgoing
        downtime = downtime_limit(outgoing, passes)
        bandwidth = max(outgoing.bytes_per_second or UNBOUNDED, BANDWIDTH_MIN)
        await monitor.execute(
            "migrate-set-parameters", {"max-bandwidth": bandwidth, "downtime-limit": downtime}
        )

    async def cancel(self) -> None:
        machine = self._machine
        if machine.saved.incoming or self.status is None or self.status.phase is not COPYING:
            return
        async with self._turn:
            if self._disks_first:
                self._fail(messages.CANCELLED)
                await self._dropped()
                return
        # While it waits for a disk of the other host QEMU holds the guest, and answers nothing.
        self._roads.cut()
        await machine.monitor().execute("migrate_cancel")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                while self.status is not None and self.status.phase is COPYING:
                    await self._look()
                    await asyncio.sleep(CANCEL_POLL_SECONDS)
                await machine.refresh()
                return
        raise HypervisorError(f"{machine.id}: its migration has not ended in {CANCEL_SECONDS:g} s")

    async def _dropped(self) -> None:
        if self._dropping is not None:
            _, late = await asyncio.wait([self._dropping], timeout=CANCEL_SECONDS)
            if late:
                raise HypervisorError(f"{self._machine.id}: copies of its disks have not ended yet")

    def _watch(self) -> None:
        """Until it has ended, also while QEMU does not answer."""

        async def watch() -> None:
            told = ""
            loop = asyncio.get_running_loop()
            answered = loop.time()
            while self.status is not None and self.status.phase is COPYING:
                await asyncio.sleep(POLL_SECONDS)
                try:
                    await self._look()
                    answered = loop.time()
                except HypervisorError as error:
                    if loop.time() > answered + SILENT_SECONDS:
                        self._roads.cut()
                    if str(error) != told:
                        told = str(error)
                        log.warning("%s", told)

        if self._watching is None or self._watching.done():
            self._watching = self._background.start(watch())

    async def _look(self) -> None:
        """Ask QEMU how far it is."""
        if self._disks_first:
            await self._look_at_disks()
            return
        monitor = self._machine.monitor()
        answer = item(await monitor.execute("query-migrate"))
        if answer.get("status") == PRE_SWITCHOVER:
            await self._switch_over()
            return
        phase = parse_phase(answer)
        if self.status is None or self.status.phase is MigrationPhase.failed:
            return  # for good, whatever QEMU says: it may be of a guest that stayed after all
        if phase is None:
            self._not_begun()
            return
        if self.status.phase is not COPYING and phase is COPYING:
            return  # it was asked before that ended
        figures = parse_figures(self.status, answer, self._machine.resizing.status)
        self._show(replace(figures, phase=phase))
        if phase is COPYING and self._bounds is not None:
            passes = int(str(item(answer.get("ram")).get("dirty-sync-count", 0)))
            if downtime_limit(self._bounds, passes) != self._bounds.downtime_ms:
                await self._bound(monitor, self._bounds, passes)

    def _not_begun(self) -> None:
        """QEMU knows of nothing that it was told to send."""
        status = self.status
        if status is not None and status.phase is COPYING and not status.incoming:
            self._show(replace(status, phase=MigrationPhase.failed, error=messages.NOT_BEGUN))

    async def _last_look(self) -> None:
        """What it has taken QEMU says a moment later than that it has ended."""
        for _ in range(FIGURES_TRIES):
            if not self._machine.connected:
                return
            await self._look()
            if self.status is None or self.status.error:
                return
            if self.status.phase is not COPYING and self.status.total_ms:
                return
            await asyncio.sleep(FIGURES_SECONDS)

    # --- either

    async def go_on(self) -> None:
        machine = self._machine
        if machine.saved.incoming:
            await self._all_here()
            if machine.saved.exports:
                await end_export(machine.monitor())
            try:
                await machine.monitor().execute("cont")
            except CommandError as error:
                if "Resetting" not in str(error):  # its guest had shut down before it came
                    raise
                machine.came_and_went_on()
            machine.env.crashpoint("qemu.migrate.went_on")
            await machine.refresh()
        elif self.status is not None and self.status.phase is MigrationPhase.completed:
            self._told_to_stay = True
            await machine.monitor().execute("cont")
            await machine.refresh()
            self.runs()
        elif self.status is not None and self.status.phase in UNDER_WAY:
            raise HypervisorError(f"{machine.id}: is still being copied to another host")

    async def _all_here(self) -> None:
        """The source knows it a moment earlier than the destination."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_SECONDS):
                while self.status is not None and self.status.phase is COPYING:
                    await self._advanced.wait()
                    self._advanced.clear()
        if self.status is None or self.status.phase is not MigrationPhase.completed:
            raise HypervisorError(f"{self._machine.id}: not all of it has come here yet")

    def runs(self) -> None:
        """QEMU says so, perhaps long after it was told to let the guest go on."""
        status = self.status
        if self._told_to_stay and status is not None and status.phase is MigrationPhase.completed:
            self._told_to_stay = False
            self._show(replace(status, phase=MigrationPhase.failed, error=messages.STAYED))

    def went_on(self) -> None:
        """The guest runs here, or has shut down: its migration is over."""
        self._stop_listening()
        self.status = None

    def event(self, status: str) -> None:
        """QEMU says that it is at another step."""
        phase = parse_phase({"status": status})
        if phase is None or self.status is None:
            return
        if status == "active":
            secret_dir.remove(self._secret)
        if status == PRE_SWITCHOVER:
            self._background.start(self._switch_over())
        incoming = self._machine.saved.incoming
        if incoming or phase is not MigrationPhase.failed:  # which is told together with its reason
            self._advance(phase)
        if not incoming and phase is not COPYING:
            self._background.start(self._last_look())

    def _advance(self, phase: MigrationPhase) -> None:
        if self.status is not None and self.status.phase is not phase:
            self._show(replace(self.status, phase=phase))

    def process_ended(self, message: str) -> None:
        """Also that of a machine which was found without one."""
        self._stop_listening()
        self._roads.release()
        self._background.cancel()
        secret_dir.remove(self._secret)
        status, saved = self.status, self._machine.saved
        if saved.incoming:
            status = status or Migration(
                migration=saved.migration, incoming=True, phase=MigrationPhase.failed
            )
            self.status = replace(status, phase=MigrationPhase.failed, address="", error=message)
        elif status is not None and status.phase is COPYING:
            self.status = replace(status, phase=MigrationPhase.failed, error=message)

    async def load(self) -> None:
        """Learn what is under way with a machine that was found."""
        saved = self._machine.saved
        if not saved.migration:
            return
        answer = item(await self._machine.monitor().execute("query-migrate"))
        phase = parse_phase(answer)
        if saved.incoming:
            await self._load_incoming(phase)
            return
        copies = await self._copies().look()
        if copies:
            await self._machine.refresh()  # as it is after that answer
        self._volumes = tuple(copy.volume for copy in copies)
        if copies and not sends(answer, self._machine.run_state):
            self._load_disks(copies)
        elif phase is not None:
            self._copied = tuple(sorted(copy.volume for copy in copies if copy.ended))
            status = Migration(migration=saved.migration, incoming=False, phase=phase)
            self.status = parse_figures(status, answer)
            if phase is MigrationPhase.completed:
                await self._load_completed()
        else:
            self._not_begun()
            return
        if self.status is not None:
            self._machine.migration_changed()
            self._watch()

    def _load_disks(self, copies: list[Copy]) -> None:
        """Before its memory was sent; or after that, and the guest stayed."""
        self.status = Migration(migration=self._machine.saved.migration, incoming=False, phase=COPYING)
        self._disks_first = not any(copy.over for copy in copies)
        if not self._disks_first:
            failure = next((copy.failure for copy in copies if copy.failure), messages.STAYED)
            self._fail(failure)

    async def _load_completed(self) -> None:
        """It may be what has once brought the machine here that was completed: the run state tells.

        As it is now: what was asked before that may be from before it was completed.
        """
        await self._machine.refresh()
        if self.status is None:
            return
        if self._machine.run_state == "postmigrate":
            self.status = replace(self.status, copied=self._copied)
        elif self._machine.run_state == "finish-migrate":
            self.status = replace(self.status, phase=COPYING)
        else:
            self.status = replace(self.status, phase=MigrationPhase.failed, error=messages.STAYED)

    async def _load_incoming(self, phase: MigrationPhase | None) -> None:
        saved = self._machine.saved
        if phase is not None:
            self._stop_listening()
            secret_dir.remove(self._secret)
            self.status = Migration(
                migration=saved.migration, incoming=True, phase=phase, disks_address=saved.exports
            )
            # Its end may have been told between that answer and this.
            self._watch()
        elif self._listener is None:
            secret = secret_dir.read(self._secret)
            if not secret:  # who started it died before it was told: no guest can come
                await self._machine.end(MachineState.crashed, messages.migration_failed(messages.NOT_TOLD))
                return
            self._listen(saved.listens, secret)

    async def _phase(self) -> MigrationPhase | None:
        """What QEMU says; None if nothing has begun."""
        return parse_phase(item(await self._machine.monitor().execute("query-migrate")))

    def _show(self, status: Migration) -> None:
        if not status.incoming and status.phase is MigrationPhase.completed:
            status = replace(status, copied=self._copied)
        if status == self.status:
            return
        if not status.incoming and status.phase is MigrationPhase.failed and self._volumes:
            self._drop()
        if self.status is None or status.phase is not self.status.phase:
            log.info("%s: %s: %s %s", self._machine.id, status.migration, status.phase, status.error)
        self.status = status
        self._advanced.set()
        if status.address and status.address != self._machine.saved.listens:
            self._machine.remember(listens=status.address)
        self._machine.migration_changed()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def close(self) -> None:
        self._roads.release()
        self._background.cancel()
        if self._listener is not None:
            self._listener.abandon()
            self._listener = None
