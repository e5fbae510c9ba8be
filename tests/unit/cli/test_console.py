import contextlib
import os
import pty
import socket
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.cli import console
from gureum.cli.console import connect, console_path, raw_terminal, relay
from gureum.cli.output import NOT_RUNNING, USAGE, CliError


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the guest's."""
    ours, guests = socket.socketpair()
    with ours, guests:
        yield ours, guests


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """keyboard (read), typing (write), screen (write), shown (read)."""
    keyboard, typing = os.pipe()
    shown, screen = os.pipe()
    yield keyboard, typing, screen, shown
    for descriptor in (keyboard, typing, screen, shown):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_path_of_an_instance(tmp_path: Path) -> None:
    instance = "i-0123456789abcdef0"
    runs = [tmp_path / "run", tmp_path / "hosts/1/run"]
    with pytest.raises(CliError, match="on no host of this machine"):
        console_path(runs, instance)
    (runs[1] / "machines" / instance).mkdir(parents=True)
    assert console_path(runs, instance) == runs[1] / "machines" / instance / "console"


@pytest.mark.parametrize("wrong", ["", "i-1", "../../etc", "i-0123456789abcdef0/../x", "I-0123456789abcdef0"])
def test_what_is_no_instance_id(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(CliError) as caught:
        console_path([tmp_path], wrong)
    assert caught.value.exit_code == USAGE


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no console") as caught:
        connect(tmp_path / "console.sock")
    assert caught.value.exit_code == NOT_RUNNING


def test_connects(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        connect(tmp_path / "s").close()


def test_keys_go_out_up_to_the_escape(
    line: tuple[socket.socket, socket.socket], pipes: tuple[int, ...]
) -> None:
    keyboard, typing, screen, _ = pipes
    os.write(typing, b"ls\n\x03\x1dnever sent")
    assert relay(line[0], keyboard, screen) == "left"
    assert line[1].recv(100) == b"ls\n\x03"


def test_output_is_shown_until_the_guest_closes(
    line: tuple[socket.socket, socket.socket], pipes: tuple[int, ...]
) -> None:
    keyboard, _, screen, shown = pipes
    line[1].sendall(b"login: \xff\x00")
    line[1].shutdown(socket.SHUT_WR)
    assert relay(line[0], keyboard, screen) == "the console closed"
    assert os.read(shown, 100) == b"login: \xff\x00"


def test_end_of_input_shows_what_the_guest_still_says(
    line: tuple[socket.socket, socket.socket], pipes: tuple[int, ...]
) -> None:
    keyboard, typing, screen, shown = pipes
    os.write(typing, b"date\n")
    os.close(typing)

    def answer() -> None:
        assert line[1].recv(100) == b"date\n"
        line[1].sendall(b"today")
        line[1].shutdown(socket.SHUT_WR)

    guest = threading.Thread(target=answer)
    guest.start()
    relay(line[0], keyboard, screen)
    guest.join(timeout=30)
    assert os.read(shown, 100) == b"today"


def test_terminal_is_put_back() -> None:
    controller, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        with contextlib.suppress(ZeroDivisionError), raw_terminal(terminal):
            assert termios.tcgetattr(terminal) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(controller)
        os.close(terminal)


def test_no_terminal_is_no_trouble(pipes: tuple[int, ...]) -> None:
    with raw_terminal(pipes[0]):
        assert not os.isatty(pipes[0])


def test_escape_is_what_the_help_says() -> None:
    assert bytes([ord("]") & 0x1F]) == console.ESCAPE
