"""What a demo consists of: steps, each with its time and what was checked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from gureum.cli.output import CliError, note, show_json, table


class DemoError(CliError):
    """A step's result was not what it should be."""


class Step(msgspec.Struct):
    """One line of the final table. ``result`` says what was checked."""

    title: str
    seconds: float = 0.0
    result: str = ""
    ok: bool = False


class Story:
    """The steps, each with its time and its result."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step: call what it yields with what was checked."""
        step = Step(title)
        self.steps.append(step)
        note(f"{title} ...")
        began = time.monotonic()

        def says(result: str) -> None:
            step.result = result

        try:
            yield says
            step.ok = bool(step.result)
        except Exception as error:
            step.result = str(error)
            raise
        finally:
            step.seconds = time.monotonic() - began
            note(f"    {'ok' if step.ok else 'FAILED'}, {step.seconds:.1f} s: {step.result}")

    def show(self, as_json: bool) -> None:
        if as_json:
            show_json([msgspec.to_builtins(step) for step in self.steps])
            return
        rows = [
            (number, step.title, f"{step.seconds:.1f} s", "ok" if step.ok else "FAILED", step.result)
            for number, step in enumerate(self.steps, 1)
        ]
        print(table(("#", "STEP", "TIME", "", "CHECKED"), rows))


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)
