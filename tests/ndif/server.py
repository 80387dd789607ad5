"""A real NDIF server on the loopback, for tests: made, started, killed and started again.

It is the published server (PyPI: ndif) with its queue, object store and Ray cluster, in an environment of its own that
does not hold modalnet. Two classes of it stand aside for ones that need no GPU (``actors.py``). Any folder that both
sides can read is a model; the first job that asks for one deploys it.

The environment is kept in ``MODALNET_TEST_CACHE`` (default: ``~/.cache/modalnet-tests``); a server writes its logs and
state into a folder that is given.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
# The numbers that a server computes are compared with those computed here, by the same releases.
SHARED = ("torch", "transformers", "nnsight", "accelerate", "numpy", "pillow", "safetensors", "tokenizers")
WANTED = (
    "pydantic",
    "redis",
    "click",
    "python-dotenv",
    "pyyaml",
    "boto3",
    "fastapi",
    "uvicorn[standard]",
    "gunicorn",
    "python-multipart",
    "ray[default]",
    "zstandard",
    "peft",
    "moto[server]",
)


class ServerError(RuntimeError):
    """The server cannot be made or started here; the message says why."""


def environment() -> Path:
    """The folder of an environment with the server in it, made where there is none."""
    versions = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SHARED]
    wanted = "\n".join([*versions, (HERE / "constraints.txt").read_text()])
    cache = Path(os.environ.get("MODALNET_TEST_CACHE") or "~/.cache/modalnet-tests").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / "ndif"
    stamp = folder / "installed.txt"
    with FileLock(cache / "ndif.lock"):
        if stamp.is_file() and stamp.read_text() == wanted:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shared = folder / "shared.txt"
        shared.write_text("\n".join(versions) + "\n")
        make = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, check=False)
        python = folder / "bin" / "python"
        if make.returncode:
            # Some distributions split ensurepip off: there the pip of the tests brings one in.
            _call([sys.executable, "-m", "venv", "--clear", "--without-pip", folder])
            _call([sys.executable, "-m", "pip", "--python", python, "install", "-q", "pip"])
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", HERE / "constraints.txt"]
        index = os.environ.get("MODALNET_TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
        extra = ["--extra-index-url", index] if index and _answers(f"{index}/torch/", timeout=5) else []
        _call([*pip, "--no-deps", *extra, versions[0]])
        # ndif says that it needs Python 3.12, and runs on 3.10 and 3.11 as well.
        _call([*pip, "--ignore-requires-python", "--no-deps", "ndif"])
        _call([*pip, "-c", shared, *SHARED, *WANTED])
        stamp.write_text(wanted)
    return folder


class Server:
    """One server.

    Parameters
    ----------
    folder
        For logs and state.
    timeout
        Seconds that a job may run.
    apart
        Jobs run in processes of their own, apart from the model.

    Attributes
    ----------
    host
        Its address.
    """

    def __init__(self, folder: Path, *, timeout: float = 120.0, apart: bool = False) -> None:
        self.folder = folder
        self.timeout = timeout
        self.actor = "actors.CPUSandboxActor" if apart else "actors.CPUModelActor"
        self.home = folder / "home"
        names = ("api", "redis", "store", "gcs", "client", "dashboard", "agent")
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.host = f"http://127.0.0.1:{self.ports['api']}"
        if not sys.platform.startswith("linux"):
            raise ServerError("the test server starts on Linux only")

    def start(self) -> None:
        """Start everything and wait until it answers."""
        self.venv = environment()
        redis = _redis()
        for name in ("home", "logs", "hub", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "nnsight.yaml").write_text("APP:\n  PYMOUNT: false\n")
        ports, venv = self.ports, self.venv
        self._run([redis, "--bind", "127.0.0.1", "--port", ports["redis"], "--save", "", "--appendonly", "no"], "redis")
        self._run([venv / "bin" / "moto_server", "-H", "127.0.0.1", "-p", ports["store"]], "store")
        _until(lambda: _listens(ports["redis"]) and _listens(ports["store"]), 30, "redis and the object store")
        resources = '{"head": 10, "cuda_memory_bytes": 8000000000, "cpu_memory_bytes": 8000000000}'
        self._finish(
            [
                *(venv / "bin" / "ray", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={ports['gcs']}"),
                *("--num-gpus=1", "--num-cpus=4", "--object-store-memory=200000000", f"--resources={resources}"),
                *(f"--ray-client-server-port={ports['client']}", "--include-dashboard=true"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}"),
                *(f"--dashboard-agent-listen-port={ports['agent']}", "--disable-usage-stats"),
                f"--temp-dir={self.sockets}",
            ],
            "ray",
        )
        controller = ("-m", "ndif.services.ray.deployments.controller.controller")
        self._finish([venv / "bin" / "python", *controller], "controller", RAY_ADDRESS=f"127.0.0.1:{ports['gcs']}")
        where = "import ndif, pathlib; print(pathlib.Path(ndif.__file__).parent / 'services/api/start.sh')"
        script = subprocess.run([venv / "bin" / "python", "-c", where], capture_output=True, text=True, check=True)
        self._run(["bash", script.stdout.strip()], "api", NNSIGHT_CONFIG=str(self.folder / "nnsight.yaml"))
        _until(lambda: _answers(f"{self.host}/connected"), 120, f"the server (see {self.folder / 'logs'})")

    @property
    def sockets(self) -> Path:
        """Ray's folder; paths of sockets must be short."""
        return Path("/tmp") / f"modalnet-ndif-{self.ports['gcs']}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the server's processes."""
        ports = self.ports
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "NDIF_", "NNSIGHT_"))}
        # What the tests import must not be there by accident.
        kept.pop("PYTHONPATH", None)
        return kept | {
            "PATH": f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(HERE),
            "HF_HOME": str(self.folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "NDIF_HOME": str(self.home),
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{ports['store']}",
            "NDIF_API_PORT": str(ports["api"]),
            "NDIF_API_URL": self.host,
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{ports['client']}",
            "NDIF_RAY_HEAD_PORT": str(ports["gcs"]),
            "NDIF_RAY_TEMP_DIR": str(self.sockets),
            "NDIF_MIN_NNSIGHT_VERSION": "0.8",
            "NDIF_DEFAULT_DTYPE": "float32",
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(self.timeout),
            "NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
            "NDIF_DEFAULT_MODEL_ACTOR_CLASS": self.actor,
            "NDIF_CONTROLLER_IMPORT_PATH": "actors.CPUController",
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{ports['api']}",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """Stop what this server started, and nothing else."""
        self._end(signal.SIGTERM, 4)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would; what was queued is gone."""
        self._end(signal.SIGKILL, 10)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def processes(self) -> list[int]:
        """Its processes: those that carry its home in their environment."""
        mark = f"NDIF_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue  # it has ended, or is another user's
        return found

    def _end(self, how: int, seconds: float) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                continue
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            for pid in self.processes():  # children of this process stay until they are waited for
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue
            time.sleep(0.1)

    def _run(self, command: list[object], name: str, **more: str) -> None:
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                [str(part) for part in command],
                env=self.variables | more,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _finish(self, command: list[object], name: str, **more: str) -> None:
        path = self.folder / "logs" / f"{name}.log"
        with path.open("ab") as log:
            done = subprocess.run(
                [str(part) for part in command],
                env=self.variables | more,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise ServerError(f"{name} ended with {done.returncode}: {path.read_text()[-2000:]}")


def _redis() -> str:
    """The redis server; installed where this user may."""
    found = shutil.which("redis-server")
    if not found and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "redis-server"], capture_output=True, check=False)
        found = shutil.which("redis-server")
    if not found:
        raise ServerError("there is no redis-server on this machine, and it cannot be installed: install it")
    return found


def _call(command: list[object]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{' '.join(map(str, command))}: {(done.stdout + done.stderr)[-2000:]}")


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str, timeout: float = 2.0) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until(ready: object, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            raise ServerError(f"{what} did not answer in {seconds:g} s")
        time.sleep(0.25)
