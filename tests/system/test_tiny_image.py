"""Boots the tiny image in QEMU (TCG) and uses it the way an instance's owner does."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gureum.images.builder import FIRST_LINE, build_tiny
from gureum.images.manifest import ImageManifest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed"),
]

MAC = "52:54:00:12:34:56"
"""What QEMU gives to the first card."""
USER_DATA = "#!/bin/sh\necho user data speaks as $(id -un) on $(hostname)\n"

# Answers one HTTP request on its standard input: QEMU starts it for every connection to 169.254.169.254:80.
IMDS = """
import json, sys
requests, items = sys.argv[1:3]
words = sys.stdin.buffer.readline().decode().split()
headers = {}
while line := sys.stdin.buffer.readline().strip():
    name, _, value = line.decode().partition(":")
    headers[name.lower()] = value.strip()
with open(requests, "a") as log:
    log.write(json.dumps([words[0], words[1], headers.get("x-aws-ec2-metadata-token")]) + "\\n")
body, status = b"", "404 Not Found"
if words[:2] == ["PUT", "/latest/api/token"] and "x-aws-ec2-metadata-token-ttl-seconds" in headers:
    body, status = b"secret-token", "200 OK"
elif headers.get("x-aws-ec2-metadata-token") != "secret-token":
    status = "401 Unauthorized"
elif words[1] in (found := json.load(open(items))):
    body, status = found[words[1]].encode(), "200 OK"
