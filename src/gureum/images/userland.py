"""The contents of the `tiny` image: which packages, which of their files, and our own scripts."""

import lzma
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from gureum.images.cpio import CpioWriter
from gureum.images.elf import module_depends, needed_libraries
from gureum.images.errors import ImageBuildError

SCRIPTS = Path(__file__).parent / "tiny"

KERNEL_PACKAGE = "linux-image-cloud-amd64"
DYNAMIC_BUSYBOX = "busybox"
TINY_PACKAGES = (
    KERNEL_PACKAGE,
    "busybox-static",
    DYNAMIC_BUSYBOX,
    "dropbear-bin",
    "e2fsprogs",
    "openssh-sftp-server",
    "lz4",
    "zstd",
)
"""Debian packages that the image is made from; downloaded, never installed. Their libraries follow.
lz4 and zstd are no part of the image, but unpack its kernel."""

HOST_PACKAGES = ("apt", "dpkg", "e2fsprogs")
"""Debian packages with the tools that must be installed to build the image."""

_PROGRAMS = (
    "usr/sbin/dropbear",
    "usr/bin/dropbearkey",
    "usr/bin/dbclient",
    "sbin/mke2fs",
    "sbin/e2fsck",
    "sbin/resize2fs",
    "sbin/tune2fs",
    "sbin/dumpe2fs",
    "usr/lib/openssh/sftp-server",
)
_RESOLVERS = ("wget", "telnet", "ftpget", "ftpput", "tftp")
"""Programs that look up hosts with getaddrinfo, which a static glibc program can't."""
_LINKS = {
    "sbin/mkfs.ext4": "mke2fs",
    "sbin/mkfs.ext3": "mke2fs",
    "sbin/fsck.ext4": "e2fsck",
    "usr/lib/sftp-server": "openssh/sftp-server",
    "usr/bin/ssh": "dbclient",
    "bin/sh": "busybox",
    "etc/resolv.conf": "../run/resolv.conf",
    "etc/mtab": "../proc/self/mounts",
    "var/run": "../run",
    "lib64/ld-linux-x86-64.so.2": "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
}
_DIRECTORIES = (
    "dev", "proc", "sys", "run", "tmp", "mnt", "media", "root", "home", "opt", "srv", "etc/dropbear",
    "usr/local/bin", "usr/local/sbin", "var/lib/gureum", "var/log", "var/tmp",
)  # fmt: skip
_MODES = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "etc/shadow": 0o600}

_BOOT_MODULES = {
    "pci": ("virtio_pci", "virtio_blk"),
    "mmio": ("virtio_mmio", "virtio_blk"),
}
"""In the initial RAM file system: list of modules to load, by the file that names them in order."""

_ROOT_MODULES = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon", "virtio_console",
    "virtio_mem",
    "virtio_scsi", "sd_mod", "nvme", "button", "evdev", "loop", "vfat", "nls_cp437", "nls_ascii", "nls_utf8",
    "isofs", "xfs", "overlay", "squashfs", "fuse", "tun", "bridge", "veth", "vxlan", "8021q", "dummy", "nbd",
    "crc32c_intel",
)  # fmt: skip

_PACKED = ".ko.xz"
_LOADER = "ld-linux-x86-64.so.2"
_APPLET = re.compile(r"[a-z0-9_.\[-]+")
_SYSTEM_APPLETS = frozenset(
    (
        "acpid", "blkdiscard", "blockdev", "fdisk", "findfs", "fstrim", "getty", "halt", "hwclock",
        "ifconfig", "init", "insmod", "ip", "klogd", "losetup", "lsmod", "mdev", "modinfo", "modprobe",
        "pivot_root", "poweroff", "reboot", "rmmod", "route", "run-init", "start-stop-daemon", "swapoff",
        "swapon", "switch_root", "sysctl", "syslogd", "udhcpc", "uevent", "watchdog",
    )
)  # fmt: skip


class Modules:
    """The kernel modules of an unpacked kernel package, found by name."""

    def __init__(self, root: Path) -> None:
        versions = sorted(locate(root, "lib/modules").iterdir())
        if len(versions) != 1:
            raise ImageBuildError(f"the kernel package holds {len(versions)} kernels instead of one")
        self.directory = versions[0]
        self.version = versions[0].name
        self._paths = {
            path.name.partition(".")[0].replace("-", "_"): path
            for path in self.directory.rglob("*.ko*")
            if path.name.endswith((".ko", _PACKED))
        }
        builtin = (self.directory / "modules.builtin").read_text().split()
        self._builtin = {Path(line).stem.replace("-", "_") for line in builtin}

    def closure(self, names: Iterable[str]) -> list[Path]:
        """Files of the modules and of all they need, each after those it needs, without built-in ones."""
        order: list[Path] = []
        for name in names:
            self._visit(name, order)
        return order

    def depends(self, path: Path) -> list[Path]:
        """Files of all the modules that the module at `path` needs, each after those it needs."""
        return self.closure(module_depends(path))

    def _visit(self, name: str, order: list[Path]) -> None:
        # Files and dependencies are written with either.
        name = name.replace("-", "_")
        if name in self._builtin:
            return
        path = self._unpacked(name)
        if path in order:
            return
        for dependency in module_depends(path):
            self._visit(dependency, order)
        order.append(path)

    def _unpacked(self, name: str) -> Path:
        """The module's file. Debian 13's are compressed, and busybox loads none that are."""
        path = self._paths.get(name)
        if path is None:
            raise ImageBuildError(f"kernel {self.version} has no module {name}")
        if path.name.endswith(_PACKED):
            packed, path = path, path.with_suffix("")
            path.write_bytes(lzma.decompress(packed.read_bytes()))
            self._paths[name] = path
        return path


