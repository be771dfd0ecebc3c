"""Machines of their own on this machine: each with its own address, name, processes and disk, joined by a network.

All of it is Linux namespaces, the network's switch too, so nothing of this machine is changed, and what was started is
gone once the first process of each is. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
NETWORK = "10.77.0"
NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")
BEGIN = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mount -t tmpfs tmpfs /dev/shm
mkdir "$1/tmp"
printf '127.0.0.1 localhost\\n%s %s\\n' "$2" "$3" > "$1/hosts"
mount --bind "$1/hosts" /etc/hosts
mount -o remount,bind,ro /
hostname "$3"
ip link set lo up
echo ready
exec sleep infinity
"""
"""What a host does first. Its disk is `$1`; the rest of `/` it can only read, so no file goes from one to another."""


def missing() -> str:
    """Why there can be no hosts here; empty where there can."""
    lacking = [name for name in ("ip", "nsenter", "setpriv", "unshare") if not shutil.which(name)]
    if lacking:
        return f"there is no `{lacking[0]}` on this machine"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


class Host:
    """One machine, up until `close`. `disk`: the folder that is its own, of the same name on all."""

    def __init__(self, disk: Path, number: int, name: str) -> None:
        self.disk, self.name, self.address = disk, name, f"{NETWORK}.{number}"
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
        unshare = [*ends_with_us, "unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", BEGIN]
        self._first = subprocess.Popen([*unshare, "sh", disk, self.address, name], stdout=subprocess.PIPE, text=True)
        assert self._first.stdout is not None and self._first.stdout.readline() == "ready\n", f"no host {name}"
        first = self._first.pid
        self.pid = int(Path(f"/proc/{first}/task/{first}/children").read_text())
        self._started: list[subprocess.Popen[Any]] = []

    def seen(self, path: Path | str) -> Path:
        """A path of this host's, from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def start(self, *command: Any, cwd: Path | None = None, env: dict[str, str] | None = None, **how: Any) -> Any:
        """A command on this host: its `Popen`. Ends with the host at the latest."""
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES, "sh", "-c", 'cd "$0" && exec "$@"']
        words = [*enter, cwd or self.disk, *command]
        self._started.append(subprocess.Popen(words, env=self.environment() | (env or {}), **how))
        return self._started[-1]

    def run(self, *command: Any, timeout_s: float = 60, **how: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def environment(self) -> dict[str, str]:
        own = {
            "HOME": str(self.disk),
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": f"{self.disk}/tmp",
        }
        return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))} | own

    def close(self) -> None:
        self._first.kill()
        self._first.communicate()
        for process in self._started:
            process.wait()


class Hosts:
    """Hosts of these names, and `switch`, which they are all connected to: a host as well."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __enter__(self) -> Hosts:
        self.disk = Path(tempfile.mkdtemp(prefix="hosts-"))  # short: sockets are in it
        self._up: list[Host] = []
        try:
            self.switch = self._add("switch")
            self._net(self.switch, "link", "add", "bridge", "type", "bridge")
            self._give_address(self.switch, "bridge")
            for number, name in enumerate(self.names):
                host, port = self._add(name), f"port{number}"
                peer = ("peer", "name", "eth0", "netns", str(host.pid))
                self._net(self.switch, "link", "add", port, "master", "bridge", "up", "type", "veth", *peer)
                self._give_address(host, "eth0")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __getitem__(self, name: str) -> Host:
        (found,) = (host for host in self._up if host.name == name)
        return found

    def __iter__(self) -> Any:
        return iter(self._up[1:])

    def _add(self, name: str) -> Host:
        self._up.append(Host(self.disk, len(self._up) + 1, name))
        return self._up[-1]

    def _give_address(self, host: Host, device: str) -> None:
        self._net(host, "address", "add", f"{host.address}/24", "dev", device)
        self._net(host, "link", "set", device, "up")

    def _net(self, host: Host, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(host.pid), "--net", "ip", *words], check=True)

    def _close(self) -> None:
        for host in reversed(self._up):
            host.close()
        shutil.rmtree(self.disk)