answer = f"HTTP/1.1 {status}\\r\\nContent-Type: text/plain\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
sys.stdout.buffer.write(answer.encode() + body)
sys.stdout.buffer.flush()
sys.stdin.buffer.read()
"""


class Guest:
    """A QEMU process with its console and monitor."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        monitor = directory / "qmp"
        self.process = subprocess.Popen(
            [*argv, "-qmp", f"unix:{monitor},server=on,wait=off", "-serial", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self._text = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        for _ in range(200):
            if monitor.exists():
                break
            time.sleep(0.05)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(monitor))
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self.events: list[dict[str, Any]] = []
        self.ask("qmp_capabilities")

    def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(4096):
            with self._changed:
                self._text += chunk.decode(errors="replace")
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def console(self) -> str:
        with self._changed:
            return self._text

    def wait_for(self, pattern: str, timeout_s: float = 40) -> re.Match[str]:
        found: re.Match[str] | None = None

        def seen() -> bool:
            nonlocal found
            found = re.search(pattern, self._text, re.MULTILINE | re.DOTALL)
            return found is not None

        with self._changed:
            self._changed.wait_for(seen, timeout_s)
        assert found is not None, f"{pattern!r} is not on the console:\n{self._text}"
        return found

    def ask(self, command: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "event" in answer:
                self.events.append(answer)
                continue
            assert "return" in answer, answer
            return answer["return"]

    def wait_event(self, name: str) -> dict[str, Any]:
        while True:
            for event in self.events:
                if event["event"] == name:
                    return event
            self.events.append(json.loads(self._lines.readline()))

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self._lines.close()
        self._socket.close()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="session")
def image() -> ImageManifest:
    """The image is kept between runs, and made again when its recipe changed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return asyncio.run(build_tiny(cache / "gureum-tests/images", lambda _step, _share: None))


@pytest.fixture
def guests() -> Iterator[list[Guest]]:
    running: list[Guest] = []
    yield running
    for guest in running:
        guest.kill()


def command_line(image: ImageManifest, disk: Path, netdev: str) -> list[str]:
    assert image.kernel is not None
    assert image.initrd is not None
    return [
        "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-smp", "1", "-nodefaults", "-display", "none",
        "-no-user-config", "-kernel", image.kernel, "-initrd", image.initrd, "-append", image.cmdline,
        "-blockdev", f"driver=raw,node-name=root,discard=unmap,file.driver=file,file.filename={disk}",
        "-netdev", f"user,id=net0,{netdev}",
    ]  # fmt: skip


Q35 = [
    "-M", "q35", "-device", "virtio-blk-pci,drive=root,serial=vol-root",
    "-device", "virtio-net-pci,netdev=net0,romfile=", "-device", "virtio-rng-pci",
    "-device", "virtio-balloon-pci", "-device", "pcie-root-port,id=port1,slot=1,chassis=1",
]  # fmt: skip
MICROVM = [
    "-M", "microvm,acpi=on,rtc=on,pit=on", "-device", "virtio-blk-device,drive=root",
    "-device", "virtio-net-device,netdev=net0", "-device", "virtio-rng-device",
]  # fmt: skip


def copy_disk(image: ImageManifest, to: Path, gibibytes: int) -> Path:
    subprocess.run(["cp", "--sparse=always", image.disk, to], check=True)
    with open(to, "r+b") as file:
        file.truncate(gibibytes << 30)
    return to


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Login:
    """ssh to the guest with a key, and with the host key that the console showed."""

    def __init__(self, directory: Path, port: int) -> None:
        self.key = directory / "key"
        self._known = directory / "known_hosts"
        self.port = port
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)

    def trust(self, host_key: str) -> None:
        self._known.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")

    def __call__(self, command: str) -> str:
        options = {
            "UserKnownHostsFile": self._known, "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes", "BatchMode": "yes", "IdentitiesOnly": "yes", "ConnectTimeout": 20,
        }  # fmt: skip
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        done = subprocess.run(
            ["ssh", "-F", "none", *flags, "-i", self.key, "-p", str(self.port), "root@127.0.0.1", command],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def until(self, command: str, pattern: str) -> str:
        for _ in range(40):
            output = self(command)
            if re.search(pattern, output):
                return output
            time.sleep(0.25)
        raise AssertionError(f"{command} never printed {pattern}: {output}")


@pytest.mark.timeout(180)
def test_life_of_an_instance(image: ImageManifest, tmp_path: Path, guests: list[Guest]) -> None:
    login = Login(tmp_path, free_port())
    (tmp_path / "imds.py").write_text(IMDS)
    items = {
        "/latest/meta-data/instance-id": "i-0123456789abcdef0",
        "/latest/meta-data/local-hostname": "ip-10-0-0-5.ec2.internal",
        "/latest/meta-data/public-keys/": "0=my-key",
        "/latest/meta-data/public-keys/0/openssh-key": login.key.with_suffix(".pub").read_text().strip(),
        f"/latest/meta-data/network/interfaces/macs/{MAC}/local-ipv4s": "169.254.0.15\n169.254.0.77",
        f"/latest/meta-data/network/interfaces/macs/{MAC}/ipv6s": "fd00:7::5",
        "/latest/user-data": USER_DATA,
    }
    (tmp_path / "items").write_text(json.dumps(items))
    # QEMU's own network includes the metadata service's address, as it forwards nothing outside of it.
    netdev = (
        f"net=169.254.0.0/16,hostfwd=tcp:127.0.0.1:{login.port}-:22,guestfwd=tcp:169.254.169.254:80-"
        f"cmd:{sys.executable} -I -S {tmp_path}/imds.py {tmp_path}/requests {tmp_path}/items"
    )
    disk = copy_disk(image, tmp_path / "disk.raw", 2)
    guest = Guest([*command_line(image, disk, netdev), *Q35], tmp_path)
    guests.append(guest)

    check_first_boot(guest, login)
    guest.wait_for(r"eth0 169\.254\.0\.77/32")
    guest.wait_for("eth0 fd00:7::5/128")
    requests = [json.loads(line) for line in (tmp_path / "requests").read_text().splitlines()]
    assert requests[0][:2] == ["PUT", "/latest/api/token"]
    assert {path for _, path, token in requests if token == "secret-token"} == set(items)
    assert sum(token is None for _, _, token in requests) == 1

    check_growth(guest, login)
    check_volume(guest, login, tmp_path)
    check_reboot(guest, login)

    guest.ask("system_powerdown")
    assert guest.process.wait(20) == 0
    assert guest.wait_event("SHUTDOWN")["data"]["guest"]
    guest.wait_for("gureum-tiny: poweroff")
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "recovering journal" not in checked.stdout


def check_first_boot(guest: Guest, login: Login) -> None:
    guest.wait_for("user data: exit status 0")
    lines = [line for line in guest.console.splitlines() if "gureum-tiny" in line]
    assert lines[0].endswith(FIRST_LINE)
    guest.wait_for(r"eth0 169\.254\.\d+\.\d+/16")
    guest.wait_for("^user data speaks as root on ip-10-0-0-5")
    shown = guest.wait_for(
        r"-----BEGIN SSH HOST KEY FINGERPRINTS-----\s+256 (SHA256:\S+) .*\(ED25519\).*"
        r"-----BEGIN SSH HOST KEY KEYS-----\s+(ssh-ed25519 \S+) "
    )
    login.trust(shown[2])
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"], input=shown[2], capture_output=True, text=True, check=True
    )
    assert shown[1] in printed.stdout
    assert login("cat /var/log/user-data.log") == "user data speaks as root on ip-10-0-0-5\n"
    modules = login("lsmod")
    assert all(name in modules for name in ("virtio_balloon", "virtio_rng", "button"))


def check_growth(guest: Guest, login: Login) -> None:
    assert int(login("df -m / | tail -n 1").split()[1]) > 1900
    guest.ask("block_resize", **{"node-name": "root", "size": 3 << 30})
    login.until("df -m / | tail -n 1", r" (29|30)\d\d ")
    assert "already fills" in login("growfs")


def check_volume(guest: Guest, login: Login, directory: Path) -> None:
    volume = directory / "volume.raw"
    with open(volume, "wb") as file:
        file.truncate(64 << 20)
    guest.ask(
        "blockdev-add",
        driver="raw",
        **{"node-name": "vol1"},
        file={"driver": "file", "filename": str(volume)},
    )
    guest.ask("device_add", driver="virtio-blk-pci", drive="vol1", id="disk1", bus="port1", serial="vol-1")
    login.until(
        "ls /dev/vdb /dev/disk/by-id/virtio-vol-1 2>&1", r"^/dev/disk/by-id/virtio-vol-1\n/dev/vdb\n$"
    )
    text = login(
        "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo kept >/mnt/file && umount /mnt && "
        "mount -o ro /dev/disk/by-id/virtio-vol-1 /mnt && cat /mnt/file && umount /mnt"
    )
    assert text == "kept\n"
    guest.ask("device_del", id="disk1")
    login.until("ls /dev/vd*", "^/dev/vda\n$")
    guest.wait_event("DEVICE_DELETED")


def check_reboot(guest: Guest, login: Login) -> None:
    before = login("cat /proc/sys/kernel/random/boot_id; cat /etc/dropbear/*_key | sha256sum").split()
    login("(usleep 300000; reboot) >/dev/null 2>&1 &")
    guest.wait_for(f"{FIRST_LINE}.*{FIRST_LINE}.*instance i-0123456789abcdef0, ready")
    guest.wait_for("BEGIN SSH HOST KEY KEYS.*END SSH HOST KEY KEYS.*BEGIN SSH.*END SSH HOST KEY KEYS")
    after = login.until(
        "cat /proc/sys/kernel/random/boot_id; cat /etc/dropbear/*_key | sha256sum", "-"
    ).split()
    assert before[0] != after[0]
    assert before[1] == after[1]
    assert guest.console.count("user data speaks") == 1


@pytest.mark.timeout(120)
def test_without_metadata_service(image: ImageManifest, tmp_path: Path, guests: list[Guest]) -> None:
    disk = copy_disk(image, tmp_path / "disk.raw", 1)
    guest = Guest([*command_line(image, disk, "restrict=on"), *Q35], tmp_path)
    guests.append(guest)
    guest.wait_for("no metadata service, continuing without")
    # The console is a way in all the same.
    guest.type("\necho serial $((40 + 2))\n")
    guest.wait_for("^serial 42")
    guest.type("poweroff\n")
    assert guest.process.wait(20) == 0
