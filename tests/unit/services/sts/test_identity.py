from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_caller(rig: Rig) -> None:
    answer = await rig.call("GetCallerIdentity", service="sts")
    assert answer == {
        "UserId": "123456789012",
        "Account": "123456789012",
        "Arn": "arn:aws:iam::123456789012:root",
    }
