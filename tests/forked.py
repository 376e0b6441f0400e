"""A `python` and a `dvc` for many short commands, which a process that has imported torch and DVC forks.

Started anew each takes a second or three before it does anything. What runs is the same; scripts are logged.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

SERVER = '''import gc, importlib, json, os, resource, runpy, signal, socket, sys
for name in """
    numpy PIL.Image PIL.ImageDraw PIL.ImageOps PIL.PngImagePlugin pydantic.main pydantic.types pydantic.functional_validators
    pydantic._internal._generate_schema safetensors.torch sklearn.datasets torch._dynamo torch.distributed.run
    torch.distributed.elastic.rendezvous.c10d_rendezvous_backend torch.utils.flop_counter vl_convert yaml
    antlr4 dulwich.porcelain dvc.cli.parser dvc.cachemgr dvc.data_cloud dvc.render.match dvc.repo.artifacts dvc.repo.datasets
    dvc.repo.experiments.apply dvc.repo.experiments.queue.celery dvc.repo.experiments.queue.tempdir dvc.repo.experiments.show
    dvc.repo.graph dvc.repo.index dvc.repo.open_repo dvc.repo.plots dvc.repo.worktree dvc.utils.strictyaml dvc_data.fs
    dvc_data.index.fetch dvc_data.index.push dvc_render.vega dvc_s3 dvc_task.app fsspec.implementations.memory networkx omegaconf
    platformdirs.unix pygit2 pyparsing ruamel.yaml""".split():
    importlib.import_module(name)
from huggingface_hub import snapshot_download
import dvc.cli
dvc.cli.parser.get_main_parser()
address, log = sys.argv[1:]
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(address)
server.listen()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
program, parent = None, os.getppid()
server.settimeout(5)
while program is None:
    try:
        caller, _ = server.accept()
    except TimeoutError:
        if os.getppid() == parent:
            continue
        sys.exit()  # the tests are gone
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, files, _, _ = socket.recv_fds(caller, 1 << 20, 3)
        if child := os.fork():
            caller.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os._exit(0)
        for number, file in enumerate(files):
            os.dup2(file, number)
        # Fresh ones: those of the server may be files, where this one's are pipes.
        sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))
        folder, program, arguments, environment, limits = json.loads(message)
    caller.close()
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
code = 1
try:
    resource.setrlimit(resource.RLIMIT_AS, limits[1])
    if program == "dvc":
        sys.argv[:] = ["dvc", *arguments]
        sys.exit(dvc.cli.main())
    sys.path[0:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        with open(log, "a") as file:
            name = "@".join([os.path.basename(arguments[0]).removesuffix(".py"), *arguments[1:]])
            told = environment.get("DVC_STAGE", "").rpartition(":")[2]
            file.write((told if told.startswith(name + "@") else name) + "\\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits[0])
        sys.argv[:], sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
    code = 0
except SystemExit as end:
    code = end.code or 0 if isinstance(end.code, int | None) else print(end.code, file=sys.stderr) or 1
except BaseException:
    try:
        sys.excepthook(*sys.exc_info())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else print(end.code, file=sys.stderr) or 1
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
'''
CLIENT = """#!{python} -SE
import json, os, resource, socket, sys
program, arguments = os.path.basename(sys.argv[0]), [each for each in sys.argv[1:] if each != "-u"]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    message = os.getcwd(), program, arguments, dict(os.environ), [resource.getrlimit(each) for each in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS)]
    socket.send_fds(server, [json.dumps(message).encode()], [0, 1, 2])
    code = int(server.recv(8))
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Commands:
    """What `python` was asked to run, wherever: `finetune@vit-digits`. Each is told once.

    The stage `check` is left out: it runs first wherever a parameter has changed, and changes nothing.
    """

    def __init__(self, folder):
        self.folder, self.log, self.told = folder, folder / "log", 0

    def new(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        new, self.told = lines[self.told :], len(lines)
        return [line for line in new if line != "check"]

    def put_first(self, patch) -> None:
        patch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHON_EXEC", str(self.folder / "python"))  # what torchrun starts

    def take_out(self, patch) -> None:
        """Have processes started anew again, which then take signals and limits themselves."""
        patch.setenv("PATH", os.environ["PATH"].replace(f"{self.folder}{os.pathsep}", ""))
        patch.delenv("PYTHON_EXEC", raising=False)


def wait_for(condition, seconds=600):  # only a test that hangs takes that long
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def start(folder: Path) -> tuple[Commands, subprocess.Popen]:
    """Put such commands into the folder and start what forks them."""
    address = str(folder / "socket")
    for name in ("python", "dvc"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, "-c", SERVER, address, str(folder / "log")])
    wait_for(lambda: os.path.exists(address))
    return Commands(folder), server
