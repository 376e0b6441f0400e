"""A `python` for many short stages: it forks a process that has imported torch, a second in each otherwise, and logs what ran."""

import os
import subprocess
import sys
import time
from pathlib import Path

SERVER = """import gc, json, os, runpy, signal, socket, sys, traceback
import numpy, PIL.Image, PIL.ImageOps, pydantic, safetensors.torch, sklearn.datasets, torch._dynamo, yaml
from huggingface_hub import snapshot_download
address, log = sys.argv[1:]
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(address)
server.listen()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
script = None
while script is None:
    caller, _ = server.accept()
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, files, _, _ = socket.recv_fds(caller, 1 << 20, 3)
        if child := os.fork():
            caller.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os._exit(0)
        for number, file in enumerate(files):
            os.dup2(file, number)
        folder, [script, *arguments], environment = json.loads(message)
    caller.close()
with open(log, "a") as file:
    file.write("@".join([os.path.basename(script).removesuffix(".py"), *arguments]) + "\\n")
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
sys.argv[:], code = [script, *arguments], 1
try:
    runpy.run_path(script, run_name="__main__")
    code = 0
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else print(end.code, file=sys.stderr) or 1
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
os._exit(code)
"""
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(8)) & 255)
"""


class Commands:
    """What `python` was asked to run, wherever: `finetune@vit-digits`. Each is told once."""

    def __init__(self, folder):
        self.folder, self.log, self.told = folder, folder / "log", 0

    def new(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        new, self.told = lines[self.told :], len(lines)
        return new

    def put_first(self, patch) -> None:
        patch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def start(folder: Path) -> tuple[Commands, subprocess.Popen]:
    """Put such a `python` into the folder and start what it forks."""
    address = str(folder / "socket")
    (folder / "python").write_text(CLIENT.format(python=sys.executable, address=address))
    (folder / "python").chmod(0o755)
    server = subprocess.Popen([sys.executable, "-c", SERVER, address, str(folder / "log")])
    wait_for(lambda: os.path.exists(address))
    return Commands(folder), server
