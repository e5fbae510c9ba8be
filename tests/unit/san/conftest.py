"""What pool tests share: a process that dies at a chosen place, and a machine that writes to a volume."""

from __future__ import annotations

import random

import pytest

from gureum.env import Env
from gureum.san.base import FileDisk, Layer
from gureum.san.fake import FakePool, FakePoolDisk


class Died(BaseException):
    """The process ended here: nothing of it may run on, so no handler for errors may catch it."""


class Guest:
    """A machine with a volume open (LiveDisk). It outlives the pool, as a machine outlives the agent."""

    def __init__(self, disk: FakePoolDisk, source: FileDisk) -> None:
        self.disk = disk
        self.top = source.layers[0].path
        self.switches = 0

    def write(self, block: int, data: bytes) -> None:
        self.disk.write(self.top, block, data)

    def contents(self) -> dict[int, bytes]:
        return self.disk.contents(self.top)

    async def active_layer(self) -> str:
        return self.top

    async def switch_layer(self, layer: Layer) -> None:
        assert self.disk.layers[self.disk.name(layer.path)].backing == self.disk.name(self.top)
        self.top = layer.path
        self.switches += 1

    async def resize(self, size_bytes: int) -> None:
        self.disk.layers[self.disk.name(self.top)].size_bytes = size_bytes

    async def freeze(self) -> bool:
        return False

    async def thaw(self) -> None:
        pass


class Host:
    """A disk, and the pools of the processes that come and go on it."""

    def __init__(self, seed: int = 1) -> None:
        self.disk = FakePoolDisk()
        self.random = random.Random(seed)
        self.reached: list[str] = []
        self.die_at = ""

    def pool(self, reserve_bytes: int = 0, chain_max: int = 4) -> FakePool:
        env = Env(clock=lambda: 0.0, rng=self.random, crashpoint=self._crashpoint)
        return FakePool(env, self.disk, reserve_bytes, chain_max)

    def _crashpoint(self, name: str) -> None:
        self.reached.append(name)
        if name == self.die_at:
            self.die_at = ""
            raise Died(name)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def died() -> type[Died]:
    return Died


@pytest.fixture
def new_host() -> type[Host]:
    return Host


@pytest.fixture
def new_guest() -> type[Guest]:
    return Guest
