"""A program in the place of the storage worker's, which does what a test says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gureum.san.ceph import rbdworker

PROGRAM = """
import os, sys, threading, time
sys.path.append({folder!r})
from rbdworker import frames

def say(payload=b"", **header):
    os.write(1, frames.encode(header, payload))

def main():
    say(id=0, ok={{"address": str(os.getpid())}})
    stream = os.fdopen(0, "rb")
    late, fenced = [], []
    while (message := frames.read(stream)) is not None:
        header, payload = message
        id, op, given = header["id"], header["op"], header["with"]
        if op == "echo":
            say(payload, id=id, ok=given)
        elif op == "late":
            late.append(id)
            if len(late) == given["all"]:
                for id in reversed(late):
                    say(id=id, ok=id)
        elif op == "progress":
            for share in (0.1, 0.5):
                say(id=id, progress=share)
            say(id=id, ok=None)
        elif op == "fail":
            say(id=id, error="it does not work", kind=given["kind"])
        elif op == "hang":
            pass
        elif op == "die":
            sys.stderr.write("line " * 2000 + "\\nout of luck\\n")
            sys.stderr.flush()
            os._exit(3)
        elif op == "garbage":
            os.write(1, b"Traceback (most recent call last):")
        elif op == "fence" and os.path.exists(sys.argv[0] + ".refuses"):
            say(id=id, error="not now", kind="refused")
        elif op == "fence":
            fenced.extend(given["addresses"])
            say(id=id, ok=None)
        elif op == "fenced":
            say(id=id, ok=fenced)
        elif op in ("hello", "lead", "survey", "trash", "follow"):
            say(id=id, ok=op == "lead" or [])
        elif op == "unknown":
            say(id=id + 1000, ok=None)
            say(id=id, ok=None)

{start}
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """The command of a program; ``start`` is what it does."""

    def program(start: str = "main()") -> tuple[str, ...]:
        folder = str(Path(rbdworker.__file__).parent.parent)
        (tmp_path / "program.py").write_text(PROGRAM.format(folder=folder, start=start))
        return sys.executable, "-I", str(tmp_path / "program.py")

    return program
