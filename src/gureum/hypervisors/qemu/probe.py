"""Does KVM really run guests here?

That /dev/kvm exists and makes virtual machines says little: some hosts' KVM is for guests made for it, and
interprets or refuses what an ordinary kernel does. So a guest of 187 bytes is run: it is QEMU's firmware,
goes from real to 64-bit mode with paging, counts to twenty million with SSE instructions, executes CPUID,
RDTSC and WRMSR, and ends QEMU with an exit code. That takes well under a second where the CPU itself does it,
and far longer, or an emulation failure, where it does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.installation import find_binary, remember, stamp
from gureum.hypervisors.qemu.record import boot_id

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
CACHE_NAME = "kvm-probe.json"
DEVICE = Path("/dev/kvm")

ROM_BYTES = 64 * 1024
SUCCESS = 33
"""isa-debug-exit's code for the value 0x10: 2 * value + 1."""

_FAILURES = (
    b"emulation failure",
    b"KVM internal error",
    b"failed to initialize kvm",
    b"Could not access KVM",
)

CODE = bytes.fromhex(
    # 16 bits: no interrupts, segments 0, stack; clear three page tables at 0x1000, fill in the first 2 MiB
    "fa 31c0 8ed8 8ec0 8ed0 bc0070 fc bf0010 b90018 f3ab c70600100320 c70600200330 c70600308300"
    # copy the 64-bit part to 0x8000, load the descriptor table
    "bf0080 b92d00 be8e00 2ef3a4 2e660f01168800"
    # CR4: PAE, OSFXSR, OSXMMEXCPT; CR3; EFER: LME; CR0: PG, MP, PE; jump to the 64-bit code
    "0f20e0 660d20060000 0f22e0 66b800100000 0f22d8 66b9800000c0 0f32 660d00010000 0f30"
    "0f20c0 6683e0fb 660d03000080 0f22c0 66ea008000000800 90"
    # descriptors: null, 64-bit code; pointer to them
    "0000000000000000 00000000009a2000 0f0078000f00"
    # 64 bits: 20,000,000 times xmm0 -= -1; CPUID; RDTSC; if xmm0 is right, 0x10 to port 0xf4; halt for ever
    "b9002d3101 660fefc0 660f76c9 660ffac1 ffc9 75f8 31c0 0fa2 0f31 660f7ec0 3d002d3101 7504 b010 e6f4"
    "f4 ebfd"
)
RESET_VECTOR = bytes.fromhex("ea000000f0")
"""Where the CPU begins, 16 bytes below the end: jump to F000:0000, which is ``CODE``."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    works: bool
    reason: str


class _Cached(msgspec.Struct, frozen=True, kw_only=True):
    """``subject`` is what the verdict is about: this boot, this QEMU, this device."""

    subject: str
    verdict: Verdict


def rom() -> bytes:
    return CODE.ljust(ROM_BYTES - 16, b"\0") + RESET_VECTOR.ljust(16, b"\0")


async def probe_kvm(cache_dir: Path, seconds: float = PROBE_SECONDS) -> Verdict:
    """Whether KVM runs guests, and why not. Takes at most about ``seconds`` once a boot; remembered in
    ``cache_dir``.
    """
    cache = cache_dir / CACHE_NAME
    subject = _subject()
    try:
        known = msgspec.json.decode(cache.read_bytes(), type=_Cached)
        if known.subject == subject:
            return known.verdict
    except (OSError, msgspec.MsgspecError):
        log.debug("no verdict about KVM in %s", cache)
    verdict = await _probe(seconds)
    if verdict.works:
        log.info("guests run under KVM")
    else:
        # Who asked tells people, in words of its own.
        log.info("guests run under TCG, since KVM does not work: %s", verdict.reason)
    cache_dir.mkdir(parents=True, exist_ok=True)
    remember(cache, _Cached(subject=subject, verdict=verdict))
    return verdict


def _subject() -> str:
    try:
        device = str(DEVICE.stat().st_rdev)
    except OSError:
        device = "none"
    return f"{boot_id()} {stamp(find_binary())} {device}"


async def _probe(seconds: float) -> Verdict:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Verdict(works=False, reason=f"{DEVICE}: {error.strerror}")
    with TemporaryDirectory(prefix="gureum-probe-") as directory:
        image = Path(directory) / "probe.rom"
        image.write_bytes(rom())
        return await run(find_binary(), "kvm", image, seconds)


async def run(binary: str, accelerator: str, image: Path, seconds: float) -> Verdict:
    """Run the probe's guest under ``accelerator``."""
    process = await asyncio.create_subprocess_exec(
        *(binary, "-machine", "microvm", "-accel", accelerator, "-m", "16M", "-bios", str(image)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-device", "isa-debug-exit,iobase=0xf4"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            failure = await _failure(process)
            if not failure and await process.wait() == SUCCESS:
                return Verdict(works=True, reason="a guest ran")
    except TimeoutError:
        return Verdict(works=False, reason=f"a tiny guest did not end in {seconds:g} s")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    return Verdict(works=False, reason=failure or f"QEMU ended with {process.returncode}")


async def _failure(process: asyncio.subprocess.Process) -> str:
    """What QEMU says went wrong, "" if it ends without a word of that."""
    if process.stderr is None:
        raise HypervisorError("no output of the probe's QEMU")
    async for line in process.stderr:
        if any(failure in line for failure in _FAILURES):
            return line.decode(errors="replace").strip()
    return ""
