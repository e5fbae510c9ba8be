from __future__ import annotations

import pytest

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.scalars import InputError
from gureum.gateway.xml_in import XmlInputs, read_document

LIMITS = Limits(depth_max=5, elements_max=10)


def test_document() -> None:
    root = read_document(b'<s:A xmlns:s="urn:x" b="1"><s:C>t&amp;<![CDATA[<>]]></s:C><D/></s:A>', LIMITS)
    assert (root.name, root.attributes["b"]) == ("A", "1")
    assert [(child.name, child.text) for child in root.children] == [("C", "t&<>"), ("D", "")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"\xff\xfe",
        b"<a>" * 6 + b"</a>" * 6,
        b"<a>" + b"<b/>" * 10 + b"</a>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b"<a>&undefined;</a>",
        b'<?xml version="1.0" encoding="none-such"?><a/>',
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(InputError) as caught:
        read_document(body, LIMITS)
    assert caught.value.reason == "malformed"


def test_structure(catalogue: Catalogue) -> None:
    parse = XmlInputs(catalogue, "s3").structure("AccessControlPolicy")
    schema = b"http://www.w3.org/2001/XMLSchema-instance"
    grantee = b'<Grantee xmlns:xsi="%s" xsi:type="CanonicalUser"><ID>me</ID></Grantee>' % schema
    body = b"<P><AccessControlList><Grant>" + grantee + b"</Grant></AccessControlList><Unknown/></P>"
    assert parse(read_document(body, Limits())) == {
        "Grants": [{"Grantee": {"Type": "CanonicalUser", "ID": "me"}}]
    }


def test_flattened_list(catalogue: Catalogue) -> None:
    parse = XmlInputs(catalogue, "s3").structure("Delete")
    body = b"<Delete><Object><Key>a</Key></Object><Quiet>true</Quiet><Object><Key> b </Key></Object></Delete>"
    assert parse(read_document(body, Limits())) == {"Objects": [{"Key": "a"}, {"Key": " b "}], "Quiet": True}


@pytest.mark.parametrize(
    ("body", "reason", "path"),
    [
        (b"<Delete/>", "missing", "Object"),
        (b"<Delete><Object/></Delete>", "missing", "Object.Key"),
        (b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>", "invalid", "Object.Key"),
        (b"<Delete><Object><Key><x/></Key></Object></Delete>", "invalid", "Object.Key"),
        (b"<Delete><Object><Key>a</Key><Size>b</Size></Object></Delete>", "invalid", "Object.Size"),
    ],
)
def test_does_not_fit(catalogue: Catalogue, body: bytes, reason: str, path: str) -> None:
    with pytest.raises(InputError) as caught:
        XmlInputs(catalogue, "s3").structure("Delete")(read_document(body, Limits()))
    assert (caught.value.reason, caught.value.path) == (reason, path)
