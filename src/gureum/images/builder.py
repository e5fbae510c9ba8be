"""Builds the `tiny` image, a real Linux guest that is up in two seconds: Debian packages and our scripts."""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gureum.images import filesystem, kernel, library, packages, userland
from gureum.images.command import run
from gureum.images.errors import ImageBuildError, ManifestError
from gureum.images.manifest import ImageManifest, load_manifest, write_manifest

Progress = Callable[[str, float], None]
"""Told what happens now, and which share of the work (0 to 1) is done."""

NAME = "tiny"
FIRST_LINE = "gureum-tiny: userspace"
DISK_BYTES = 1 << 30
"""EC2 counts volumes in GiB: on the smallest one there is nothing to grow. The file is sparse, 20 MB."""

CMDLINE = " ".join(
    (
        "console=ttyS0",
        "root=/dev/vda",  # the first disk; root=SERIAL=x names one by its virtio serial number instead
        "quiet",  # an emulated serial port costs time for every line
        "nokaslr",  # an ELF kernel does not move itself; one that does takes 0.25 s under TCG
        "cryptomgr.notests",  # self tests of ciphers take 0.4 s under TCG
        "edd=off",  # the boot stub's probe for BIOS disks, 0.1 s
        "no_timer_check 8250.nr_uarts=1 i8042.noaux i8042.nopnp i8042.nokbd",  # no probing for legacy devices
        "swiotlb=noforce",  # no 64 MiB for devices that reach 4 GiB only: there are none
        "random.trust_cpu=on",  # no wait for entropy before virtio-rng is there
        "panic=1",  # a panic becomes a reset that the hypervisor sees
    )
)


async def build_tiny(out_dir: Path, progress: Progress, *, refresh: bool = False) -> ImageManifest:
    """Returns the manifest of the tiny image in the library `out_dir`, building it when it is not there.

    An image that our part of the recipe (scripts, list of packages) has not outgrown is returned at once;
    `refresh` asks apt for newer packages (a security fix in the kernel) first.
    Raises ImageError with the reason, and then leaves everything as it was.
    """
    recipe = await asyncio.to_thread(_recipe_hash)

    async def ready() -> ImageManifest | None:
        if refresh:
            return None
        return await asyncio.to_thread(
            library.newest, out_dir, lambda manifest: manifest.name == NAME and manifest.recipe_hash == recipe
        )

    manifest = await ready()
    if manifest is None:
        async with library.workspace(out_dir) as work:
            # Another process may have built it while this one waited for the workspace.
            manifest = await ready() or await _build(work, out_dir, recipe, progress)
    progress("image tiny is ready", 1.0)
    return manifest


async def _build(work: Path, out_dir: Path, recipe: str, progress: Progress) -> ImageManifest:
    progress("asking apt for package versions", 0.02)
    wanted = await packages.resolve(await _package_names())
    final = library.image_directory(out_dir, NAME, _input_hash(recipe, wanted))
    with contextlib.suppress(ManifestError):
        manifest = await asyncio.to_thread(load_manifest, final)
        os.utime(final)
        return manifest

    for name in ("debs", "image", "tree"):
        (work / name).mkdir()
    megabytes = sum(package.size for package in wanted) / 1e6
    progress(f"downloading {len(wanted)} Debian packages, {megabytes:.0f} MB", 0.05)
    archives = await packages.download(wanted, work / "debs")
    progress("unpacking packages", 0.55)
    # Two packages have a bin/busybox: the one that looks names up goes elsewhere.
    dynamic = [package.name == userland.DYNAMIC_BUSYBOX for package in wanted]
    await packages.unpack(
        [file for file, apart in zip(archives, dynamic, strict=True) if not apart], work / "root"
    )
    await packages.unpack(
        [file for file, apart in zip(archives, dynamic, strict=True) if apart], work / "dynamic"
    )
    root, image, tree = work / "root", work / "image", work / "tree"

    progress("writing kernel and initial RAM file system", 0.7)
    boot_file = userland.kernel_image(root)
    if not await kernel.extract(boot_file, image / "vmlinux", partial(userland.packaged_command, root)):
        await asyncio.to_thread(shutil.copyfile, boot_file, image / "vmlinux")
    (image / "initrd.img").write_bytes(await asyncio.to_thread(userland.initramfs, root))
    progress("making the root disk", 0.75)
    applets = (await run(userland.locate(root, "bin/busybox"), "--list", timeout_s=30)).decode().split()
    dynamic_busybox = userland.locate(work / "dynamic", "bin/busybox")
    await asyncio.to_thread(userland.populate, root, tree, applets, dynamic_busybox)
    await filesystem.make_ext4(tree, image / "disk.raw", DISK_BYTES, label="gureum-tiny")

    progress("moving the image into place", 0.98)
    await asyncio.to_thread(write_manifest, image, _manifest(image, recipe, wanted))
    return await library.publish(image, final)


def _manifest(image: Path, recipe: str, wanted: list[packages.Package]) -> ImageManifest:
    return ImageManifest(
        name=NAME,
        description="Debian's cloud kernel, busybox, dropbear; runs #! user data; root shell on the console",
        architecture="x86_64",
        # microvm has no other clock to measure the TSC with than the PIT, and fails on a busy host: under TCG
        # add tsc_early_khz=<the host's TSC frequency> to the command line. It has no hot-plug either.
        machines=("q35", "microvm"),
        kernel=str(image / "vmlinux"),
        initrd=str(image / "initrd.img"),
        cmdline=CMDLINE,
        disk=str(image / "disk.raw"),
        disk_format="raw",
        disk_bytes=DISK_BYTES,
        login="root",
        first_line=FIRST_LINE,
        recipe_hash=recipe,
        input_hash=_input_hash(recipe, wanted),
        inputs={package.name: package.version for package in wanted},
        files={path.name: path.stat().st_size for path in sorted(image.iterdir())},
    )


async def _package_names() -> list[str]:
    """The listed packages, the kernel behind its meta package, and all libraries that they need."""
    kernels = [
        name
        for name in await packages.dependencies(userland.KERNEL_PACKAGE)
        if name.startswith("linux-image-")
    ]
    if len(kernels) != 1:
        raise ImageBuildError(f"{userland.KERNEL_PACKAGE} should depend on one kernel, not on {kernels}")
    names = {kernels[0]}
    fresh = {name for name in userland.TINY_PACKAGES if name != userland.KERNEL_PACKAGE}
    while fresh:
        names |= fresh
        # Programs that a package depends on are of no use to us, its libraries are.
        found = await packages.dependencies(*sorted(fresh))
        fresh = {name for name in found if name.startswith(("lib", "zlib"))} - names
    return sorted(names)


def _recipe_hash() -> str:
    """SHA-256 over our part of the inputs: the code that makes the image, and the scripts in it."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    code = [
        here / name
        for name in ("builder.py", "cpio.py", "elf.py", "filesystem.py", "kernel.py", "userland.py")
    ]
    for path in code + sorted(path for path in userland.SCRIPTS.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(here)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _input_hash(recipe: str, wanted: list[packages.Package]) -> str:
    lines = [recipe, *(f"{package.name} {package.version} {package.sha256}" for package in wanted)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
