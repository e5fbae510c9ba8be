"""Pages of what the Fleet API lists: MaxResults and NextToken, or ids."""

from __future__ import annotations

from typing import NamedTuple

from gureum.services.ec2 import pagination
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Input

SIZE_DEFAULT = 100


class Page(NamedTuple):
    """``after``: the id that the page before ended with, "" at the start."""

    operation: str
    size: int
    after: str

    def token(self, ids: list[str]) -> str | None:
        """The NextToken. ``ids``: all above ``after``, or of them one more than the page has."""
        return pagination.encode(ids[self.size - 1], self.operation) if len(ids) > self.size else None


def page(input: Input, operation: str, ids: str) -> Page:
    """``ids``: the member that names what is wanted. Raises if it is there with those of pages."""
    token = input.get("NextToken")
    if input.get(ids) and (input.get("MaxResults") or token):
        raise invalid(f"{ids} cannot be used together with MaxResults or NextToken.")
    after = pagination.decode(token, operation) if token else ""
    return Page(operation, input.get("MaxResults") or SIZE_DEFAULT, after)
