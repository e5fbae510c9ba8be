"""Compiles botocore's service models into a catalogue: ``python -m gureum.gateway.compiler FILE SERVICE...``.

A service that is not AWS's (``fleet``) has its model in ``gateway/models``, in botocore's format and layout.
Runs in a process of its own, since it is what imports botocore and holds whole models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gureum.gateway import catalogue
from gureum.gateway.shapes import Directory, Operation, Ref, Route, Service, Shape

SCALARS = {
    "string", "integer", "long", "float", "double", "boolean", "timestamp", "blob",
}  # fmt: skip
PROTOCOLS = {"ec2", "query", "json", "rest-json", "rest-xml", "smithy-rpc-v2-cbor"}

Model = dict[str, Any]


def main(arguments: Sequence[str]) -> None:
    path, *services = arguments
    catalogue.write(Path(path), rows(services))


def rows(services: Sequence[str]) -> Iterator[tuple[str, str, str, bytes]]:
    from botocore.loaders import Loader

    loader = Loader(extra_search_paths=[str(catalogue.OWN_MODELS)])
    encode = msgspec.msgpack.encode
    compiled = []
    for name in services:
        model = loader.load_service_model(name, "service-2")
        service = _service(name, model)
        compiled.append(service)
        yield name, "service", "", encode(service)
        for operation in model["operations"].values():
            yield name, "operation", operation["name"], encode(_operation(operation, model))
        for shape_name, shape in model["shapes"].items():
            if shape["type"] not in SCALARS:
                yield name, "shape", shape_name, encode(_shape(shape_name, shape, model))
    yield "", "directory", "", encode(_directory(compiled))


def _directory(services: Sequence[Service]) -> Directory:
    signing: dict[str, tuple[str, ...]] = {}
    for service in services:
        for name in {service.signing_name, service.endpoint_prefix}:
            signing[name] = (*signing.get(name, ()), service.name)
    return Directory(
        signing_names=signing,
        target_prefixes={s.target_prefix: s.name for s in services if s.target_prefix},
        versions={s.api_version: s.name for s in services if {"query", "ec2"} & set(s.protocols)},
        services=tuple(s.name for s in services),
    )


def _service(name: str, model: Model) -> Service:
    meta = model["metadata"]
    protocols = tuple(p for p in meta.get("protocols") or [meta["protocol"]] if p in PROTOCOLS)
    rest = protocols[0].startswith("rest-")
    return Service(
        name=name,
        protocols=protocols,
        api_version=meta["apiVersion"],
        signing_name=meta.get("signingName") or meta["endpointPrefix"],
        endpoint_prefix=meta["endpointPrefix"],
        target_prefix=meta.get("targetPrefix") or "",
        json_version=meta.get("jsonVersion") or "",
        namespace=meta.get("xmlNamespace") or _root_namespace(model),
        query_compatible=meta.get("awsQueryCompatible") is not None,
        routes=tuple(_route(o, model) for o in model["operations"].values()) if rest else (),
        errors=_errors(model),
    )


def _root_namespace(model: Model) -> str:
    """REST-XML models put the namespace on their inputs, all the same."""
    for operation in model["operations"].values():
        namespace = operation.get("input", {}).get("xmlNamespace")
        if namespace:
            return str(namespace["uri"])
    return ""


def _errors(model: Model) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, shape in model["shapes"].items():
        if shape.get("exception"):
            found.setdefault(name, name)
            if code := shape.get("error", {}).get("code"):
                found[code] = name
    return found


def _route(operation: Model, model: Model) -> Route:
    shape = model["shapes"].get(operation.get("input", {}).get("shape"), {})
    required = shape.get("required", ())
    members = shape.get("members", {})
    wanted: dict[str, list[str]] = {"querystring": [], "header": []}
    for member in required:
        location = members[member].get("location")
        if location in wanted:
            wanted[location].append(members[member].get("locationName", member))
    http = operation["http"]
    return Route(
        operation=operation["name"],
        method=http["method"],
        uri=http["requestUri"],
        required_query=tuple(wanted["querystring"]),
        required_headers=tuple(name.lower() for name in wanted["header"]),
        deprecated=bool(operation.get("deprecated")),
    )


def _operation(model: Model, service: Model) -> Operation:
    http = model["http"]
    checksum = model.get("httpChecksum", {})
    return Operation(
        name=model["name"],
        method=http["method"],
        uri=http["requestUri"],
        input=model.get("input", {}).get("shape", ""),
        output=model.get("output", {}).get("shape", ""),
        result_wrapper=model.get("output", {}).get("resultWrapper", ""),
        response_code=http.get("responseCode", 0),
        errors=tuple(e["shape"] for e in model.get("errors", ())),
        input_root=model.get("input", {}).get("locationName", ""),
        anonymous=model.get("authtype") == "none",
        unsigned_body=model.get("authtype") == "v4-unsigned-body" or bool(model.get("unsignedPayload")),
        checksummed="requestAlgorithmMember" in checksum or "requestChecksumRequired" in checksum,
    )


def _shape(name: str, model: Model, service: Model) -> Shape:
    error = model.get("error", {})
    return Shape(
        name=name,
        kind=model["type"],
        members=tuple(_ref(n, m, service) for n, m in model.get("members", {}).items()),
        required=tuple(model.get("required", ())),
        element=_optional_ref(model.get("member"), service),
        key=_optional_ref(model.get("key"), service),
        value=_optional_ref(model.get("value"), service),
        payload=model.get("payload", ""),
        document=bool(model.get("document")),
        event_stream=bool(model.get("eventstream")),
        event=bool(model.get("event")),
        union=bool(model.get("union")),
        error=bool(model.get("exception")),
        error_code=error.get("code", ""),
        error_status=error.get("httpStatusCode", 0),
        fault=bool(model.get("fault")) or error.get("senderFault") is False,
    )


def _optional_ref(model: Model | None, service: Model) -> Ref | None:
    return None if model is None else _ref("", model, service)


def _ref(name: str, member: Model, service: Model) -> Ref:
    target = service["shapes"][member["shape"]]
    traits = {**target, **member}
    namespace = traits.get("xmlNamespace") or {}
    kind = target["type"]
    if kind not in SCALARS | {"structure", "list", "map"}:
        raise ValueError(f"{member['shape']}: unknown type {kind}")
    return Ref(
        shape=member["shape"],
        kind=kind,
        name=name,
        wire=traits.get("locationName", ""),
        query_name=traits.get("queryName", ""),
        location=traits.get("location", ""),
        time_format=traits.get("timestampFormat", ""),
        flattened=bool(traits.get("flattened")),
        attribute=bool(traits.get("xmlAttribute")),
        streaming=bool(traits.get("streaming")),
        event_header=bool(traits.get("eventheader")),
        event_payload=bool(traits.get("eventpayload")),
        namespace=namespace.get("uri", ""),
        namespace_prefix=namespace.get("prefix", ""),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
