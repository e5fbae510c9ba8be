"""The records of a compiled service model. They are what the catalogue stores, one row a shape or operation.

Traits of a shape and of the member that refers to it are merged when compiled, the member's first, as
botocore does: a ``Ref`` says all that a serialiser needs to know about one place.
"""

from __future__ import annotations

import msgspec


class Ref(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A place where a shape is used: a structure's member, a list's element, a map's key or value."""

    shape: str
    kind: str
    """structure, list, map, string, integer, long, float, double, boolean, timestamp or blob."""
    name: str = ""
    """The member's name as boto3 has it."""
    wire: str = ""
    """locationName, where the model has one."""
    query_name: str = ""
    location: str = ""
    """header, headers, uri, querystring, statusCode, or "" for the body."""
    time_format: str = ""
    flattened: bool = False
    attribute: bool = False
    streaming: bool = False
    event_header: bool = False
    event_payload: bool = False
    namespace: str = ""
    namespace_prefix: str = ""

    @property
    def wire_name(self) -> str:
        return self.wire or self.name


class Shape(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A structure, list or map. Scalars have no row: their ``Ref`` says everything."""

    name: str
    kind: str
    members: tuple[Ref, ...] = ()
    required: tuple[str, ...] = ()
    element: Ref | None = None
    key: Ref | None = None
    value: Ref | None = None
    payload: str = ""
    document: bool = False
    event_stream: bool = False
    event: bool = False
    union: bool = False
    error: bool = False
    error_code: str = ""
    error_status: int = 0
    fault: bool = False

    def member(self, name: str) -> Ref | None:
        return next((m for m in self.members if m.name == name), None)


class Operation(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    name: str
    method: str = "POST"
    uri: str = "/"
    input: str = ""
    output: str = ""
    result_wrapper: str = ""
    response_code: int = 0
    errors: tuple[str, ...] = ()
    input_root: str = ""
    anonymous: bool = False
    """The model lets it through unsigned."""
    unsigned_body: bool = False
    checksummed: bool = False
    """Checksum headers are of the request's body."""


class Route(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What of a REST operation decides whether a request is meant for it."""

    operation: str
    method: str
    uri: str
    required_query: tuple[str, ...] = ()
    required_headers: tuple[str, ...] = ()
    deprecated: bool = False


class Service(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    name: str
    protocols: tuple[str, ...]
    """ec2, query, json, rest-json, rest-xml, smithy-rpc-v2-cbor; the model's first choice first."""
    api_version: str = ""
    signing_name: str = ""
    endpoint_prefix: str = ""
    target_prefix: str = ""
    json_version: str = ""
    namespace: str = ""
    query_compatible: bool = False
    routes: tuple[Route, ...] = ()
    errors: dict[str, str] = {}
    """Error code -> shape name, for every error of the service."""


class Directory(msgspec.Struct, frozen=True, array_like=True):
    """Which service a request may be for, by each of the hints that requests carry."""

    signing_names: dict[str, tuple[str, ...]]
    target_prefixes: dict[str, str]
    versions: dict[str, str]
    services: tuple[str, ...]
