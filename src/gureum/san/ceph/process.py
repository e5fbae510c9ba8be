"""The worker's process: started when it is needed, killed when it does not answer, started again later.

librados waits for ever for a cluster that is away, in a thread that nothing can stop. So every call has a
time limit here, and one that is over it costs the worker its life: the calls under way fail with it, all of
them such as can be repeated. After a failure the next start waits, longer each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from gureum.errors import PoolError, PoolFull, PoolUnavailable
from gureum.san.ceph.rbdworker import frames

log = logging.getLogger(__name__)

T = TypeVar("T")

START_SECONDS = 20.0
"""The worker itself gives up connecting after half of that."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
UNDER_WAY_MAX = 16
SAID_LINES = 5
LINE_BYTES = 4096
END_SECONDS = 3.0
KILLED_SECONDS = 20.0
"""Killed, it ends when the disk has done what it was asked for."""
FENCE_SECONDS = 30.0
ENDING = "the storage worker is being ended"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}

ERRORS: Mapping[str, type[PoolError]] = {
    "full": PoolFull,
    "away": PoolUnavailable,
    "busy": PoolUnavailable,
}
"""By the kind that the worker gives an error."""

Progress = Callable[[float], None]


class Answer(NamedTuple):
    result: Any
    payload: bytes


class _Call(NamedTuple):
    answer: asyncio.Future[Answer]
    progress: Progress | None


