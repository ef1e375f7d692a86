"""Start the kernel of a notebook: a fresh process, or a fork of a process with its imports done.

Importing torch and its like can take longer than a run, and a worker executes one run after
another. So the worker keeps a server that has imported what the notebook imports, except dfnb's own
modules, which every kernel reads anew. Jupyter starts and watches a stand-in process as "the
kernel". The stand-in asks the server for a fork and exits with the fork's exit code:

    worker --starts--> server --forks--> kernel;    worker --Jupyter--> stand-in --asks--> server

When a process dies, all processes to its right are killed, so that no orphan writes into a run that
another process repeats. When the server dies, the worker is killed too, and its run counts as lost.
"""

import ast
import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfnb import files, machine
from dfnb.runs import notebooks

LINUX = sys.platform == "linux"  # has sockets without a file, and death with the parent
LAUNCHER = "ipykernel_launcher"
FRESH = ("import ctypes, runpy, sys; "
         "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "  # as die_with_parent
         f"runpy.run_module('{LAUNCHER}', run_name='__main__', alter_sys=True)")
STAND_IN = """import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect("\\0" + sys.argv[1])
server.sendall(json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode() + b"\\n")
sys.exit(int(server.makefile().readline() or 1))"""
ENVIRONMENT = {  # of every kernel; libraries read it when they are imported
    "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline"}

_servers: dict[tuple, str] = {}  # the environment of a server's imports -> the name of its socket


@contextlib.contextmanager
def options(notebook: Path, folder: Path, *, threads: int | None, cores: int | None = None,
            forked: bool) -> Iterator[dict[str, Any]]:
    """Yield papermill's options for a kernel that runs in this very interpreter.

    With `forked`, and where the system can, the kernel is forked from a server of this process,
    which must then execute one run at a time. No installed kernel is looked up: "python3" may
    belong to another environment. The kernel talks through sockets in `folder`, since TCP ports of
    parallel runs collide, and a killed kernel then leaves no file elsewhere. Paths of sockets are
    limited to 107 bytes, so Linux uses sockets without a file (a name after @).
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=folder,
                                     ignore_cleanup_errors=True) as own:
        socket_name = f"{'@' if LINUX else '/tmp/'}dfnb-{uuid.uuid4().hex}"
        shared = ENVIRONMENT | _thread_limits(threads)
        if cores:  # other runs are active: a thread that waits leaves its core to them
            shared["OMP_WAIT_POLICY"] = "PASSIVE"
        environment = shared | ({"DFNB_CORES": str(cores)} if cores else {}) | {
            "DFNB_RUN": str(folder), "DFNB_RUNS": str(files.runs()),
            "DFNB_NOTEBOOKS": str(notebook.parent), "IPYTHONDIR": own}
        fork = forked and can_fork()
        command = _stand_in(notebook, shared) if fork else [sys.executable, "-c", FRESH]
        arguments = ["-f", "{connection_file}", "--HistoryManager.enabled=False"]
        spec = KernelSpec(argv=command + arguments, env=environment, display_name="Python 3",
                          language="python")
        config = Config(KernelManager={"transport": "ipc", "ip": socket_name,
                                       "connection_file": f"{own}/kernel.json"})
        manager = type("Kernel", (AsyncKernelManager,), {"kernel_spec": spec})
        yield {"kernel_manager_class": manager, "config": config, "shutdown_kernel": "immediate"}


def _thread_limits(threads: int | None) -> dict[str, str]:
    """Return the environment that limits a kernel's threads: to `threads`, else to the cores.

    Libraries count the processors only; a container or `DFNB_CORES` may allow fewer cores.
    """
    if threads:
        return dict.fromkeys(machine.THREADS, str(threads))
    cores = machine.look().cores
    if cores == machine.processors():
        return {}
    return {name: os.environ.get(name, str(cores)) for name in machine.THREADS}


def can_fork() -> bool:
    """Return whether the system has what a server needs, as Linux does since 5.3."""
    with contextlib.suppress(AttributeError, OSError):
        os.close(os.pidfd_open(os.getpid()))
        return LINUX
    return False


def _stand_in(notebook: Path, environment: dict[str, str]) -> list[str]:
    """Return the command of a stand-in; start its server, one per environment, at first use."""
    key = tuple(sorted(environment.items()))
    if key not in _servers:
        name = f"dfnb-{uuid.uuid4().hex}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{name}")
            listener.listen()  # here: a stand-in may connect before the server has started
            program = f"from dfnb.runs import kernels; kernels.serve({listener.fileno()})"
            server = subprocess.Popen(
                [sys.executable, "-c", program], env=os.environ | environment,
                stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])
        threading.Thread(target=lambda: (server.wait(), os._exit(1)), daemon=True).start()
        _servers[key] = name
    return [sys.executable, "-ISc", STAND_IN, _servers[key], str(notebook)]


def serve(descriptor: int) -> None:
    """Fork a kernel for every stand-in that connects; return in a kernel, when it has ended.

    The server may fork because it starts no thread. Arrow and OpenBLAS prepare theirs for a fork.
    """
    die_with_parent()
    with socket.socket(fileno=descriptor) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                if request := _receive(connection):
                    (notebook, *arguments), environment, folder = request
                    import_all(Path(notebook))
                    if not (kernel := os.fork()):
                        break
                    _watch(kernel, connection)
    _become_kernel(arguments, environment, folder)


@functools.cache
def import_all(notebook: Path) -> None:
    """Execute the imports of a notebook and Jupyter's, then forget dfnb's modules.

    Files of dfnb may change before a run. An import that fails is left to the kernel to report.
    """
    for source in ["import ipykernel.kernelapp",
                   *(source for source, _ in notebooks.code_cells(notebook))]:
        with contextlib.suppress(SyntaxError):  # of IPython's commands, such as %time
            for node in ast.parse(source).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    with contextlib.suppress(Exception):
                        exec(ast.unparse(node), {})
    if pandas := sys.modules.get("pandas"):  # without IPython it cuts tables to a terminal's width
        pandas.set_option("display.max_columns", 20)
    for name in [name for name in sys.modules if name.partition(".")[0] == "dfnb"]:
        del sys.modules[name]


def _receive(connection: socket.socket) -> list | None:
    """Return a stand-in's request: [notebook and arguments, environment, folder].

    Return None if the stand-in belongs to another user or has died.
    """
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, user, _ = struct.unpack("3i", peer)  # process, user, group
    if user != os.getuid():  # every user can reach a socket without a file
        return None
    try:
        return json.loads(connection.makefile().readline())
    except ValueError:
        return None


def _watch(kernel: int, connection: socket.socket) -> None:
    """Wait for the kernel's end and report its exit code; kill it if its stand-in dies."""
    ended = os.pidfd_open(kernel)
    try:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended not in ready:
            os.kill(kernel, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
        with contextlib.suppress(OSError):
            connection.sendall(f"{abs(code)}\n".encode())
    finally:
        os.close(ended)


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    die_with_parent()
    os.setsid()  # Ctrl-C in the terminal is the runner's to handle
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [LAUNCHER, *arguments, f"--IPKernelApp.parent_handle={os.getppid()}"]
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


def die_with_parent() -> None:
    """Have the operating system kill this process when its parent dies (Linux), even by SIGKILL."""
    if LINUX:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
