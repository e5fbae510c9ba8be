"""Who parks and wakes hosts of a simulated cloud by hand, while it does so by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gureum.sim.powers import AGENT, REST_SECONDS, WAKE_SECONDS
from gureum.sim.world import World

CALLS = ("ParkHost", "WakeHost", "ModifyHostPower", "DescribeHostPower", "TestHostPower")
"""And ModifyFleetSettings."""
REMOVED_SHARE = 0.2
"""Of what is said of how hosts are switched, that it is not known any more."""

Asked = tuple[str, Mapping[str, Any]]


class PowerCalls:
    """Random calls of Fleet about hosts' power."""

    def __init__(self, world: World) -> None:
        self._world = world

    def choose(self) -> Asked:
        asks: tuple[tuple[Callable[[], Asked], int], ...] = (
            (self._park, 6),
            (self._wake, 4),
            (self._modify, 3),
            (self._settle, 2),
            (self._look, 2),
        )
        [chosen] = self._world.random.choices([each for each, _ in asks], [weight for _, weight in asks])
        return chosen()

    def _host(self) -> str:
        return self._world.random.choice(self._world.hosts).name

    def _park(self) -> Asked:
        return "ParkHost", {"HostId": self._host()}

    def _wake(self) -> Asked:
        return "WakeHost", {"HostId": self._host()}

    def _modify(self) -> Asked:
        rng, host = self._world.random, self._host()
        if rng.random() < REMOVED_SHARE:
            return "ModifyHostPower", {"HostId": host, "Remove": True}
        seconds = rng.choice([30, int(WAKE_SECONDS), 300])
        return "ModifyHostPower", {"HostId": host, "Agent": AGENT, "WakeSeconds": seconds}

    def _settle(self) -> Asked:
        """One host stays on at least, as ``park_invariants`` have it."""
        rng = self._world.random
        return "ModifyFleetSettings", {
            "PowerMode": rng.choice(["automatic", "automatic", "automatic", "recommend", "off"]),
            "RestSeconds": rng.choice([int(REST_SECONDS), 120]),
            "HeadroomPercent": rng.choice([0, 0, 20]),
        }

    def _look(self) -> Asked:
        if self._world.random.random() < 0.5:
            return "DescribeHostPower", {}
        return "TestHostPower", {"HostId": self._host()}
