"""A real etcd on the loopback of this process' network namespace, of one member or several; or one on a node."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tests.conftest import ROOT
from tests.netns.cni import PATH
from tests.netns.node import Host

UNPACKED = ROOT / "build" / "etcd" / "usr" / "bin"
HELD = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it is killed if the test run is."""

_DEADLINE = 30


class Etcd:
    """An etcd whose members store their data below `folder`; running when constructed, until `close`.

    `tls`: the files ca, cert and key of members and clients, which then have to present certificates. `at`: a host and
    its address where the only member is to run, on port 2379.
    """

    def __init__(
        self,
        folder: Path,
        *,
        members: int = 1,
        tls: Mapping[str, Path] | None = None,
        at: tuple[Host, str] | None = None,
    ) -> None:
        assert UNPACKED.is_dir(), f"{UNPACKED} is not there; make it with tests/tools.sh"
        self._folder, self._tls = folder, tls
        self._scheme = "https" if tls else "http"
        self._host, self._address = at or (None, "127.0.0.1")
        self._ports = [(2379, 2380)] if at else [(_free_port(), _free_port()) for _ in range(members)]
        self._processes: dict[int, subprocess.Popen] = {}
        self.login: Sequence[str] = ()
        for number in range(members):
            self.start(number)
        self.wait()

    @property
    def port(self) -> int:
        """The port of the first member."""
        return self._ports[0][0]

    @property
    def hosts(self) -> str:
        """What is between "etcd://" and the prefix."""
        return ",".join(f"{self._address}:{port}" for port, _ in self._ports)

    def start(self, number: int = 0) -> None:
        """Start a member, on what it has stored."""
        client, peer = self._ports[number]
        url, peer_url = f"{self._scheme}://{self._address}:{client}", f"http://127.0.0.1:{peer}"
        cluster = ",".join(f"m{each}=http://127.0.0.1:{port}" for each, (_, port) in enumerate(self._ports))
        options = {
            "name": f"m{number}",
            "data-dir": self._folder / f"m{number}",
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": cluster,
            "logger": "zap",
        }
        if self._tls:
            options |= {"cert-file": self._tls["cert"], "key-file": self._tls["key"]}
            options |= {"trusted-ca-file": self._tls["ca"], "client-cert-auth": "true"}
        argv = [
            *HELD,
            UNPACKED / "etcd",
            "--unsafe-no-fsync",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        with (self._folder / f"m{number}.log").open("ab") as log:
            start = self._host.start if self._host else subprocess.Popen
            self._processes[number] = start(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until requests are served."""
        end = time.monotonic() + _DEADLINE
        while self._ctl("get", "nothing").returncode:
            assert time.monotonic() < end, f"etcd does not answer: {self._ctl('get', 'nothing').stderr}"
            time.sleep(0.05)

    def kill(self, number: int = 0) -> None:
        """Kill a member."""
        process = self._processes.pop(number)
        process.kill()
        process.send_signal(signal.SIGCONT)
        process.wait()

    def hang(self, number: int = 0) -> None:
        """Stop a member's process, whose connections stay open."""
        os.kill(self._processes[number].pid, signal.SIGSTOP)

    def ctl(self, *words: str, stdin: bytes | None = None) -> str:
        """The output of etcdctl."""
        done = self._ctl(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def keys(self, prefix: str = "/") -> dict[str, str]:
        """All keys below a prefix, with their values."""
        lines = self.ctl("get", "--prefix", prefix).splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def compact(self) -> None:
        """Forget what happened so far."""
        revision = self.ctl("get", "nothing", "-w", "fields").partition('"Revision" : ')[2].split()[0]
        self.ctl("compact", revision)

    def close(self) -> None:
        """Kill all members."""
        for number in list(self._processes):
            self.kill(number)

    def _ctl(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess:
        endpoints = [f"{self._scheme}://{self._address}:{self._ports[number][0]}" for number in self._processes]
        argv = [UNPACKED / "etcdctl", f"--endpoints={','.join(endpoints)}", *self.login, *words]
        if self._tls:
            argv[1:1] = [f"--cacert={self._tls['ca']}", f"--cert={self._tls['cert']}", f"--key={self._tls['key']}"]
        start = self._host.start if self._host else subprocess.Popen
        pipe = subprocess.PIPE
        with start(argv, stdin=pipe, stdout=pipe, stderr=pipe, env={"ETCDCTL_API": "3", "PATH": PATH}) as process:
            output, errors = process.communicate(stdin)
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)


class Relay:
    """Passes connections on to a port of the loopback, until they are cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_cut = False
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and every new one at once."""
        self._is_cut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass connections on again."""
        self._is_cut = False

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *failure: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
