"""How many processes run the tests, and servers that several rooms' tests need: a real PostgreSQL and a real S3-compatible store."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a thread pool in each worker would fight over the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
MOST_WORKERS = 8
hypothesis.settings.register_profile("locum", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("locum")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core where whole folders are tested; none besides this one where a file is named, or what tests print is to be seen."""
    named = any(not Path(argument.partition("::")[0]).is_dir() for argument in config.args)
    if named or config.option.capture == "no" or config.option.collectonly:
        config.option.dist = "no"
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_WORKERS)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _find(program: str) -> str | None:
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"), key=lambda path: float(path.split("/")[4]))
    return shutil.which(program) or (found[-1] if found else None)


class PostgresServer:
    """A temporary cluster on loopback, run by an unprivileged user. It can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        initdb, self._pg_ctl = _find("initdb"), _find("pg_ctl")
        if not initdb or not self._pg_ctl:
            pytest.skip("no PostgreSQL here: initdb and pg_ctl are not on PATH, and LOCUM_TEST_POSTGRES_URL is not set")
        self.port, self.data, self._as = free_port(), folder / "data", _unprivileged(folder)
        self._run(initdb, "-D", str(self.data), "-A", "trust", "-U", "locum", "--no-sync", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run(str(self._pg_ctl), "-D", str(self.data), "-l", str(self.data / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run(str(self._pg_ctl), "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        return _create_database(f"postgresql://locum@127.0.0.1:{self.port}/postgres")

    def _run(self, *command: str) -> None:
        subprocess.run([*self._as, *command], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=60)


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: hand the folder to another user, and the prefix that becomes that user."""
    if os.geteuid() != 0:
        return []
    import pwd

    names = {user.pw_name for user in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    if not shutil.which("runuser") or user not in names:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser or no unprivileged user")
    shutil.chown(folder, user)
    return ["runuser", "-u", user, "--"]


def _create_database(admin: str) -> str:
    import psycopg

    name = f"locum_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{admin.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresServer]:
    """A PostgreSQL of our own, which a test may stop and start."""
    folder = Path(tempfile.mkdtemp(prefix="locum-pg-"))
    server = PostgresServer(folder)
    yield server
    with contextlib.suppress(subprocess.CalledProcessError):
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    """An empty database on the server of LOCUM_TEST_POSTGRES_URL, or on a temporary one."""
    given = os.environ.get("LOCUM_TEST_POSTGRES_URL")
    if given:
        return _create_database(given)
    server: PostgresServer = request.getfixturevalue("postgres_cluster")
    return server.new_database()


@dataclass(frozen=True)
class S3Server:
    """An S3-compatible server. new_bucket: the s3:// URL of an empty bucket."""

    endpoint: str

    def new_bucket(self) -> str:
        import boto3

        name = f"locum-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}/some/prefix"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """moto's server in a process of its own; the credentials that any client wants are in the environment."""
    script = Path(sys.executable).with_name("moto_server")
    if not script.exists():
        pytest.skip("moto's server is not installed")
    port = free_port()
    process = subprocess.Popen([str(script), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for _ in range(100):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(endpoint, timeout=5).close()
                break
            time.sleep(0.1)
        yield S3Server(endpoint)
    process.kill()
    process.wait()
