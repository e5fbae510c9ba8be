"""Machines that have managers."""

from __future__ import annotations

from typing import ClassVar

from gureum.resources.record import Record


class ManagerMachine(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One that a manager of this cloud leads or may lead on, by the machine's name.

    ``key``: the SHA-256 of its managers' public key, in hexadecimal digits; "" if that was never said.
    ``revoked``: none there may lead any more, for ever, so such a record stays.
    """

    agents: str
    """ADDRESS:PORT, where agents reach that manager while it leads."""
    endpoint: str
    """The URL at which it answers the API then."""
    key: str = ""
    revoked: bool = False
    certificate: str = ""
    """Of its API, in PEM, from when it led last; "" without TLS. ``seal`` is ``transport.token.api_seal`` of
    it, as who can write to the store is not the cloud yet.
    """
    seal: str = ""

    kind: ClassVar[str] = "manager-machine"

    @property
    def seen(self) -> bool:
        """Whether it joined, or led, since the store knows it: else it is only a name that was revoked."""
        return bool(self.agents)
