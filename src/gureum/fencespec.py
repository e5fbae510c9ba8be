"""What the documents between the manager and a host's agent (``hostspec``) say of hosts that are given up,
and of who watches over each.
"""

from __future__ import annotations

import msgspec


class FenceSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another host that nothing more is to run on, until a manager lifts it. This host sees to that.

    ``number`` is above all earlier ones of that host, also those of a manager whose store was put back.
    0: it is only looked whether the host is alive.
    """

    host: str
    number: int


class FenceReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``done``: nothing of the host's machines runs, nor will before the fence is lifted; ``message`` says
    how that is known. Until then it says what is waited for. ``alive``: its lease was renewed meanwhile.

    For the number 0 ``done`` says that nobody has the host's lease now.
    """

    host: str
    number: int
    done: bool = False
    alive: bool = False
    message: str = ""


class WardenReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``permitted``: machines may run on this host. ``fence``: the last fence that its warden has seen, when
    it killed all machines; 0 for none. ``away``: it has not reached the storage cluster for 2.5 s; those
    before 0.8 do not say. ``message``: why machines may not run, or what is amiss.
    """

    permitted: bool = True
    fence: int = 0
    away: bool = False
    message: str = ""
