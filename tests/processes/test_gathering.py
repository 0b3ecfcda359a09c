"""Processes come together at an address; others that come there are kept out, and told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from simjax.cli.main import main
from simjax.errors import SimjaxError
from simjax.processes.gathering import come, gather
from tests.processes.started import free_port


class Calls:
    """Calls side by side, each of which stands for a process."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, call: Callable[[], None]) -> None:
        def work() -> None:
            try:
                call()
                self.ends[name] = "done"
            except SimjaxError as error:
                self.ends[name] = str(error)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def has_ended(self, name: str) -> None:
        for _ in range(6000):
            if name in self.ends:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} hangs")

    def all_end(self) -> dict[str, str]:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.ends


def jax_listens(port: int) -> socket.socket:
    """What stands for JAX's coordinator once all have come."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("localhost", port))
    found.listen()
    return found


def test_all_go_on_when_the_last_has_come():
    calls, address = Calls(), f"localhost:{free_port()}"
    for index in (2, 1):
        calls.start(str(index), lambda index=index: come(address, index, 3, 30))
    time.sleep(0.3)
    assert not calls.ends  # the coordinator is late, and waited for
    gather(address, 3, 30)
    time.sleep(0.3)
    assert not calls.ends  # they go on when JAX is there
    with jax_listens(int(address.rpartition(":")[2])):
        assert calls.all_end() == {"1": "done", "2": "done"}


def test_who_has_not_come_is_told_by_all():
    calls, address = Calls(), f"localhost:{free_port()}"
    calls.start("0", lambda: gather(address, 4, 1.5))
    calls.start("2", lambda: come(address, 2, 4, 30))
    told = f"of the 4 processes of this run 1, 3 did not come to {address} within 1.5 seconds"
    ends = calls.all_end()
    assert ends["0"].startswith(f"process 0: {told}") and ends["2"].startswith(f"process 2: {told}")


@pytest.mark.parametrize(
    ("process", "count", "told"),
    [
        (1, 3, "--process_id 1 has been given to another process already, and to "),
        (2, 4, "--num_processes is 3 on process 0 and 4 on process 2 ("),
        (3, 3, "--process_id is 3 on "),
    ],
)
def test_a_process_that_is_not_of_the_run_is_refused_and_the_run_comes_together(
    process, count, told, capfd
):
    calls, odd, address = Calls(), Calls(), f"localhost:{free_port()}"
    calls.start("0", lambda: gather(address, 3, 30))
    calls.start("1", lambda: come(address, 1, 3, 30))
    time.sleep(0.3)
    odd.start("odd", lambda: come(address, process, count, 30))
    assert odd.all_end()["odd"].startswith(f"process {process}: {told}")
    calls.start("2", lambda: come(address, 2, 3, 30))
    calls.has_ended("0")
    with jax_listens(int(address.rpartition(":")[2])):
        assert calls.all_end() == {"0": "done", "1": "done", "2": "done"}
    assert f"simjax: process 0: refused: {told}" in capfd.readouterr().err


def test_one_that_has_gone_again_may_come_again():
    calls, address = Calls(), f"localhost:{free_port()}"
    calls.start("0", lambda: gather(address, 3, 30))
    with pytest.raises(SimjaxError):
        come(address, 1, 3, 0.5)  # it gives up
    for index in (1, 2):
        calls.start(str(index), lambda index=index: come(address, index, 3, 30))
    calls.has_ended("0")
    with jax_listens(int(address.rpartition(":")[2])):
        assert set(calls.all_end().values()) == {"done"}


def test_nobody_talks_to_another_program_at_the_address(capfd):
    """Such as the coordinator of another run, which one process too many would end."""
    heard: list[bytes] = []
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"

        def answer() -> None:
            while b"end" not in heard:
                caller, _ = other.accept()
                with caller:
                    caller.sendall(b"\0\0\0\4")
                    heard.append(caller.recv(1000))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SimjaxError, match="something else listens there, maybe another run"):
            come(address, 1, 2, 1)
        with socket.create_connection(("localhost", other.getsockname()[1])) as last:
            last.sendall(b"end")
            thread.join(30)
    assert len(heard) > 2 and {said[:7] for said in heard[:-1]} == {b"simjax "}
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "waiting for it to go" in told


def test_what_another_program_says_at_the_door_is_no_process():
    calls, address = Calls(), f"localhost:{free_port()}"
    calls.start("0", lambda: gather(address, 2, 30))
    port = int(address.rpartition(":")[2])
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"simjax []\n", b"simjax {}\n", b"x" * 9000, b""):
        while True:
            try:
                with socket.create_connection(("localhost", port)) as stranger:
                    stranger.sendall(said)
                    stranger.settimeout(30)
                    if said:
                        with suppress(ConnectionResetError):  # it was not even read to the end
                            assert stranger.recv(100) == b""
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert not calls.ends
    calls.start("1", lambda: come(address, 1, 2, 30))
    calls.has_ended("0")
    with jax_listens(port):
        assert calls.all_end() == {"0": "done", "1": "done"}


def test_a_port_in_use_is_told(tmp_path: Path, capfd):
    (tmp_path / "x.yaml").write_text("output: y\n")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status = main(
            [
                *("train", str(tmp_path / "x.yaml"), f"--coordinator=localhost:{port}"),
                *("--num_processes=2", "--process_id=0"),
            ]
        )
    assert status == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"port {port} is in use on this machine" in told


def test_a_machine_without_ipv6(monkeypatch):
    real = socket.socket

    def without(family: int = socket.AF_INET, *rest: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without)
    gather(f"localhost:{free_port()}", 1, 1)


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_a_coordinator_that_is_not_up_is_waited_for_and_told(host):
    address = f"{host}:{free_port()}"
    with pytest.raises(SimjaxError, match=f"process 3: no coordinator at {address} for 1 seconds"):
        come(address, 3, 4, 1)
