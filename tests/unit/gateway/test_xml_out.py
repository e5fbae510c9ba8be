from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.gateway.call import Fragment
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.protocols import Codecs
from gureum.gateway.xml_out import XmlPlans, escape, escape_attribute

RESERVATION = {
    "ReservationId": "r-1",
    "Instances": [{"InstanceId": "i-1", "Tags": [{"Key": "a", "Value": "<&>"}]}],
}


def written(catalogue: Catalogue, value: object) -> str:
    out: list[str] = []
    XmlPlans(catalogue, "ec2", "ec2").structure("DescribeInstancesResult")(value, out)
    return "".join(out)


def test_members(catalogue: Catalogue) -> None:
    assert written(catalogue, {"Reservations": [RESERVATION], "NextToken": None}) == (
        "<reservationSet><item><reservationId>r-1</reservationId><instancesSet><item><instanceId>i-1</instanceId>"
        "<tagSet><item><key>a</key><value>&lt;&amp;&gt;</value></item></tagSet></item></instancesSet></item>"
        "</reservationSet>"
    )


def test_fragment_is_as_the_value_that_it_stands_for(catalogue: Catalogue) -> None:
    codecs = Codecs(catalogue, Limits(), ())
    whole = codecs.fragment("ec2", "Reservation", RESERVATION)
    instance = codecs.fragment("ec2", "Instance", RESERVATION["Instances"][0])
    expected = written(catalogue, {"Reservations": [RESERVATION]})
    assert written(catalogue, {"Reservations": [whole]}) == expected
    assert written(catalogue, {"Reservations": [{**RESERVATION, "Instances": [instance]}]}) == expected
    assert written(catalogue, Fragment("<a/>")) == "<a/>"


def test_unknown_member_is_a_bug_of_the_service(catalogue: Catalogue) -> None:
    with pytest.raises(KeyError, match="Colour"):
        written(catalogue, {"Colour": "red"})


@given(st.text())
def test_any_text_is_well_formed(text: str) -> None:
    document = f'<a b="{escape_attribute(text)}">{escape(text)}</a>'.encode("utf-8", "replace")
    root = ElementTree.fromstring(document)
    kept = all(c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "�" or c > "\uffff" for c in text)
    if kept:
        assert root.text or text == ""
        assert root.attrib["b"] == text
