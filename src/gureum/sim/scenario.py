"""Named situations of a simulated cloud: a folder with what is done, ``commands``, and what comes
of it, ``log``.

A line of ``commands`` is ``+SECONDS COMMAND``: so long after the line before it was done. The commands are
in ``asks``, ``mishaps`` and ``expectations``. The leading comment says what the situation shows and what must
not happen. The first command is ``hosts N [shared|ha] [pools=N] [seed=N]``; ``pools``: so many hosts have a
second shared pool. After the last one everything must come to rest, as in seeded runs.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from gureum.errors import ApiError, GureumError
from gureum.hostspec import LOCAL
from gureum.resources import Volume
from gureum.sim import (  # noqa: F401  (their commands)
    asks,
    expectations,
    invariants,
    loads,
    mishaps,
    parks,
    sizes,
    upgrades,
)
from gureum.sim.acts import ACTS, Act
from gureum.sim.loop import Deadlock
from gureum.sim.loop import run as run_virtual
from gureum.sim.run import REST_SECONDS_MAX, ErrorLog
from gureum.sim.stage import Stage
from gureum.sim.timeline import Timeline
from gureum.sim.violation import Violation
from gureum.sim.words import Names, Wrong, match
from gureum.sim.world import BULK, SAN

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""The invariants are checked, and guests write, so often."""
CALM_SECONDS = 5.0
"""So often while nothing happens."""
LINE_SECONDS_MAX = 7200.0
HOSTS_MAX = 64
COMMANDS, LOG = "commands", "log"
SETTING = re.compile(r"hosts (\d+)( shared| ha)?(?: pools=(\d+))?(?: seed=(\d+))?")


