"""Two machines on one: network namespaces joined by a cable, each with a name, a folder and file systems of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Each sees its own folder at the same place, as two machines do, and the other's nowhere.
INSIDE = """
hostname "$1"; mount --bind "$3/$1" "$3/here"; mount --bind "$3/hosts" /etc/hosts
for other in $2; do mount -t tmpfs none "$3/$other"; done
cd "$3/here/$4"; shift 4; exec "$@"
"""


def ip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], text=True, capture_output=True, check=True)


@dataclass(frozen=True)
class Host:
    """A machine: its name, its network namespace, its end of the cable, and the folder that holds both machines'."""

    name: str
    address: str
    namespace: str
    cable: str
    folder: Path

    @property
    def own(self) -> Path:
        """Where its files are, seen from outside."""
        return self.folder / self.name

    def start(self, *command: str, cwd: str, log: Path) -> subprocess.Popen:
        """Start a command on it, in a folder of its own; what it says goes to a file."""
        here = self.folder / "here"
        environment = {
            **os.environ,
            "HOME": f"{here}/home",
            "VITSCALE_CHECKPOINTS": f"{here}/checkpoints",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        environment.pop("PYTHON_EXEC", None)  # tests' forked python runs outside
        inside = ["sh", "-ec", INSIDE, "sh", self.name, "a b", str(self.folder), cwd, *command]
        command = ("ip", "netns", "exec", self.namespace, "unshare", "-mu", *inside)
        with open(log, "w") as file:
            return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """End all that runs on it, as a loss of power does."""
        for process in ip("netns", "pids", self.namespace).stdout.split():
            subprocess.run(["kill", "-9", process], check=False)

    def unplug(self) -> None:
        """Pull the cable out: no word of it reaches the other machine."""
        ip("-n", self.namespace, "link", "set", self.cable, "down")


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Lend two machines, `a` and `b`, that reach each other by name.

    Raises CalledProcessError or FileNotFoundError where that isn't permitted or `ip` is not there.
    """
    number = os.getpid()
    hosts = [
        Host(name, f"10.77.0.{i}", f"vitscale-{number}-{name}", f"v{number}{name}", folder)
        for i, name in enumerate("ab", 1)
    ]
    for name in ("here", "a/home", "b/home"):
        (folder / name).mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
        first, second = hosts
        ends = [
            ("name", first.cable, "netns", first.namespace),
            ("name", second.cable, "netns", second.namespace),
        ]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.cable)
            for device in ("lo", host.cable):
                ip("-n", host.namespace, "link", "set", device, "up")
        yield first, second
    finally:
        for host in hosts:
            if host.namespace in subprocess.run(["ip", "netns"], text=True, capture_output=True).stdout:
                host.kill()
                ip("netns", "delete", host.namespace)
