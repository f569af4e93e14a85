"""Two workers on one PostgreSQL study: every point is run, and none by both."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from galvan.recipe import Recipe
from galvan.sweep.space import dimensions, grid_points
from galvan.sweep.study import Study

pytest.importorskip("psycopg", reason="psycopg, the driver for PostgreSQL, is not installed")
GRID = "training.lora.rank=" + ",".join(map(str, range(1, 31)))
WORKER = """
import sys, time
from pathlib import Path
from galvan.recipe import Recipe
from galvan.sweep.space import dimensions, grid_points
from galvan.sweep.study import Study
dims = dimensions([sys.argv[3]], Recipe())
study = Study(Path(sys.argv[2]), "same", dims, "grid", 0, sys.argv[1], False)
study.enqueue(grid_points(dims))
while (one := study.ask(30)) is not None:
    with study.alive(one):
        print(one.name, flush=True)
        time.sleep(0.02)
        study.tell(one, float(one.point["training.lora.rank"]))
"""


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a database on loopback that lives as long as the test; PostgreSQL does not run as root, so then as another user."""
    initdb, postgres = (shutil.which(name) for name in ("initdb", "postgres"))
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL's initdb and postgres are not on PATH")
    user: dict[str, str] = {"user": "nobody"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, socket.socket() as free:
        if user:
            shutil.chown(folder, user["user"])
        subprocess.run(
            [initdb, "-D", "db", "-U", "galvan", "-A", "trust", "-N"], cwd=folder, check=True, capture_output=True, **user
        )  # type: ignore[call-overload]
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [postgres, "-D", "db", "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **user) as running:  # type: ignore[call-overload]
            for line in running.stderr:
                if "ready to accept connections" in line:
                    break
            yield f"postgresql+psycopg://galvan@127.0.0.1:{port}/postgres"
            running.send_signal(signal.SIGINT)  # ends also while a client is connected


@pytest.mark.slow
def test_two_workers_on_one_postgresql_study_never_run_the_same_trial(server: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, server, str(tmp_path), GRID]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    ran = [worker.communicate(timeout=300)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all(ran), "both took part"
    assert sorted(ran[0] + ran[1]) == [f"{n:03d}" for n in range(30)]
    dims = dimensions([GRID], Recipe())
    told = Study(tmp_path, "same", dims, "grid", 0, server, False).told()
    assert [(t.name, t.value) for t in told] == [(f"{n:03d}", p["training.lora.rank"]) for n, p in enumerate(grid_points(dims))]
