from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.errors import ApiError
from gureum.resources import Host, Instance, Volume

if TYPE_CHECKING:
    from ..conftest import Rig


class Fleet:
    """The Fleet API of a cloud without hosts."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.put, self.get, self.find = rig.put, rig.get, rig.find

    async def call(self, operation: str, **input: Any) -> Any:
        return await self.rig.call(operation, service="fleet", **input)

    async def refused(self, code: str, operation: str, **input: Any) -> ApiError:
        """Call an operation that must fail with this code, changing nothing."""
        before = self.rig.store.revision
        with pytest.raises(ApiError) as caught:
            await self.call(operation, **input)
        assert caught.value.code == code, caught.value
        assert self.rig.store.revision == before
        return caught.value

    async def occupy(self, host: str) -> tuple[str, str]:
        """An instance with a volume on the host."""
        id = await self.rig.running()
        await self.rig.change(Instance, id, host=host)
        (volume,) = await self.find(Volume, instances=id)
        await self.rig.change(Volume, volume.id, host=host)
        return id, volume.id


@pytest.fixture
async def fleet(rig: Rig) -> Fleet:
    for host in await rig.find(Host):
        await rig.delete(host)
    return Fleet(rig)
