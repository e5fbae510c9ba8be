"""Placement groups, and what the cloud's owner says of all hosts."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from gureum.resources.host import FencePower
from gureum.resources.record import Record

FLEET = "fleet"
"""The id of the only FleetSettings."""


class Strategy(StrEnum):
    """EC2's placement strategies: near each other, apart, or in parts that are apart."""

    cluster = "cluster"
    spread = "spread"
    partitions = "partition"


class SpreadLevel(StrEnum):
    host = "host"
    rack = "rack"


class BalanceMode(StrEnum):
    """What becomes of it if some hosts are much busier than others. ``recommend``: it is said what to move;
    ``automatic``: it is moved.
    """

    off = "off"
    recommend = "recommend"
    automatic = "automatic"


class PowerMode(StrEnum):
    """What becomes of hosts that nothing needs. ``recommend``: it is said which could be off; ``automatic``:
    they are parked, and woken on need.
    """

    off = "off"
    recommend = "recommend"
    automatic = "automatic"


class PlacementGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``partitions``: how many, of the strategy partition. ``spread``: what no two instances of one of the
    strategy spread share.
    """

    name: str
    strategy: Strategy = Strategy.cluster
    partitions: int = 0
    spread: SpreadLevel = SpreadLevel.rack

    kind: ClassVar[str] = "placement-group"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name")


class FleetSettings(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The ratios of overcommit are how much of their processors and memory hosts give away, as a multiple of
    what they have, if nothing else is said of one.

    ``survive``: room is kept so that what runs on so many hosts could be started elsewhere if they were lost.
    ``rest_seconds``: for how long a host has to be empty to be parked; at least ``awake_min`` of a zone stay
    on, with ``headroom`` of what they give away free, as a share. ``empties``: hosts are also emptied for it.
    ``cpu_model``: of instances that are placed from now on, one of ``cpus.MODELS``, "baseline" or "host".
    """

    cpu_overcommit: float = 16.0
    memory_overcommit: float = 1.0
    survive: int = 0
    short: tuple[str, ...] = ()
    """The domains (zones, or "" for all) of which the manager has found that they could not."""
    balance: BalanceMode = BalanceMode.recommend
    rebalance: float = 0.0
    """Unix time since when what is recommended is done once, whatever the mode; 0: not."""
    cpu_model: str = "host"
    power: PowerMode = PowerMode.off
    rest_seconds: float = 900.0
    awake_min: int = 1
    headroom: float = 0.2
    empties: bool = False
    fence_power: FencePower = FencePower.none

    kind: ClassVar[str] = "fleet-settings"
