"""A Ray cluster to answer on: this machine's GPUs or cores, or one that runs already. Ray is loaded only to be used."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.plan import Plan
from harness.sweep import memory
from harness.sweep.remote import Worker, scratch
from harness.sweep.workers import WORKER_MEMORY, cores
from harness.vlmevalkit import patched
from model_wrappers.errors import UserError

AUTO = "auto"
"""In the place of an address: a cluster of this machine alone, for the time of the run."""
CONNECT_SECONDS = 5.0
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""A frame of HTTP/2: length 0, type 4 (SETTINGS), no flags, stream 0."""
ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Named after the systems where it is the default: every process talks over the loopback device.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray gives workers the lowest priority but four; they are what the machine is there for.
    "RAY_worker_niceness": "0",
}
"""What a cluster of this machine alone needs in the environment before Ray is loaded."""
SESSION = "ray-"
"""What the names of the folders begin with that Ray writes to where the cluster is ours."""
SHARED_MEMORY = 256 << 20
"""Bytes for Ray's object store where it is ours: answers are small, only the plan lies in it."""


def check(address: str) -> None:
    """Raises UserError where no cluster can be had at `address`, as far as that can be known without loading Ray."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray needs the extra: pip install 'vlm-retain[ray]'")
    if address == AUTO:
        return
    found = re.fullmatch(r"\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if not found:
        raise UserError(f"--ray {address}: allowed are auto and HOST:PORT, the address that `ray start --head` prints")
    if fault := _fault(found[1], int(found[2])):
        raise UserError(f"--ray {address}: {fault}")


def _fault(host: str, port: int) -> str | None:
    """Why no cluster can be there; None where one may be."""
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            grpc = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        return f"nobody answers there ({getattr(error, 'strerror', None) or error})"
    return None if grpc else "what answers there is no Ray cluster"


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether a server greets as HTTP/2 wants it (RFC 9113, section 3.4). Ray tries others for minutes."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)
    return connection.recv(9)[3:4] == EMPTY_SETTINGS[3:4]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connected to the cluster at `address`, or to one of this machine's that ends with the `with`.

    Nothing of Ray's leaves the machine then: no dashboard, no usage statistics, every port on the loopback device.
    Raises UserError where there is no cluster, or one of other versions of Ray or Python, or where no node of any runs
    on this machine: a driver of Ray's is one node's, and `ray.init` looks for that one for a minute.
    """
    ours = address == AUTO
    if ours:
        os.environ.update(ALONE)
    import ray

    if not ours:
        if not ray._private.services.find_gcs_addresses():
            raise UserError(
                f"--ray {address}: this machine is no node of that cluster; start the command on one that is"
            )
        # Ray takes a loopback address for this node's own, and would try that for a quarter of an hour.
        taken = ray._private.services.canonicalize_bootstrap_address(address) or address
        host, _, port = taken.rpartition(":")
        if taken != address and (fault := _fault(host.strip("[]"), int(port))):
            raise UserError(f"--ray {address}: Ray takes it for {taken}, and {fault}")

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with ExitStack() as stack:
        # Ray prints on standard output, amid the table, that a worker died; the driver tells what comes of it.
        stack.enter_context(patched(ray._private.worker, "print_to_stdstream", lambda *_, **__: None))
        if ours:
            options |= {"num_cpus": cores(), "object_store_memory": SHARED_MEMORY}
            options |= {"include_dashboard": False, "_temp_dir": str(stack.enter_context(_session()))}
        try:
            try:
                ray.init("local" if ours else address, **options)
            except (Exception, SystemExit) as error:
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"--ray {address}: no Ray cluster can be used there: {reason}") from error
            yield
        finally:
            ray.shutdown()


@contextmanager
def _session() -> Iterator[Path]:
    """A folder for what Ray writes, gone at the end of the `with`. Those of drivers that were killed go at its begin:
    nobody holds their locks any more.
    """
    place = scratch(min(tempfile.gettempdir(), "/tmp", key=len))  # a socket's path has 107 bytes, Ray's part takes 63
    with ExitStack() as stack:
        with _locked(place):  # no other driver has a folder and not yet its lock
            for left in place.glob(f"{SESSION}*"):
                with suppress(OSError), _locked(left, fcntl.LOCK_NB):  # in use, or gone meanwhile
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=SESSION, dir=place))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
        yield folder


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    """A folder as this process's alone; with `LOCK_NB`, OSError where it is another's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


class Cluster:
    """The workers that a connected cluster can have for a plan.

    Each has one GPU where the plan was made on a machine with one, else a CPU core and the memory for a model. The
    device is among the settings that name a cell, so one machine decides it for all.

    `data`, `pictures`: the driver's folders, see `harness.plan.Data`.
    """

    def __init__(self, plan: Plan, data: Path, pictures: Path | None = None) -> None:
        import ray

        folders = [Path(model) for model in _places(plan)]
        self.each = WORKER_MEMORY + max((memory.weights(each) for each in folders if each.is_dir()), default=0)
        self.gpu = any(cell.settings["device"] == "cuda" for cell in plan.cells)
        kept = pictures and pictures.resolve()
        self._given = (ray.put(plan), data.resolve(), kept, os.getcwd(), ray.get_runtime_context().get_node_id())

    def check(self) -> None:
        """Raises UserError where the cluster can have no worker, or only of another kind than this machine."""
        if self.gpu and not self.capacity():
            raise UserError("this machine has a GPU and the Ray cluster none; start the command where there is none")
        if not self.gpu and any(node.get("GPU") for node in _nodes()):
            raise UserError("the Ray cluster has GPUs and this machine none; start the command on a node with a GPU")
        if not self.capacity():
            need = f"a CPU core and {self.each / 2**30:.1f} GiB of memory"
            raise UserError(f"no node of the Ray cluster has {need} for a worker")

    def capacity(self) -> int:
        """How many workers the nodes that are alive now can have, were they nobody else's."""
        if self.gpu:
            return sum(int(node.get("GPU", 0)) for node in _nodes())
        return sum(int(min(node.get("CPU", 0), node.get("memory", 0) // self.each)) for node in _nodes())

    def hire(self) -> Any:
        """A new worker, as Ray's handle of it; it starts when a node has room for it."""
        import ray

        if self.gpu:
            nodes = [node for node in _nodes() if node.get("GPU")]
            share = min((int(node.get("CPU", 1) // node["GPU"]) for node in nodes), default=1)
            return ray.remote(num_cpus=0, num_gpus=1)(Worker).remote(*self._given, max(1, share))
        return ray.remote(num_cpus=1, memory=self.each)(Worker).remote(*self._given, 1)

    def dismiss(self, handle: Any) -> None:
        """Ends a worker."""
        import ray

        ray.kill(handle)


def _places(plan: Plan) -> list[str]:
    from harness.models import model_info

    return [model_info(name).path_or_hub_id for name in plan.experiment.models]


def _nodes() -> list[dict[str, float]]:
    """What each node that is alive has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
