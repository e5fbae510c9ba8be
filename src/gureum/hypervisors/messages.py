"""What a machine's status says for people. The same words from every hypervisor."""

from __future__ import annotations

GUEST_SHUT_DOWN = "the guest shut itself down"
GUEST_PANICKED = "guest kernel panic"
GUEST_HUNG = "the guest did not feed its watchdog"
EMULATION_FAILED = "the CPU could not be virtualized any further"
STORAGE_FULL = "paused: the storage is full"
STORAGE_AWAY = "paused: the storage can't be reached"
STORAGE_FAILED = "paused: the storage of a disk failed"
STORAGE_SHUT_OUT = "ended: the storage cluster has shut this host out"
PAUSED = "paused"
HOST_RESTARTED = "the host restarted"
HOST_STOPS = "the host shuts down"
NOT_STARTED = "was never started: the agent ended before"
MIGRATED = "its guest is held: all of it is on another host now"
CANCELLED = "cancelled"
NOT_BEGUN = "its QEMU has not begun"
VCPUS_STAY = (
    "QEMU cannot take a vCPU from a machine that is emulated: it gets the time of as many as it is to have, "
    "and has no more than these once it is stopped and started"
)
STAYED = "it goes on here after all"
STOPPED = "stopped as asked"
PROCESS_ENDED = "the hypervisor process ended unexpectedly"


def killed_by(signal_name: str) -> str:
    return f"{PROCESS_ENDED}: killed by {signal_name}"


def storage_failed(volume: str, reason: str) -> str:
    return f"paused: the storage of {volume} failed: {reason}"


def storage_waits(volumes: str) -> str:
    return f"its storage does not answer: {volumes}"


NOT_TOLD = "the agent here ended before it listened for it"


def migration_failed(reason: str) -> str:
    return f"did not come here from its host: {reason}"


def start_failed(reason: str) -> str:
    return f"could not be started: {reason}"
