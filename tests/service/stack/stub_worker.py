"""Stands for a worker in the tests of the stack: registers its devices, then behaves as told.

It starts a child of its own, as the supervisor does, and writes both pids to worker.pids. At
SIGTERM it writes to worker.end whether its broker still answers.

good: ends at SIGTERM. stubborn: ignores it. messy: ends at SIGTERM, but leaves its child.
never-ready: registers no lease. broken: ends at once, with a complaint.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import redis

from headrace.db import workers
from headrace.db.engine import Database
from headrace.job import WorkerId
from headrace.settings import Settings, load_settings

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"


def main() -> None:
    behaviour = sys.argv[1]
    settings = load_settings()
    folder = Path(settings.database_url.removeprefix("sqlite:///")).parent
    if behaviour == "broken":
        sys.exit("the stub worker is broken")
    # The handler only notes the signal: it may run while a lock is held here.
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    child = subprocess.Popen([sys.executable, "-c", DEAF])
    (folder / "worker.pids").write_text(f"{os.getpid()} {child.pid}")
    if behaviour != "never-ready":
        for option in sys.argv[2:]:
            register(settings, option.removeprefix("--device="))
    while not asked or behaviour == "stubborn":
        time.sleep(0.02)
    try:
        answers = redis.Redis.from_url(settings.broker_url, socket_timeout=1).ping()
    except redis.RedisError:
        answers = False
    (folder / "worker.end").write_text(f"broker answers: {answers}")
    if behaviour != "messy":
        child.kill()
        child.wait()


def register(settings: Settings, device: str) -> None:
    worker = WorkerId(str(uuid.uuid4()))
    with Database(settings.database_url).write() as connection:
        workers.register(
            connection,
            worker,
            pool=settings.pool,
            device=device,
            host="stub",
            pid=os.getpid(),
            lease=60,
        )
        workers.ready(connection, worker)


if __name__ == "__main__":
    main()
