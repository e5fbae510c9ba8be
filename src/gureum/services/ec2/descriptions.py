"""The descriptions that images and snapshots have."""

from __future__ import annotations

from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.limits import DESCRIPTION_LENGTH_MAX
from gureum.services.operation import Input


def checked_description(input: Input) -> str:
    """ "" if there is none. Raises InvalidParameterValue."""
    description: str = input.get("Description") or ""
    if len(description) > DESCRIPTION_LENGTH_MAX:
        raise invalid_value(f"Description can be at most {DESCRIPTION_LENGTH_MAX} characters long")
    return description
