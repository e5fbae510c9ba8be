from __future__ import annotations

import pytest

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.routing import Router, virtual_bucket


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "operation"),
    [
        ("GET", "/", "", (), "ListBuckets"),
        ("GET", "/", "x-id=ListDirectoryBuckets", (), "ListDirectoryBuckets"),
        ("GET", "/b", "", (), "ListObjects"),
        ("GET", "/b/", "", (), "ListObjects"),
        ("GET", "/b", "list-type=2", (), "ListObjectsV2"),
        ("GET", "/b", "list-type=3", (), "ListObjects"),
        ("GET", "/b", "versioning", (), "GetBucketVersioning"),
        ("GET", "/b", "lifecycle", (), "GetBucketLifecycleConfiguration"),
        ("GET", "/b", "analytics", (), "ListBucketAnalyticsConfigurations"),
        ("GET", "/b", "analytics&id=1", (), "GetBucketAnalyticsConfiguration"),
        ("HEAD", "/b", "", (), "HeadBucket"),
        ("GET", "/b/k", "", (), "GetObject"),
        ("GET", "/b/k/", "", (), "GetObject"),
        ("GET", "/b//", "", (), "GetObject"),
        ("GET", "/b/k", "uploadId=1", (), "ListParts"),
        ("GET", "/b/k", "attributes", ("x-amz-object-attributes",), "GetObjectAttributes"),
        ("GET", "/b/k", "attributes", (), "GetObjectAttributes"),
        ("PUT", "/b/k", "", (), "PutObject"),
        ("PUT", "/b/k", "", ("x-amz-copy-source",), "CopyObject"),
        ("PUT", "/b/k", "partNumber=1&uploadId=2", (), "UploadPart"),
        ("PUT", "/b/k", "partNumber=1&uploadId=2", ("x-amz-copy-source",), "UploadPartCopy"),
        ("POST", "/b/k", "uploads", (), "CreateMultipartUpload"),
        ("POST", "/b/k", "uploadId=1", (), "CompleteMultipartUpload"),
        ("POST", "/b/k", "select&select-type=2", (), "SelectObjectContent"),
        ("POST", "/b", "delete", (), "DeleteObjects"),
        ("DELETE", "/b/k", "uploadId=1", (), "AbortMultipartUpload"),
        ("PUT", "/b", "acl&x-id=PutBucketAcl", (), "PutBucketAcl"),
        ("PATCH", "/b", "", (), None),
    ],
)
def test_s3(
    catalogue: Catalogue, method: str, path: str, query: str, headers: tuple[str, ...], operation: str | None
) -> None:
    router = Router(catalogue.service("s3").routes)
    pairs = (piece.partition("=") for piece in query.split("&") if piece)
    found = router.find(method, path, {name: value for name, _, value in pairs}, dict.fromkeys(headers, ""))
    assert (found[0] if found else None) == operation


def test_labels(catalogue: Catalogue) -> None:
    router = Router(catalogue.service("s3").routes)
    found = router.find("GET", "/b/a%2Fb/c%20%C3%A9", {}, {})
    assert found == ("GetObject", {"Bucket": "b", "Key": "a/b/c é".encode().decode("latin-1")})
    router = Router(catalogue.service("lambda").routes)
    arn = "arn%3Aaws%3Alambda%3Aeu-west-1%3A000000000000%3Afunction%3Af"
    found = router.find("POST", f"/2015-03-31/functions/{arn}/invocations", {}, {})
    assert found == ("Invoke", {"FunctionName": "arn:aws:lambda:eu-west-1:000000000000:function:f"})
    assert router.find("GET", "/2015-03-31/functions", {}, {}) == ("ListFunctions", {})
    assert router.find("GET", "/2015-03-31/functions/", {}, {}) == ("ListFunctions", {})


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("b.localhost", "b"),
        ("b.s3.localhost:4566", "b"),
        ("a.b.s3.us-east-1.localhost:1", "a.b"),
        ("b.s3-eu-west-1.localhost", "b"),
        ("B.LOCALHOST", "b"),
        ("s3.localhost", ""),
        ("s3.us-east-1.localhost:4566", ""),
        ("localhost:4566", ""),
        ("127.0.0.1:4566", ""),
        ("[::1]:4566", ""),
        ("b.example.com", ""),
        ("", ""),
    ],
)
def test_virtual_bucket(host: str, bucket: str) -> None:
    assert virtual_bucket(host, ("localhost",)) == bucket
