"""What a machine's status says for people. The same words from every hypervisor."""

from __future__ import annotations

GUEST_SHUT_DOWN = "the guest shut itself down"
GUEST_PANICKED = "guest kernel panic"
EMULATION_FAILED = "the CPU could not be virtualized any further"
STORAGE_FULL = "paused: the storage is full"
PAUSED = "paused"
HOST_RESTARTED = "the host restarted"
HOST_STOPS = "the host shuts down"
NOT_STARTED = "was never started: the agent ended before"
STOPPED = "stopped as asked"
PROCESS_ENDED = "the hypervisor process ended unexpectedly"


def killed_by(signal_name: str) -> str:
    return f"{PROCESS_ENDED}: killed by {signal_name}"


def start_failed(reason: str) -> str:
    return f"could not be started: {reason}"
