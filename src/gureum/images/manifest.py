"""What an image consists of, and how a machine boots it: `manifest.json` beside the image's files."""

import os
from pathlib import Path

import msgspec

from gureum.files import write_atomically
from gureum.images.errors import ManifestError

MANIFEST_NAME = "manifest.json"
FORMAT = 1

_FILE_FIELDS = ("kernel", "initrd", "disk")


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image, ready to start machines from.

    `kernel`, `initrd` and `disk` are paths: absolute in memory, relative to the manifest in the file, so that
    a directory with an image can be moved. Without `kernel` the machine boots the disk through its firmware.
    """

    name: str
    description: str
    architecture: str
    machines: tuple[str, ...]
    """QEMU machine types that boot it, the preferred one first."""
    disk: str
    disk_format: str
    """`raw` or `qcow2`."""
    disk_bytes: int
    """Virtual size; a volume made from this image has at least this size."""
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    login: str | None = None
    """The user that receives the ssh key."""
    root_device: str = "/dev/xvda"
    """EC2's name of the root disk. It must be the first virtio disk, unless `cmdline` names another."""
    first_line: str | None = None
    """What the guest's first process writes to its serial console before anything else."""
    recipe_hash: str = ""
    """SHA-256 over the part of the inputs that belongs to gureum."""
    input_hash: str = ""
    """SHA-256 over everything that the image was made from."""
    inputs: dict[str, str] = {}
    """What it was made from: package name to version, or file name to SHA-256."""
    files: dict[str, int] = {}
    """Size in bytes of each file, by name: a cheap check that the image is whole."""
    format: int = FORMAT


def write_manifest(directory: Path, manifest: ImageManifest) -> None:
    """Writes `manifest.json` into `directory`, on the disk when it returns."""
    relative = {
        field: os.path.relpath(path, directory)
        for field in _FILE_FIELDS
        if (path := getattr(manifest, field)) is not None
    }
    document = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, **relative)))
    write_atomically(directory / MANIFEST_NAME, document + b"\n", mode=0o644)


def load_manifest(directory: Path) -> ImageManifest:
    """Reads the manifest of the image in `directory`. Raises ManifestError when the image is not whole."""
    path = directory / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=ImageManifest)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ManifestError(f"{path}: {error}") from error
    if manifest.format != FORMAT:
        raise ManifestError(f"{path}: format {manifest.format} is not {FORMAT}")
    for name, size in manifest.files.items():
        file = directory / name
        if not file.is_file() or file.stat().st_size != size:
            raise ManifestError(f"{path}: {name} is missing or does not have {size} bytes")
    absolute = {
        field: str(directory.absolute() / value)
        for field in _FILE_FIELDS
        if (value := getattr(manifest, field)) is not None
    }
    return msgspec.structs.replace(manifest, **absolute)
