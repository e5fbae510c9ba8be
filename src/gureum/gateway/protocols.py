"""Which service a request is for, and in which of the service's protocols it speaks."""

from __future__ import annotations

from typing import Any

from gureum.gateway.call import Fragment
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.codecs import Codec, QueryCodec
from gureum.gateway.limits import Limits
from gureum.gateway.message import Request
from gureum.gateway.rest import RestJsonCodec, RestXmlCodec
from gureum.gateway.rpc import CBOR, CBOR_PATH, RpcCodec
from gureum.gateway.shapes import Service

_S3CONTROL_PATH = "/v20180820/"


class Codecs:
    """The codecs of all services, each made when it is first needed."""

    def __init__(self, catalogue: Catalogue, limits: Limits, domains: tuple[str, ...]) -> None:
        self.catalogue = catalogue
        self._limits = limits
        self._domains = domains
        self._directory = catalogue.directory
        self._made: dict[tuple[str, str], Codec] = {}
        self.fallback = self._make(Service(name="unknown", protocols=("query",)), "query")

    def find(self, request: Request, signing_name: str, version: str) -> Codec:
        """The codec for a request that is signed for ``signing_name`` ("" if it is not signed).

        ``version`` is the form's Version parameter. For a service that is not in the catalogue, answers a
        codec that can at least say so in a protocol that the client will understand.
        """
        name = self._service_name(request, signing_name, version)
        if name is None:
            unknown = Service(name=signing_name or "unknown", protocols=(_guess(request, version),))
            return self._make(unknown, unknown.protocols[0])
        service = self.catalogue.service(name)
        protocol = service.protocols[0] if len(service.protocols) == 1 else _chosen(request, service)
        return self.codec(name, protocol)

    def codec(self, service: str, protocol: str) -> Codec:
        found = self._made.get((service, protocol))
        if found is None:
            found = self._made[service, protocol] = self._make(self.catalogue.service(service), protocol)
        return found

    def known(self, service: str) -> bool:
        return service in self._directory.services

    def fragment(self, service: str, shape: str, value: Any) -> Fragment:
        protocol = next(
            p for p in self.catalogue.service(service).protocols if p in ("ec2", "query", "rest-xml")
        )
        codec = self.codec(service, protocol)
        assert isinstance(codec, QueryCodec | RestXmlCodec)
        out: list[str] = []
        codec.outputs.structure(shape)(value, out)
        return Fragment("".join(out))

    def _make(self, service: Service, protocol: str) -> Codec:
        if protocol in ("ec2", "query"):
            return QueryCodec(self.catalogue, service, self._limits, ec2=protocol == "ec2")
        if protocol in ("json", CBOR):
            return RpcCodec(self.catalogue, service, self._limits, cbor=protocol == CBOR)
        rest = RestXmlCodec if protocol == "rest-xml" else RestJsonCodec
        return rest(self.catalogue, service, self._limits, self._domains)

    def _service_name(self, request: Request, signing_name: str, version: str) -> str | None:
        directory = self._directory
        if signing_name:
            names = directory.signing_names.get(signing_name, ())
            if len(names) > 1:
                control = (
                    request.raw_path.startswith(_S3CONTROL_PATH) and "x-amz-account-id" in request.headers
                )
                names = tuple(n for n in names if (n == "s3control") == control)
            return names[0] if names else None
        target = request.headers.get("x-amz-target", "").partition(".")[0]
        if target:
            return directory.target_prefixes.get(target)
        if match := CBOR_PATH.match(request.raw_path):
            return directory.target_prefixes.get(match[1])
        if version:
            return directory.versions.get(version)
        label = request.host.partition(".")[0]
        if label in directory.services and label != "s3":
            return label
        return "s3" if "s3" in directory.services else None


def _chosen(request: Request, service: Service) -> str:
    """The protocol of a request to a service that speaks several."""
    if CBOR in service.protocols and (
        request.headers.get("smithy-protocol") == "rpc-v2-cbor" or CBOR_PATH.match(request.raw_path)
    ):
        return CBOR
    if "x-amz-target" in request.headers and "json" in service.protocols:
        return "json"
    return "query" if "query" in service.protocols else service.protocols[0]


def _guess(request: Request, version: str) -> str:
    if request.headers.get("smithy-protocol") == "rpc-v2-cbor":
        return CBOR
    if "x-amz-target" in request.headers:
        return "json"
    return "query" if version else "rest-json"
