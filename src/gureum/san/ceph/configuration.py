"""The texts of ceph.conf and daemons.conf. Each setting that differs from Ceph's default says why."""

from __future__ import annotations

from collections.abc import Iterable

from gureum.network.names import storage_ports
from gureum.san.ceph.cluster import (
    CEPH_USER,
    COPIES,
    COPIES_MIN,
    LOOPBACK,
    MON_PORTS,
    Cluster,
    Record,
)

MIB = 1 << 20
GIB = 1 << 30
AUTOTUNE_MIN = GIB
"""The least `osd_memory_target` that leaves a cache worth tuning: Ceph takes 896 MiB and more."""
CACHE_MIN, CACHE_MAX = 64 * MIB, 256 * MIB
MEMORY_SHARE = 32
OSD_MEMORY_MAX = 4 * GIB


def clients_conf(cluster: Cluster, record: Record, address: str) -> str:
    """What a client needs to know; its keyring is found by its user's name."""
    return _text(
        {
            "global": {**_common(record, address), **_modes(address, "client", "mon_client")},
            "client": {"keyring": f"{cluster.directory}/ceph.$name.keyring"},
        }
    )


def daemons_conf(
    cluster: Cluster, record: Record, index: int, address: str, memory_bytes: int, as_root: bool
) -> str:
    """For all daemons. ``memory_bytes``: the machine's."""
    user = {} if as_root else {"setuser": CEPH_USER, "setgroup": CEPH_USER}
    osd_ports = storage_ports(index)[MON_PORTS:]
    return _text(
        {
            "global": {
                **_common(record, address),
                **_modes(address, "cluster", "service", "client", "mon_cluster", "mon_service", "mon_client"),
                "public_addr": address,
                "cluster_addr": address,
                "ms_bind_port_min": osd_ports[0],
                "ms_bind_port_max": osd_ports[-1],
                # Clients that cannot reclaim their global id are older than any that we run.
                "auth_allow_insecure_global_id_reclaim": "false",
                "admin_socket": f"{cluster.run_dir}/$name.asok",
                "run_dir": str(cluster.run_dir),
                # The supervisor keeps and bounds what they write.
                "log_to_file": "false",
                "log_to_stderr": "true",
                "err_to_stderr": "true",
                "mon_cluster_log_to_file": "false",
                "debug_rocksdb": "1/5",
                "debug_osd": "0/5",
                "osd_pool_default_size": COPIES,
                "osd_pool_default_min_size": COPIES_MIN,
                "osd_pool_default_pg_autoscale_mode": "off",
                # A hung OSD holds up writes for this long: others miss it, and the monitor believes them.
                "osd_heartbeat_grace": 12,
                # All are in one machine: copies are on different OSDs, not on different hosts.
                "osd_crush_chooseleaf_type": 0,
            },
            "mon": {
                **user,
                "mon_data": f"{cluster.directory}/$name",
                "keyring": f"{cluster.directory}/$name/keyring",
                "mgr_initial_modules": "",
                # One monitor has nobody to wait for. By default it waits for more to propose, 50 ms, and
                # until a second after its last commit. Meanwhile a guest whose volume gets a snapshot may
                # not write, as its id is such a commit. Each is on the disk before it is answered, as ever.
                "paxos_min_wait": "0.005",
                "paxos_propose_interval": "0.01",
                # They share a machine, so whoever says that an OSD is silent is in the same "host".
                "mon_osd_reporter_subtree_level": "osd",
                # Its disk is the machine's, which others fill too: 30 % free is no trouble there.
                "mon_data_avail_warn": 10,
                "mon_memory_autotune": "false",
                "rocksdb_cache_size": 64 * MIB,
            },
            "mgr": {
                **user,
                "mgr_data": f"{cluster.directory}/$name",
                "keyring": f"{cluster.directory}/$name/keyring",
                "mgr_module_path": f"{cluster.directory}/mgr-modules",
                # States and free space are known within two seconds, not ten.
                "mgr_stats_period": 1,
                "mgr_tick_period": 1,
            },
            "osd": {
                **user,
                "osd_data": f"{cluster.directory}/$name",
                "keyring": f"{cluster.directory}/$name/keyring",
                "osd_objectstore": "bluestore",
                **osd_memory(memory_bytes),
                # Their places and weights are in the map that the cluster began with.
                "osd_crush_update_on_start": "false",
                # What was stopped is known to be down at once, not after a time of silence.
                "osd_fast_shutdown_notify_mon": "true",
                "osd_heartbeat_interval": 3,
                # A log of 2,000 changes for each of 32 placement groups.
                "osd_target_pg_log_entries_per_osd": 64000,
                # Measuring the disk at each start takes seconds; the result is for another scheduler.
                "osd_mclock_skip_benchmark": "true",
            },
        }
    )


def osd_memory(memory_bytes: int) -> dict[str, object]:
    """An OSD's share of the machine's memory: a target to tune itself to, or a fixed small cache."""
    share = min(memory_bytes // MEMORY_SHARE, OSD_MEMORY_MAX)
    if share >= AUTOTUNE_MIN:
        return {"osd_memory_target": share}
    cache = min(CACHE_MAX, max(CACHE_MIN, share // 4))
    return {"bluestore_cache_autotune": "false", "bluestore_cache_size": cache}


def is_loopback(address: str) -> bool:
    return address == LOOPBACK


def messenger_address(record: Record, address: str) -> str:
    """The monitor's address in messenger 2's form; messenger 1 is not spoken."""
    host = f"[{address}]" if ":" in address else address
    return f"v2:{host}:{record.mon_port}"


def _common(record: Record, address: str) -> dict[str, object]:
    settings: dict[str, object] = {
        "fsid": record.fsid,
        "mon_host": f"[{messenger_address(record, address)}]",
        "ms_bind_msgr1": "false",
        "auth_cluster_required": "cephx",
        "auth_service_required": "cephx",
        "auth_client_required": "cephx",
    }
    if ":" in address:
        settings |= {"ms_bind_ipv4": "false", "ms_bind_ipv6": "true"}
    return settings


def _modes(address: str, *links: str) -> dict[str, object]:
    """On a network everything is encrypted; within the machine a checksum is enough."""
    mode = "crc" if is_loopback(address) else "secure"
    return {f"ms_{link}_mode": mode for link in links}


def _text(sections: dict[str, dict[str, object]]) -> str:
    blocks = [_section(name, settings.items()) for name, settings in sections.items()]
    return "\n".join(blocks)


def _section(name: str, settings: Iterable[tuple[str, object]]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in settings), ""])
