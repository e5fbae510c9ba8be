"""Every error that gureum raises on purpose.

GureumError
├── ApiError            an AWS error: code, message and HTTP status that a client expects
├── ConfigError         the cloud cannot start as configured; the message says what to do
├── StoreError
│   ├── Conflict        a record changed since it was read; the transaction is run again
│   ├── IllegalTransition   a record's state may not go from one value to the other
│   ├── StoreFull       the state directory's disk is full; nothing was committed
│   ├── StoreAway       its server does not answer, or another manager leads; nothing was committed
│   └── CommitUnknown   its server did not answer, so whether something was committed is not known
├── TransportError      the other side of a host link is gone, late or talks nonsense
│   ├── Distrusted      who answers is not, or not any more, to be believed to be the manager
│   └── TooLarge        a message is over the bound; nothing of it was sent, and the link is as before
└── HostError           something on a compute host failed
    ├── HypervisorError
    ├── NetworkError
    └── PoolError
        ├── PoolFull    the pool has no room for what was asked
        └── PoolUnavailable  not now, for a reason that ends by itself: a shared pool does not answer, or
                        another host still has the volume. It is tried again without end
"""

from __future__ import annotations

from collections.abc import Mapping


class GureumError(Exception):
    """Base of all errors raised on purpose."""


class ApiError(GureumError):
    """An error for the client, in AWS's terms.

    ``fields`` are further members of the error's shape, where the service model has one.
    """

    def __init__(
        self, code: str, message: str, status: int = 400, *, fields: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = dict(fields or {})


class ConfigError(GureumError):
    pass


class StoreError(GureumError):
    pass


class Conflict(StoreError):
    pass


class IllegalTransition(StoreError):
    pass


class StoreFull(StoreError):
    pass


class StoreAway(StoreError):
    pass


class CommitUnknown(StoreError):
    pass


class TransportError(GureumError):
    pass


class Distrusted(TransportError):
    pass


class TooLarge(TransportError):
    pass


class HostError(GureumError):
    pass


class HypervisorError(HostError):
    pass


class NetworkError(HostError):
    pass


class PoolError(HostError):
    pass


class PoolFull(PoolError):
    pass


class PoolUnavailable(PoolError):
    pass
