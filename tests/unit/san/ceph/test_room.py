from pathlib import Path

import pytest

from gureum.san.ceph import room
from gureum.san.ceph.cluster import Cluster, Disk

MIB_KIB = 1 << 10
MIB = 1 << 20


def usage(*sizes_mib: int, data_mib: int, overhead_mib: int = 100) -> dict[str, object]:
    nodes = [
        {
            "id": number,
            "kb": size * MIB_KIB,
            "kb_used": (data_mib + overhead_mib) * MIB_KIB,
            "kb_used_data": data_mib * MIB_KIB,
        }
        for number, size in enumerate(sizes_mib)
    ]
    return {"nodes": nodes}


def df(stored_mib: int) -> dict[str, object]:
    return {"pools": [{"stats": {"stored": stored_mib * MIB}}]}


@pytest.mark.parametrize(
    ("sizes", "data", "stored", "others", "lacks"),
    [
        ((1000, 1000, 1000, 1000), 600, 800, (0, 1, 2), True),  # 3 x 750 free, 3 x 800 wanted
        ((1000, 1000, 1000, 1000), 450, 600, (0, 1, 2), False),
        # A large one holds no more than one copy of everything.
        ((600, 600, 9000, 1000), 450, 600, (0, 1, 2), True),
        ((1000, 1000, 9000, 600), 450, 600, (0, 1, 2), False),
        # What the manager has not counted yet is on the OSDs.
        ((1000, 1000, 1000, 1000), 600, 0, (0, 1, 2), True),
    ],
)
def test_what_the_others_lack(
    sizes: tuple[int, ...], data: int, stored: int, others: tuple[int, ...], lacks: bool
) -> None:
    assert (room.lacking(df(stored), usage(*sizes, data_mib=data), others) > 0) is lacks


def test_what_a_file_takes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    disk = Disk(number=0, bytes=MIB)
    assert room.taken(cluster, disk) == 0
    cluster.daemon_dir("osd.0").mkdir(parents=True)
    file = cluster.daemon_dir("osd.0") / "block"
    file.write_bytes(b"x" * 8192)
    with open(file, "r+b") as sparse:
        sparse.truncate(MIB)
    assert room.taken(cluster, disk) == 8192
    assert room.device_bytes(str(file)) == MIB