class ScenarioError(GureumError):
    """What is wrong with a scenario's text, with its place."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """``verdict``: "" if what it asks must be granted, else the error that must come, or NO_ANSWER."""

    number: int
    after: float
    text: str
    verdict: str
    act: Act
    words: tuple[str, ...]
    options: Mapping[str, str]


NO_ANSWER = "no answer"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """``about``: its leading comment. ``ha``: what ran on a host that is lost runs elsewhere. ``pools``: so
    many hosts have a second shared pool.
    """

    name: str
    about: str
    hosts: int
    shared: bool
    ha: bool
    pools: int
    seed: int
    lines: tuple[Line, ...]


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """``failure``: "" if all was as it must be."""

    log: str
    failure: str
    virtual_seconds: float


def read(folder: Path) -> Scenario:
    """Raises ScenarioError."""
    path = folder / COMMANDS
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from error
    try:
        return parse(folder.name, text)
    except ScenarioError as error:
        raise ScenarioError(f"{path}:{error}") from error


def parse(name: str, text: str) -> Scenario:
    """Raises ScenarioError with ``LINE: what is wrong``."""
    texts = text.splitlines()
    about = []
    for line in texts:
        if not line.startswith("#"):
            break
        about.append(line.lstrip("# ").strip())
    if not about:
        raise ScenarioError("1: begin with a comment: what it shows, and what must not happen")
    commands = [
        (n, line.strip()) for n, line in enumerate(texts, 1) if line.strip() and line.strip()[0] != "#"
    ]
    if not commands:
        raise ScenarioError(f"{len(texts)}: there is no command")
    number, first = commands[0]
    setting = SETTING.fullmatch(_timed(number, first)[1])
    if setting is None or not 1 <= int(setting[1]) <= HOSTS_MAX:
        raise ScenarioError(
            f"{number}: the first command is: hosts N [shared|ha] [pools=N] [seed=N], N up to {HOSTS_MAX}"
        )
    hosts, shared, ha = int(setting[1]), bool(setting[2]), setting[2] == " ha"
    if shared and hosts < 2:
        raise ScenarioError(f"{number}: with a shared pool there are at least 2 hosts")
    pools = int(setting[3] or 0)
    if pools > hosts or (pools and not shared):
        raise ScenarioError(f"{number}: so many of the hosts of a cloud with a shared pool have a second one")
    shares = [*([SAN] if shared else []), *([BULK] if pools else [])]
    names = Names([f"host-{n}" for n in range(hosts)], [LOCAL, *shares])
    lines = tuple(_line(number, line, names) for number, line in commands[1:])
    return Scenario(
        name=name,
        about=" ".join(about),
        hosts=hosts,
        shared=shared,
        ha=ha,
        pools=pools,
        seed=int(setting[4] or 1),
        lines=lines,
    )


def _timed(number: int, line: str) -> tuple[float, str]:
    offset, _, command = line.partition(" ")
    if not re.fullmatch(r"\+\d+(\.\d+)?", offset) or not command.strip():
        raise ScenarioError(f"{number}: {line!r}: a line is +SECONDS COMMAND, as in: +2.5 kill manager")
    if float(offset) > LINE_SECONDS_MAX:
        raise ScenarioError(f"{number}: {offset}: at most {LINE_SECONDS_MAX:g} s")
    return float(offset), " ".join(command.split())


def _line(number: int, line: str, names: Names) -> Line:
    after, text = _timed(number, line)
    command, verdict = text, ""
    if command.startswith("unanswered "):
        command, verdict = command.removeprefix("unanswered "), NO_ANSWER
    elif command.startswith("refused "):
        _, _, rest = command.partition(" ")
        verdict, _, command = rest.partition(" ")
    try:
        act, words, options = match(command, ACTS, names, makes=not verdict)
        if verdict and not act.asks:
            raise Wrong(f"{act.pattern!r} asks nothing of the cloud that could be refused")
        if act.check is not None:
            act.check(names, words, options)
    except Wrong as error:
        raise ScenarioError(f"{number}: {error}") from error
    return Line(number=number, after=after, text=text, verdict=verdict, act=act, words=words, options=options)


def play(scenario: Scenario) -> Played:
    """Play it to its end, or to what went wrong."""
    errors, timeline = ErrorLog(), Timeline()
    root = logging.getLogger("gureum")
    propagate, root.propagate = root.propagate, False
    root.addHandler(errors)
    failure, ended = "", 0.0
    try:
        with timeline:
            failure, ended = run_virtual(_Play(scenario, timeline).run())
    except Deadlock:
        failure = "everything waits for something that never comes"
    finally:
        root.removeHandler(errors)
        root.propagate = propagate
    if errors.unexpected and not failure:
        failure = f"unexpected: {errors.unexpected[0]}"
    lines = [f"# {scenario.name}", *timeline.lines()]
    return Played(log="\n".join(lines) + "\n", failure=timeline.named(failure), virtual_seconds=ended)


class _Play:
    def __init__(self, scenario: Scenario, timeline: Timeline) -> None:
        self.scenario = scenario
        self.timeline = timeline
        self._looked = 0
        """How much had happened when it was looked last."""

    async def run(self) -> tuple[str, float]:
        """What went wrong, and how late it is."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: None)
        scenario = self.scenario
        self.stage = Stage(scenario, self.timeline, self._pass)
        failure = ""
        await self.stage.world.start()
        try:
            for line in scenario.lines:
                await self._play(line)
            await self._rest()
        except (Violation, AssertionError) as error:
            failure = str(error)
        ended = loop.time()
        await self.stage.world.stop()
        return failure, ended

    async def _play(self, line: Line) -> None:
        await self._pass(line.after)
        log.info("%s", line.text)
        hosts = self.stage.hosts
        words = [hosts.get(word, word) for word in line.words]
        options = {key: hosts.get(value, value) for key, value in line.options.items()}
        try:
            answered = await line.act.act(self.stage, words, options)
            verdict = "" if answered else NO_ANSWER
        except ApiError as error:
            verdict = error.code
            answered = False
        except Violation as error:
            raise Violation(f"line {line.number}, {line.text!r}: {error}") from error
        if verdict != line.verdict:
            found, wanted = verdict or "granted", line.verdict or "granted"
            raise Violation(f"line {line.number}, {line.text!r}: it is to be {wanted}, and is {found}")
        await self._look()

    async def _pass(self, seconds: float) -> None:
        """Let so much time pass, looking again and again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 1e-6:
            happened = len(self.timeline.entries)
            calm = happened == self._looked and left > CALM_SECONDS
            self._looked = happened
            await asyncio.sleep(min(CALM_SECONDS if calm else LOOK_SECONDS, left))
            await self._look()

    async def _look(self) -> None:
        stage = self.stage
        await invariants.always(stage.world)
        async with stage.world.store.read() as reader:
            stage.guests.sources |= {each.id: each.source for each in await reader.find(Volume)}
        for problem in stage.guests.step():
            raise Violation(problem)
        if stage.world.failure is not None:
            raise Violation(f"a process ended: {stage.world.failure!r}") from stage.world.failure

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while problems := await invariants.at_rest(self.stage.world):
            if loop.time() > began + REST_SECONDS_MAX:
                raise Violation(f"not at rest {REST_SECONDS_MAX:g} s after the end: {'; '.join(problems)}")
            await self._pass(LOOK_SECONDS)
        async with self.stage.world.store.read() as reader:
            broken = await self.stage.ledger.at_rest(reader)
        broken += self.stage.guests.at_rest()
        if broken:
            raise Violation(f"at rest: {'; '.join(broken)}")
        log.info("(everything is at rest)")


def folders(root: Path) -> Iterator[Path]:
    """Every scenario in ``root``, by name."""
    yield from sorted(path.parent for path in root.glob(f"*/{COMMANDS}"))


def golden(folder: Path) -> str:
    """The log that is to come, "" if none was kept yet."""
    path = folder / LOG
    return path.read_text() if path.exists() else ""
