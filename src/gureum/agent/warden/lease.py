"""The host's lease in the storage cluster: a thread that renews it, and tells what comes of it.

Calls into librados may block for as long as the cluster is away, and nothing ends them: only this thread
waits for them. It decides nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import rados

from gureum.agent.warden import notes
from gureum.agent.warden.custody import LEASE_SECONDS, RENEW_SECONDS, Marks
from gureum.san.ceph.rbdworker import fences

CONNECT_SECONDS = 5
OPERATION_SECONDS = 10
"""An operation waits for an OSD that died, up to 20 s, and one that is given up is only asked again."""
LAGGY_SECONDS = 2
"""Then the client asks for a newer map of the OSDs. By default it does so after 10 to 15 s, which no
operation lives to see; and with an old map it tries for ever to reach OSDs as they were before a restart.
"""
LOOKED_SECONDS_MAX = 3.0
TOLD_MAX = 100
SHUTDOWN_SECONDS = 1.0
ENDINGS_MAX = 8


class Settings(NamedTuple):
    """``keyring`` "" for the usual one. ``which``: this start of a warden, of all that the host had."""

    conf: str
    user: str
    keyring: str
    pool: str
    cloud: str
    host: str
    which: str


class Told(NamedTuple):
    """``renewed``: the lease, by a request begun at ``began``; ``marks`` were read after that, None if they
    were not. ``foreign``: who has the lease instead. ``error``: why neither is known.
    """

    began: float
    renewed: bool = False
    marks: Marks | None = None
    foreign: str = ""
    error: str = ""


class Lease:
    """``tell`` is called, in this thread, when there is news. The other methods are for another thread."""

    def __init__(self, settings: Settings, tell: Callable[[], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._cookie = f"{fences.BY_WARDEN}/{settings.cloud}/{settings.host}/{settings.which}"
        self._cluster: Any = None
        self._io: Any = None
        self._endings: list[threading.Thread] = []
        """Clients that may still be shutting down."""
        self._news: deque[Told] = deque(maxlen=TOLD_MAX)
        self._due = threading.Event()
        self._killed = 0
        self.wanted = False
        """Whether to have it; else only the marks are read."""
        self.may_break = False
        """Whether to take it from an earlier warden of this host. Not to be set while its lease counts."""
        self.looked = 0.0
        """When the warden last looked after its machines. It has to, for the lease to be renewed."""
        self.ended = threading.Event()
        self._ending = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def news(self) -> Told | None:
        """The next, None if there is none."""
        return self._news.popleft() if self._news else None

    def acknowledge(self, number: int) -> None:
        """All machines were ended for this fence; to be written down, and the lease given back."""
        self._killed = max(self._killed, number)
        self._due.set()

    def hurry(self) -> None:
        self._due.set()

    def end(self) -> None:
        """Give it back: nothing runs here any more. ``ended`` is set when that is done."""
        self._ending = True
        self._due.set()

    def _run(self) -> None:
        while not self._ending:
            began = notes.now()
            self._due.clear()
            self._news.append(self._told(began))
            self._tell()
            self._due.wait(max(0.0, began + RENEW_SECONDS - notes.now()))
        try:
            if self._io is not None:
                self._give_back()
        except rados.Error:
            pass  # it expires
        self.ended.set()

    def _told(self, began: float) -> Told:
        try:
            if self._io is None:
                self._connect()
            return self._turn(began)
        except Exception as error:  # nobody would notice the end of this thread
            if not isinstance(error, rados.TimedOut):
                self._disconnect()
            return Told(began, error=f"{type(error).__name__}: {error}")

    def _turn(self, began: float) -> Told:
        io, cloud, host = self._io, self._settings.cloud, self._settings.host
        if self._killed:
            killed = self._killed
            marks = fences.write(io, cloud, host, killed=killed)
            self._killed = self._killed if self._killed > killed else 0
            self._give_back()
            return Told(began, marks=Marks(*marks))
        foreign, renewed = "", False
        if self.wanted and notes.now() < self.looked + LOOKED_SECONDS_MAX:
            renewed = fences.renew(io, cloud, host, self._cookie, LEASE_SECONDS)
            if not renewed:
                foreign, renewed = self._of_another()
        # After the renewal: what is written before it is seen, and what comes later waits for its end.
        return Told(began, renewed, Marks(*fences.read(io, cloud, host)), foreign)

    def _of_another(self) -> tuple[str, bool]:
        """Who has it, and whether it could be taken from them."""
        cloud, host = self._settings.cloud, self._settings.host
        found = fences.holder(self._io, cloud, host)
        if found is None:
            return "", False
        earlier = found.cookie.startswith(f"{fences.BY_WARDEN}/{cloud}/{host}/")
        if not (earlier and self.may_break):
            return found.cookie, False
        fences.give_up(self._io, cloud, host, found)
        return "", fences.renew(self._io, cloud, host, self._cookie, LEASE_SECONDS)

    def _give_back(self) -> None:
        cloud, host = self._settings.cloud, self._settings.host
        found = fences.holder(self._io, cloud, host)
        if found is not None and found.cookie == self._cookie:
            fences.give_up(self._io, cloud, host, found)

    def _connect(self) -> None:
        settings = self._settings
        options = {
            "client_mount_timeout": str(CONNECT_SECONDS),
            "rados_mon_op_timeout": str(OPERATION_SECONDS),
            "rados_osd_op_timeout": str(OPERATION_SECONDS),
            "objecter_timeout": str(LAGGY_SECONDS),
            "objecter_tick_interval": "1",
            "ms_async_op_threads": "1",
            "librados_thread_count": "1",
            "admin_socket": "",
            "log_to_stderr": "false",
            "log_file": "",
        }
        if settings.keyring:
            options["keyring"] = settings.keyring
        cluster = rados.Rados(conffile=settings.conf, rados_id=settings.user, conf=options)
        try:
            cluster.connect()
            io = cluster.open_ioctx(settings.pool)
            # In a full cluster, too: nothing of this needs room once it is there.
            io.set_osdmap_full_try()
            fences.write(io, settings.cloud, settings.host)
        except (rados.Error, fences.Contended):
            self._shut_down(cluster)
            raise
        self._cluster, self._io = cluster, io

    def _disconnect(self) -> None:
        """Begin anew: a client that the cluster has shut out stays so."""
        cluster, self._cluster, self._io = self._cluster, None, None
        if cluster is not None:
            self._shut_down(cluster)

    def _shut_down(self, cluster: Any) -> None:
        """Nothing bounds how long it takes, and the lease does not wait for it."""
        self._endings = [each for each in self._endings if each.is_alive()]
        ending = threading.Thread(target=cluster.shutdown, name="shutdown", daemon=True)
        ending.start()
        self._endings.append(ending)
        ending.join(SHUTDOWN_SECONDS)
        if len(self._endings) > ENDINGS_MAX:
            os._exit(1)  # it is started again, with none of them
