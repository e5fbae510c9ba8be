"""Answers requests on standard input, out of order, until that closes.

The first answer, with the id 0, says whether there is a connection.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rados

from . import blocks, frames, hosts, images, locks, receiving, sharing, snapshots, upkeep, volumes
from .session import Refused, Session, explained

THREADS = 8
END_SECONDS = 1.0
PROGRESS_STEP = 0.01
Handler = Callable[..., Any]

OPERATIONS: Mapping[str, Handler] = {
    "hello": Session.hello,
    "status": Session.status,
    "fence": Session.fence,
    "find_volume": volumes.find,
    "create_volume": volumes.create,
    "mark_partial": volumes.mark_partial,
    "resize_volume": volumes.resize,
    "delete_volume": volumes.delete,
    "open_volume": volumes.open_,
    "share_volume": sharing.share,
    "receive_volume": receiving.receive,
    "note_opened": sharing.note_opened,
    "release_volume": volumes.release,
    "evict_volume": volumes.evict,
    "has_snapshot": snapshots.has,
    "create_snapshot": snapshots.create,
    "delete_snapshot": snapshots.delete,
    "has_image": images.has,
    "begin_image": images.begin,
    "fill_image": images.fill,
    "complete_image": images.complete,
    "remove_image": images.remove,
    "discard": volumes.discard,
    "extents": blocks.extents,
    "read": blocks.read,
    "write": blocks.write,
    "mark_host": hosts.mark,
    "fence_state": hosts.fence_state,
    "lift_fences": hosts.lift,
    "lead": locks.lead,
    "follow": locks.follow,
    "names": upkeep.all_names,
    "describe": upkeep.describe,
    "bury": volumes.bury,
    "survey": upkeep.survey,
    "trash": upkeep.trash,
    "purge": upkeep.purge,
    "flatten": upkeep.flatten,
}
REPORTING = frozenset({"fill_image", "flatten"})
"""Operations that take a function to report their progress to."""


class Output:
    """Messages to the other side, each whole."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._lock = threading.Lock()

    def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        data = memoryview(frames.encode(header, payload))
        with self._lock:
            while data:
                data = data[os.write(self._file, data) :]


class Request:
    def __init__(self, session: Session, output: Output, header: dict[str, Any], payload: bytes) -> None:
        self._session = session
        self._output = output
        self._id = header["id"]
        self._op = header["op"]
        self._arguments = header["with"]
        self._payload = payload
        self._reported = 0.0

    def run(self) -> None:
        try:
            self._answer()
        except Refused as error:
            self._output.send({"id": self._id, "error": str(error), "kind": error.kind})
        except Exception as error:
            logging.exception("%s", self._op)
            self._output.send(
                {"id": self._id, "error": f"{type(error).__name__}: {error}", "kind": "refused"}
            )

    def _answer(self) -> None:
        operation = OPERATIONS.get(self._op)
        if operation is None:
            raise Refused(f"the worker knows no {self._op!r}")
        if self._op in REPORTING:
            self._arguments["progress"] = self._progress
        if self._payload:
            self._arguments["data"] = self._payload
        with explained(self._op):
            result = operation(self._session, **self._arguments)
        if isinstance(result, bytes):
            self._output.send({"id": self._id, "ok": None}, result)
        else:
            self._output.send({"id": self._id, "ok": result})

    def _progress(self, share: float) -> None:
        if share - self._reported >= PROGRESS_STEP:
            self._reported = share
            self._output.send({"id": self._id, "progress": share})


def main() -> None:
    """The only argument is a JSON object: Session's arguments, and ``nice``."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    arguments = json.loads(sys.argv[1])
    os.nice(arguments.pop("nice", 0))
    output = Output(os.dup(1))
    os.dup2(2, 1)  # whatever a library prints must not get in between
    try:
        session = Session(**arguments)
        output.send({"id": 0, "ok": session.hello()})
    except Refused as error:
        output.send({"id": 0, "error": str(error), "kind": error.kind})
        os._exit(1)
    except rados.Error as error:
        output.send({"id": 0, "error": f"the storage cluster does not answer: {error}", "kind": "away"})
        os._exit(1)
    serve(session, output)


def serve(session: Session, output: Output) -> None:
    threads = ThreadPoolExecutor(THREADS)
    with os.fdopen(0, "rb") as stream:
        while (message := frames.read(stream)) is not None:
            threads.submit(Request(session, output, *message).run)
    end(session, threads)


def end(session: Session, threads: ThreadPoolExecutor) -> None:
    """Finish what takes no longer than END_SECONDS: a call to a cluster that is away may never end."""
    timer = threading.Timer(END_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    threads.shutdown(wait=True, cancel_futures=True)
    session.close()
    os._exit(0)