def locate(root: Path, name: str) -> Path:
    """The file `name` of the unpacked packages: newer packages have all under usr/, older ones do not."""
    for candidate in (root / name, root / "usr" / name, root / name.removeprefix("usr/")):
        if os.path.lexists(candidate):
            return candidate
    raise ImageBuildError(f"none of the packages has {name}")


def kernel_image(root: Path) -> Path:
    """The kernel's boot file in its unpacked package."""
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise ImageBuildError(f"the kernel package holds {len(images)} kernels instead of one")
    return images[0]


def packaged_command(root: Path, program: str) -> list[str | Path]:
    """The words that run a program of the unpacked packages with the packages' own libraries.

    ``program``: its name in usr/bin.
    """
    directories = [root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu"]
    path = ":".join(map(str, directories))
    return [Libraries(root).loader, "--library-path", path, locate(root, f"usr/bin/{program}")]


def initramfs(root: Path) -> bytes:
    """The initial RAM file system, not compressed: unpacking it costs the guest more than reading it."""
    modules = Modules(root)
    output = BytesIO()
    archive = CpioWriter(output)
    for name in ("bin", "dev", "modules", "proc", "root", "sys"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", locate(root, "bin/busybox").read_bytes(), 0o755)
    archive.file("init", (SCRIPTS / "initramfs/init").read_bytes(), 0o755)
    written: set[Path] = set()
    for name, wanted in _BOOT_MODULES.items():
        order = modules.closure(wanted)
        archive.file(f"modules/{name}", "".join(f"{path.stem}\n" for path in order).encode())
        for path in order:
            if path not in written:
                archive.file(f"modules/{path.name}", path.read_bytes())
                written.add(path)
    archive.close()
    return output.getvalue()


def populate(root: Path, target: Path, applets: Iterable[str], dynamic_busybox: Path) -> None:
    """Makes the root file system's tree in `target` from the packages unpacked in `root`.

    The static busybox starts at once, but glibc crashes it where it looks up a host (wget, telnet):
    those programs are `dynamic_busybox`, which finds its work by the name that it is called by.
    """
    for directory in _DIRECTORIES:
        (target / directory).mkdir(parents=True, exist_ok=True)
    _copy_scripts(target)
    _copy(root, target, "bin/busybox")
    libraries = Libraries(root)
    (target / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dynamic_busybox, target / "usr/bin/busybox-dynamic")
    (target / "usr/bin/busybox-dynamic").chmod(0o755)
    for name in _RESOLVERS:
        _link(target / "usr/bin" / name, "busybox-dynamic")
    for library in libraries.closure(dynamic_busybox):
        _copy(root, target, f"lib/x86_64-linux-gnu/{library}")
    for program in _PROGRAMS:
        _copy(root, target, program)
        for library in libraries.closure(locate(root, program)):
            _copy(root, target, f"lib/x86_64-linux-gnu/{library}")
    for name, destination in _LINKS.items():
        _link(target / name, destination)
    for applet in applets:
        if _APPLET.fullmatch(applet):
            place = "sbin" if applet in _SYSTEM_APPLETS else "bin"
            if not any((target / elsewhere / applet).exists() for elsewhere in ("bin", "sbin", "usr/bin")):
                _link(target / place / applet, "../bin/busybox" if place == "sbin" else "busybox")
    _copy_modules(Modules(root), target)
    for name, mode in _MODES.items():
        os.chmod(target / name, mode)


class Libraries:
    """The shared libraries of the unpacked packages, found by the name that programs ask for."""

    def __init__(self, root: Path) -> None:
        self._paths = {
            path.name: path
            for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
            for path in sorted((root / place).glob("*.so*"))
        }

    @property
    def loader(self) -> Path:
        return self._paths[_LOADER]

    def closure(self, program: Path) -> Iterator[str]:
        """Names of every library that `program` loads, with the loader itself."""
        seen: set[str] = set()
        waiting = [*needed_libraries(program), _LOADER]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            path = self._paths.get(name)
            if path is None:
                raise ImageBuildError(f"{program.name} needs {name}, which is in none of the packages")
            yield name
            waiting.extend(needed_libraries(path))


def _copy_scripts(target: Path) -> None:
    for source in sorted((SCRIPTS / "root").rglob("*")):
        if source.is_file():
            destination = target / source.relative_to(SCRIPTS / "root")
            destination.parent.mkdir(parents=True, exist_ok=True)
            data = source.read_bytes()
            destination.write_bytes(data)
            # Wheels do not keep modes: what starts with #! is a program.
            destination.chmod(0o755 if data.startswith(b"#!") else 0o644)


def _copy(root: Path, target: Path, name: str) -> None:
    """Copies one file under the name asked for, whatever chain of links it is behind."""
    source = locate(root, name).resolve()
    if not source.is_relative_to(root.resolve()):
        raise ImageBuildError(f"{name} leads out of the packages")
    destination = target / name
    destination.parent.mkdir(parents=True, exist_ok=True)
    if not destination.exists():
        shutil.copyfile(source, destination)
        destination.chmod(source.stat().st_mode & 0o755)


def _copy_modules(modules: Modules, target: Path) -> None:
    lines = []
    for path in modules.closure(_ROOT_MODULES):
        relative = path.relative_to(modules.directory)
        destination = target / "lib/modules" / modules.version / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
        needs = [str(other.relative_to(modules.directory)) for other in reversed(modules.depends(path))]
        lines.append(f"{relative}: {' '.join(needs)}".rstrip() + "\n")
    (target / "lib/modules" / modules.version / "modules.dep").write_text("".join(sorted(lines)))


def _link(path: Path, destination: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(destination)
