"""What the documents between the manager and a host's agent (``hostspec``) say of hosts that are given up."""

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
