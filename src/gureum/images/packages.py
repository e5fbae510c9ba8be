"""Gets Debian packages without installing them: apt names and checks them, dpkg-deb unpacks them."""

import hashlib
import re
from pathlib import Path

import msgspec

from gureum.images.command import run
from gureum.images.errors import CommandError, ImageBuildError

_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$")
_DEPENDS = re.compile(r"^\s*(?:Pre)?Depends: (\S+)$", re.MULTILINE)
_SETTLE_S = 60.0
_DOWNLOAD_S = 900.0


class Package(msgspec.Struct, frozen=True):
    name: str
    version: str
    sha256: str
    size: int
    """Bytes of the package file."""


async def dependencies(*names: str) -> list[str]:
    """Names of the packages that the packages `names` depend on directly.

    Raises ImageBuildError if apt does not know one.
    """
    output = await _ask("apt-cache", "depends", *names)
    return _DEPENDS.findall(output.decode())


async def resolve(names: list[str]) -> list[Package]:
    """The versions that apt would download now. Raises ImageBuildError if it does not know one of them."""
    output = await _ask("apt-get", "--print-uris", "-qq", "download", *names)
    packages = [_package(line) for line in output.decode().splitlines() if line.startswith("'")]
    if missing := set(names) - {package.name for package in packages}:
        raise ImageBuildError(f"apt cannot download {', '.join(sorted(missing))} (try: apt-get update)")
    return sorted(packages, key=lambda package: package.name)


async def _ask(*command: str) -> bytes:
    try:
        return await run(*command, timeout_s=_SETTLE_S)
    except CommandError as error:
        raise ImageBuildError(f"{error} (is the package list there? try: apt-get update)") from error


def _package(line: str) -> Package:
    match = _URI.match(line)
    if match is None:
        raise ImageBuildError(f"apt-get names no SHA256 in: {line}")
    # NAME_VERSION_ARCHITECTURE.deb, with the version's colon as %3a.
    name, version, _ = match["file"].rsplit("_", 2)
    return Package(name, version.replace("%3a", ":"), match["sha256"], int(match["size"]))


async def download(packages: list[Package], directory: Path) -> list[Path]:
    """Downloads exactly `packages` into `directory` and checks every byte."""
    wanted = [f"{package.name}={package.version}" for package in packages]
    # As root, apt would hand the download to its own user, who cannot write here.
    sandbox = ("-o", "APT::Sandbox::User=root")
    await run("apt-get", *sandbox, "-qq", "download", *wanted, timeout_s=_DOWNLOAD_S, cwd=directory)
    by_hash = {
        hashlib.sha256(file.read_bytes()).hexdigest(): file for file in sorted(directory.glob("*.deb"))
    }
    if missing := [package.name for package in packages if package.sha256 not in by_hash]:
        raise ImageBuildError(f"apt-get downloaded other files than it announced: {', '.join(missing)}")
    return [by_hash[package.sha256] for package in packages]


async def unpack(archives: list[Path], directory: Path) -> None:
    """Unpacks the packages' files below `directory`. No maintainer script runs."""
    directory.mkdir()
    for archive in archives:
        await run("dpkg-deb", "-x", archive, directory, timeout_s=_SETTLE_S)
