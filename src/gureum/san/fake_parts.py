"""What both pools in memory are made of: blocks by number, and what is told to fail."""

from __future__ import annotations

from collections.abc import Mapping

from gureum.errors import PoolError

BLOCK_BYTES = 64 << 10
"""What a write of any data occupies, and a layer or record by itself."""

Blocks = dict[int, bytes]


def read(blocks: Mapping[int, bytes], offset: int, length: int) -> bytes:
    """What is at these bytes; zeros where no block is."""
    first, last = offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES
    data = b"".join(blocks.get(at, b"").ljust(BLOCK_BYTES, b"\0") for at in range(first, last + 1))
    return data[offset - first * BLOCK_BYTES :][:length]


def changed(blocks: Mapping[int, bytes], offset: int, data: bytes) -> Blocks:
    """The blocks that are others, once ``data`` is written."""
    first, last = offset // BLOCK_BYTES, (offset + len(data) - 1) // BLOCK_BYTES
    start = offset - first * BLOCK_BYTES
    before = read(blocks, first * BLOCK_BYTES, (last - first + 1) * BLOCK_BYTES)
    after = before[:start] + data + before[start + len(data) :]
    return {at: after[(at - first) * BLOCK_BYTES :][:BLOCK_BYTES] for at in range(first, last + 1)}


class Failing:
    """``step``: the name of a method of what fails, as its class says."""

    def __init__(self) -> None:
        self._failures: list[tuple[str, PoolError]] = []

    def fail_next(self, step: str, error: PoolError | None = None) -> None:
        """Let the next step of this name fail before it has had an effect."""
        self._failures.append((step, error or PoolError(f"{step}: input/output error")))

    def fail_nothing(self) -> None:
        """Take back what was told to fail and has not yet."""
        self._failures.clear()

    def take_failure(self, step: str) -> None:
        for index, (name, error) in enumerate(self._failures):
            if name == step:
                del self._failures[index]
                raise error
