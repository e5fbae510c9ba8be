"""What a host link carries, and how it looks on the wire: a four-byte length, then MessagePack."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gureum.errors import TooLarge, TransportError
from gureum.hostspec import HostReport, HostSpec

MESSAGE_BYTES_MAX = 32 * 1024 * 1024
BLOCK_BYTES = 512 * 1024
"""Of a block of a snapshot, as the EBS direct APIs have them."""


OF_NO_REPORT = 0


class BlockUse(NamedTuple):
    """Block ``at`` of a snapshot. ``before``: the other snapshot has data there; ``here``: this one has."""

    at: int
    before: bool
    here: bool


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The agent's first message. ``instance`` differs for each start of an agent."""

    cloud: str
    host: str
    zone: str
    instance: str


class Spec(msgspec.Struct, frozen=True, tag="spec"):
    spec: HostSpec


class Items(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a part that is sorted by id: those that are new or different, in MessagePack, and ids of those that
    are ``gone``.
    """

    come: msgspec.Raw
    gone: tuple[str, ...] = ()


class SpecChange(msgspec.Struct, frozen=True, kw_only=True, tag="spec-change"):
    """A spec, as what differs from the one of the revision ``base``, the last on this link.

    ``parts``: fields of HostSpec, and of its NetworkSpec ("network.vpcs"), that are different, whole, in
    MessagePack. ``items``: what is different in fields of NetworkSpec that are sorted by id ("ports").
    """

    base: int
    revision: int
    parts: dict[str, msgspec.Raw] = {}
    items: dict[str, Items] = {}


class Report(msgspec.Struct, frozen=True, tag="report"):
    report: HostReport


class Same(msgspec.Struct, frozen=True, kw_only=True, tag="same"):
    """A report that says what the one with the number ``base`` said, the last that was told whole."""

    sequence: int
    base: int


class Word(msgspec.Struct, frozen=True, tag="word", omit_defaults=True):
    """The manager has the report of this number on this link, and does not hold the host for lost.

    A host without its lease runs machines on that word alone, for a while that begins with the report.
    OF_NO_REPORT: it only is there. ``same``: it takes Same for a report (since 0.10).
    """

    sequence: int
    same: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """A question from the manager, answered by the Reply of the same ``id``.

    ``console``: the end of ``machine``'s console, at most ``max_bytes``. ``prepend-console``: ``data`` is
    what it wrote on the host that it came from. ``export-flows``: the flows of the port of ``interface``.
    ``import-flows``: ``data`` are such flows, for its port here.

    Of ``snapshot``, which is of ``volume`` in ``pool`` and has ``size`` bytes: ``list-blocks``, a BlockUse
    for at most ``length`` blocks with data from block ``offset`` on, or for those that may not be as in the
    snapshot ``since`` of ``since_volume``; ``read-block``, ``length`` bytes from ``offset`` on.
    ``write-block``: ``data`` at ``offset`` of a volume that no machine has. Of what is ``encrypted``, offsets
    and data are those that a machine sees; to read takes its ``key``.

    ``end-agent``: end, for the supervisor to start the next agent; only one whose ``HostReport.started`` is
    what ``data`` says (its repr).

    ``list-pool``: what is in ``pool``, a Listing of at most ``length`` images with names above ``since``.
    ``mend-pool``: repair the Finding in ``data`` there.
    """

    id: int
    method: str
    machine: str = ""
    max_bytes: int = 0
    interface: str = ""
    pool: str = ""
    volume: str = ""
    snapshot: str = ""
    since: str = ""
    since_volume: str = ""
    offset: int = 0
    length: int = 0
    size: int = 0
    encrypted: bool = False
    key: bytes = b""
    data: bytes = b""


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply"):
    """``error`` is set if the call failed."""

    id: int
    data: bytes = b""
    error: str = ""


class AskAuthority(msgspec.Struct, frozen=True, tag="ask-authority"):
    """From a machine that has a token: the certificate of the authority, to be checked by its fingerprint."""


class Authority(msgspec.Struct, frozen=True, tag="authority"):
    """In PEM, as all certificates here."""

    certificate: bytes


class Join(msgspec.Struct, frozen=True, kw_only=True, tag="join"):
    """From a machine that wants to be a host. ``secret``: of its token. ``zone``: "" for the token's."""

    secret: bytes
    name: str
    zone: str
    request: bytes
    """For a certificate, PKCS #10 in PEM."""


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """A storage cluster, for who has its disks there: the contents of two files, a user of it and pools."""

    conf: bytes
    keyring: bytes
    user: str
    pool: str
    further: tuple[str, ...] = ()


class Joined(msgspec.Struct, frozen=True, kw_only=True, tag="joined"):
    """``public_cidr``: the cloud's public addresses. ``storage``: None if each host has its own disks."""

    cloud: str
    host: str
    zone: str
    public_cidr: str
    certificate: bytes
    expires: float
    """Of the certificate, as Unix time."""
    storage: Storage | None = None


class JoinManager(msgspec.Struct, frozen=True, kw_only=True, tag="join-manager"):
    """From a machine that wants to have a manager. ``secret``: of its token; else as in ManagerMachine."""

    secret: bytes
    name: str
    agents: str
    endpoint: str
    key: str = ""


class ManagerJoined(msgspec.Struct, frozen=True, kw_only=True, tag="manager-joined"):
    """All that managers of a cloud have in common and that is not in their store: with it one can be the
    cloud. ``config``: fields of CloudConfig. ``storage``, ``types``: as in SanSettings, None for local disks.
    """

    config: dict[str, str | int | bool]
    authority: bytes
    authority_key: bytes
    master_key: bytes
    storage: Storage | None = None
    types: dict[str, str] = {}


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """From a host whose certificate comes to its end; answered by Renewed. ``host``: one of the manager's own
    machine, by the socket there, for its first one.
    """

    request: bytes
    host: str = ""


class Renewed(msgspec.Struct, frozen=True, kw_only=True, tag="renewed"):
    """As in Joined."""

    certificate: bytes
    expires: float


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """From a host: a file of an image, by the path that a spec names it with. Answered by FileStart, the
    Chunks of what is not a hole, in order, and FileEnd.
    """

    path: str


class FileStart(msgspec.Struct, frozen=True, tag="file-start"):
    size_bytes: int


class Chunk(msgspec.Struct, frozen=True, tag="chunk"):
    offset: int
    data: bytes


class FileEnd(msgspec.Struct, frozen=True, tag="file-end"):
    """``digest``: SHA-256 over each chunk's offset (8 bytes, big-endian) and data."""

    digest: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The last message on a link: why the other side is not served."""

    reason: str


Message = (
    Hello
    | Spec
    | SpecChange
    | Report
    | Same
    | Word
    | Call
    | Reply
    | AskAuthority
    | Authority
    | Join
    | Joined
    | JoinManager
    | ManagerJoined
    | Renew
    | Renewed
    | Fetch
    | FileStart
    | Chunk
    | FileEnd
    | Refused
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One frame. Raises TooLarge if the message is larger than MESSAGE_BYTES_MAX."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise TooLarge(f"a message of {len(body)} bytes is over the bound of {MESSAGE_BYTES_MAX}")
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Message:
    """The message of one frame's body. Raises TransportError."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise TransportError(f"not a message: {error}") from error
