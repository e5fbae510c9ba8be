from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_output(rig: Rig) -> None:
    id = await rig.running()
    rig.hosts.output[id] = b"x" * 70_000 + b"login: \xff"
    for latest in (True, False):
        answer = await rig.call("GetConsoleOutput", InstanceId=id, Latest=latest)
        assert answer["InstanceId"] == id
        assert answer["Timestamp"].timestamp() == rig.time
        output = base64.b64decode(answer["Output"])
        assert len(output) == 65536
        assert output.endswith(b"login: \xff")


async def test_no_output_yet(rig: Rig) -> None:
    assert "Output" not in await rig.call("GetConsoleOutput", InstanceId=await rig.running())
    pending = (await rig.launch())["InstanceId"]
    rig.hosts.down = True
    assert "Output" not in await rig.call("GetConsoleOutput", InstanceId=pending)


async def test_host_does_not_answer(rig: Rig) -> None:
    id = await rig.running()
    rig.hosts.down = True
    await rig.fails("Unavailable", "GetConsoleOutput", InstanceId=id)


async def test_unknown_instance(rig: Rig) -> None:
    await rig.fails("InvalidInstanceID.NotFound", "GetConsoleOutput", InstanceId="i-00000001")