class Worker:
    """``command`` starts the program. Calls run side by side, at most UNDER_WAY_MAX."""

    def __init__(self, command: Sequence[str], backoff_seconds: Sequence[float] = BACKOFF_SECONDS) -> None:
        self._command = tuple(command)
        self._backoff_seconds = tuple(backoff_seconds)
        self._process: asyncio.subprocess.Process | None = None
        self._readers: set[asyncio.Task[Any]] = set()
        """Each until its process has ended, and what is starting one: the end waits for all of them."""
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self._starting = asyncio.Lock()
        self._closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._reason = ""
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        self.hello: Mapping[str, Any] = {}
        """What the worker said of its connection when it last started."""
        self.killed: list[str] = []
        """Addresses of those that did not end by themselves: they may have sent what is not done yet."""

    @property
    def address(self) -> str:
        """The client's address in the cluster, of the worker that last started."""
        return str(self.hello.get("address", ""))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def call(
        self,
        op: str,
        timeout_seconds: float,
        arguments: Mapping[str, Any] | None = None,
        payload: bytes = b"",
        progress: Progress | None = None,
    ) -> Answer:
        """PoolUnavailable if there is no answer in time; another PoolError if that is the answer."""
        async with self._slots:
            process = await self._started()
            answer = await self._exchange(process, op, timeout_seconds, arguments or {}, payload, progress)
            self._failures = 0
            return answer

    async def _exchange(
        self,
        process: asyncio.subprocess.Process,
        op: str,
        timeout_seconds: float,
        arguments: Mapping[str, Any],
        payload: bytes,
        progress: Progress | None,
    ) -> Answer:
        number = next(self._numbers)
        call = _Call(asyncio.get_running_loop().create_future(), progress)
        self._calls[number] = call
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send(process, {"id": number, "op": op, "with": arguments}, payload)
                return await call.answer
        except TimeoutError as error:
            reason = f"the storage cluster does not answer: {op} took longer than {timeout_seconds:.0f} s"
            self._fail(process, reason)
            raise PoolUnavailable(reason) from error
        finally:
            self._calls.pop(number, None)
            call.answer.cancel()

    async def close(self) -> None:
        """End the worker, which closes what it has open. Calls under way fail, and those that come later:
        what is not to be interrupted may outlive its pool, and must not start another one.
        """
        self._closed = True
        process = self._process
        if process is not None:
            self._abandon(ENDING)
            assert process.stdin is not None
            process.stdin.close()
        await self._ended()
        if process is not None and process.returncode != 0:
            self._remember_killed()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await self._ended(KILLED_SECONDS)

    async def _ended(self, seconds: float = END_SECONDS) -> None:
        if self._readers:
            await asyncio.wait(tuple(self._readers), timeout=seconds)

    # --- the process

    async def _started(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is not None:
                return self._process
            if self._closed:
                raise PoolUnavailable(ENDING)
            now = asyncio.get_running_loop().time()
            if now < self._retry_at:
                raise PoolUnavailable(self._reason)
            return await self._start()

    async def _start(self) -> asyncio.subprocess.Process:
        self._said.clear()
        self.hello = {}
        call = _Call(asyncio.get_running_loop().create_future(), None)
        try:
            process = await self._until_ended(self._spawn(call))
        except OSError as error:
            raise self._failed(f"the storage worker cannot be started: {error}") from error
        except asyncio.CancelledError:
            if self._process is not None:  # it came just then
                self._fail(self._process, "the start was given up")
            raise
        try:
            async with asyncio.timeout(START_SECONDS):
                self.hello = (await call.answer).result
        except TimeoutError as error:
            reason = "the storage cluster does not answer: no connection"
            self._fail(process, reason)
            raise PoolUnavailable(reason) from error
        except PoolError as error:
            self._fail(process, str(error))
            raise
        except asyncio.CancelledError:
            self._fail(process, "the start was given up")
            raise
        finally:
            self._calls.pop(0, None)
            call.answer.cancel()
        if self.killed:
            await self._fence(process)
        return process

    async def _spawn(self, hello: _Call) -> asyncio.subprocess.Process:
        """The process, of which each word is heard; none that comes when this worker has been ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        if self._closed:
            process.kill()
            await process.wait()
            raise PoolUnavailable(ENDING)
        self._process = process
        self._calls[0] = hello
        self._until_ended(self._read(process))
        self._until_ended(self._listen(process))
        return process

    def _until_ended(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)
        return task

    async def _fence(self, process: asyncio.subprocess.Process) -> None:
        """What those before had sent must not be done after what is sent now."""
        addresses = list(self.killed)
        await self._exchange(process, "fence", FENCE_SECONDS, {"addresses": addresses}, b"", None)
        self.killed = [address for address in self.killed if address not in addresses]

    def _remember_killed(self) -> None:
        if self.address and self.address not in self.killed:
            self.killed.append(self.address)

    def _failed(self, reason: str) -> PoolUnavailable:
        """Remember why, and until when not to try again."""
        delay = self._backoff_seconds[min(self._failures, len(self._backoff_seconds) - 1)]
        self._failures += 1
        self._retry_at = asyncio.get_running_loop().time() + delay
        self._reason = reason
        return PoolUnavailable(reason)

    def _fail(self, process: asyncio.subprocess.Process, reason: str) -> None:
        """Kill it, and let its calls fail."""
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process is self._process:
            self._failed(reason)
            log.warning("%s; the storage worker is started again", reason)
            self._remember_killed()
            self._abandon(reason)

    def _abandon(self, reason: str) -> None:
        self._process = None
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(PoolUnavailable(reason))
        self._calls.clear()

    # --- what is said

    async def _send(
        self, process: asyncio.subprocess.Process, header: Mapping[str, Any], payload: bytes
    ) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(frames.encode(header, payload))
            await process.stdin.drain()
        except OSError as error:  # what it said last is with the reader
            log.debug("the storage worker takes nothing: %s", error)
        except frames.Broken as error:
            raise PoolError(str(error)) from error

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand answers to those who wait for them, until the process ends."""
        assert process.stdout is not None
        stream = process.stdout
        reason = ""
        try:
            while True:
                header, payload = frames.lengths(await stream.readexactly(frames.LENGTHS.size))
                message = frames.decode(await stream.readexactly(header))
                self._take(message, await stream.readexactly(payload))
        except asyncio.IncompleteReadError:
            pass
        except (frames.Broken, KeyError, TypeError) as error:
            reason = f"the storage worker talks nonsense: {error}"
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        said = self._said[-1] if self._said else ""
        self._fail(process, reason or f"the storage worker ended with {code}{': ' if said else ''}{said}")

    def _take(self, message: Mapping[str, Any], payload: bytes) -> None:
        call = self._calls.get(message["id"])
        if call is None or call.answer.done():
            return
        if "progress" in message:
            if call.progress is not None:
                call.progress(message["progress"])
        elif "error" in message:
            call.answer.set_exception(ERRORS.get(message["kind"], PoolError)(message["error"]))
        else:
            call.answer.set_result(Answer(message["ok"], payload))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readuntil()
            except asyncio.IncompleteReadError as error:
                if not (line := error.partial):
                    return
            except asyncio.LimitOverrunError as error:
                line = await process.stderr.readexactly(min(error.consumed, LINE_BYTES))
            text = line[:LINE_BYTES].decode(errors="replace").strip()
            if text:
                self._said.append(text)
                log.info("storage worker: %s", text)
