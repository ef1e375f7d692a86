"""The kernel of a notebook: a fresh process, or a fork of one that has already imported what the notebook imports.

A worker does one run after another, and importing torch and its like can take longer than a run. So the worker
keeps a server with the imports done, all but dfnb's own modules, which every kernel reads as they are then. What
Jupyter starts and watches as the kernel is a stand-in, which asks the server for a fork and lives as long as it does:

    worker --starts--> server --forks--> kernel;    worker --Jupyter--> stand-in --asks--> server

The death of any takes along what stands to the right of it, and of the server also the worker, so that the run
counts as lost. No orphan writes into a run that was taken over.
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

LINUX = sys.platform == "linux"  # sockets without a file, death with the parent
LAUNCHER = "ipykernel_launcher"
FRESH = (f"import ctypes, runpy, sys; sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "  # as die_with_parent
         f"runpy.run_module('{LAUNCHER}', run_name='__main__', alter_sys=True)")
STAND_IN = """import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect("\\0" + sys.argv[1])
server.sendall(json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode() + b"\\n")
sys.exit(int(server.makefile().readline() or 1))"""
ENVIRONMENT = {  # of every kernel, and read by libraries when they are imported
    "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline"}

_servers: dict[tuple, str] = {}  # the environment in which a server imports -> its socket


@contextlib.contextmanager
def options(notebook: Path, folder: Path, *, threads: int | None, cores: int | None = None, forked: bool
            ) -> Iterator[dict[str, Any]]:
    """Options of papermill for a kernel of this very interpreter that talks through socket files, as parallel runs must.

    With `forked` (where the system can) it is forked from a server of this process, which then must do one run at a
    time. An installed kernel called python3 may belong to another environment, so none is looked up. All it writes
    lies in the run's folder, so that a killed one leaves nothing elsewhere; but paths of sockets are limited to 107
    bytes: where there are sockets without a file (Linux, a name after @), those are taken.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=folder, ignore_cleanup_errors=True) as own:
        socket_name = f"@dfnb-{uuid.uuid4().hex}" if LINUX else f"/tmp/dfnb-{uuid.uuid4().hex}"
        shared = ENVIRONMENT | _bounds(threads)
        if cores:  # beside other runs: a thread that waits leaves its core to theirs
            shared |= {"OMP_WAIT_POLICY": "PASSIVE"}
        environment = shared | ({"DFNB_CORES": str(cores)} if cores else {}) | {
            "DFNB_RUN": str(folder), "DFNB_RUNS": str(files.runs()), "DFNB_NOTEBOOKS": str(notebook.parent),
            "IPYTHONDIR": own}
        command = _forking(notebook, shared) if forked and can_fork() else [sys.executable, "-c", FRESH]
        spec = KernelSpec(argv=[*command, "-f", "{connection_file}", "--HistoryManager.enabled=False"],
                          env=environment, display_name="Python 3", language="python")
        manager = type("Kernel", (AsyncKernelManager,), {"kernel_spec": spec})
        config = Config(KernelManager={"transport": "ipc", "ip": socket_name, "connection_file": f"{own}/kernel.json"})
        yield {"kernel_manager_class": manager, "config": config, "shutdown_kernel": "immediate"}


def _bounds(threads: int | None) -> dict[str, str]:
    """The environment that bounds a kernel's threads: what is asked for, else what a container or `DFNB_CORES` allows,
    since libraries ask for the processors alone.
    """
    allowed = machine.look().cores
    if threads:
        return dict.fromkeys(machine.THREADS, str(threads))
    if allowed == machine.processors():
        return {}
    return {name: os.environ.get(name, str(allowed)) for name in machine.THREADS}


def can_fork() -> bool:
    """Whether the system has what a server needs; Linux has since 5.3."""
    with contextlib.suppress(AttributeError, OSError):
        os.close(os.pidfd_open(os.getpid()))
        return LINUX
    return False


def _forking(notebook: Path, environment: dict[str, str]) -> list[str]:
    """Command of a stand-in whose kernel this process's server forks; another environment needs another server."""
    key = tuple(sorted(environment.items()))
    if key not in _servers:
        name = f"dfnb-{uuid.uuid4().hex}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{name}")
            listener.listen()  # now: a stand-in may connect before the server is there
            program = f"from dfnb.runs import kernels; kernels.serve({listener.fileno()})"
            server = subprocess.Popen([sys.executable, "-c", program], env=os.environ | environment,
                                      stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])
        threading.Thread(target=lambda: (server.wait(), os._exit(1)), daemon=True).start()
        _servers[key] = name
    return [sys.executable, "-ISc", STAND_IN, _servers[key], str(notebook)]


def serve(descriptor: int) -> None:
    """Fork a kernel for every stand-in that connects; returns in a kernel, when that has ended.

    It may fork because it runs no thread of its own; those of Arrow's and OpenBLAS's libraries prepare for it.
    """
    die_with_parent()
    with socket.socket(fileno=descriptor) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                if asked := _asked(connection):
                    import_all(Path(asked[0].pop(0)))
                    if not (kernel := os.fork()):
                        break
                    _watch(kernel, connection)
    _become_kernel(*asked)


@functools.cache
def import_all(notebook: Path) -> None:
    """Once, do the imports of a notebook, and Jupyter's own, and forget dfnb's, whose files may change until a run.

    What cannot be imported is left for the kernel to complain about.
    """
    for source in ["import ipykernel.kernelapp", *(source for source, _ in notebooks.code_cells(notebook))]:
        with contextlib.suppress(SyntaxError):  # IPython's own, such as %time
            for node in ast.parse(source).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    with contextlib.suppress(Exception):
                        exec(ast.unparse(node), {})
    if pandas := sys.modules.get("pandas"):  # without IPython it believes in a terminal, and cuts tables to its width
        pandas.set_option("display.max_columns", 20)
    for name in [name for name in sys.modules if name.partition(".")[0] == "dfnb"]:
        del sys.modules[name]


def _asked(connection: socket.socket) -> list | None:
    """What a stand-in asks for: notebook and arguments, environment, folder; None if it is not ours, or is dead."""
    peer = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))  # process, user, group
    if peer[1] != os.getuid():  # a name without a file can be reached by anyone
        return None
    try:
        return json.loads(connection.makefile().readline())
    except ValueError:
        return None


def _watch(kernel: int, connection: socket.socket) -> None:
    """Wait for the kernel's end and report its exit code; end it when its stand-in is gone."""
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
    os.setsid()  # Ctrl-C in the terminal is the runner's affair
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [LAUNCHER, *arguments, f"--IPKernelApp.parent_handle={os.getppid()}"]
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


def die_with_parent() -> None:
    """Have the operating system kill this process when its parent dies (Linux), even by SIGKILL."""
    if LINUX:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
