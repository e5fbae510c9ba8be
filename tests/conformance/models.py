"""botocore's own models, serialisers and parsers: the other side of every exchange."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from botocore import parsers, serialize
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

NEEDED: dict[str, list[str]] = json.loads((Path(__file__).parent / "operations.json").read_text())
"""What common workflows of real clients need, by service."""

SERVICES = tuple(NEEDED)

AMBIGUOUS = {
    ("s3", "GetBucketLifecycle"): "deprecated, the same request as GetBucketLifecycleConfiguration",
    ("s3", "PutBucketLifecycle"): "deprecated, the same request as PutBucketLifecycleConfiguration",
    ("s3", "GetBucketNotification"): "deprecated, the same request as GetBucketNotificationConfiguration",
    ("s3", "PutBucketNotification"): "deprecated, the same request as PutBucketNotificationConfiguration",
    ("s3", "ListDirectoryBuckets"): "the same request as ListBuckets, to another host",
    ("s3control", "CreateBucket"): "the same request as s3's, to an Outposts host",
}
"""Operations that nothing in a request to one endpoint tells from another."""


@cache
def service_model(name: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


@cache
def operation_model(service: str, operation: str) -> OperationModel:
    return service_model(service).operation_model(operation)


def protocols(service: str) -> list[str]:
    metadata = service_model(service).metadata
    return list(metadata.get("protocols") or [metadata["protocol"]])


@cache
def serializer(protocol: str) -> Any:
    return serialize.create_serializer(protocol, include_validation=False)


@cache
def parser(protocol: str) -> Any:
    return parsers.create_parser(protocol)


def cases() -> list[Any]:
    """``(service, operation, protocol)`` for every operation of every model, in every protocol it has."""
    return [
        (service, operation, protocol)
        for service in SERVICES
        for operation in service_model(service).operation_names
        for protocol in protocols(service)
        if (service, operation) not in AMBIGUOUS
    ]
