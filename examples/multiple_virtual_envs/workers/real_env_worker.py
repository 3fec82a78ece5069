"""One env server: a real environment behind a port of its own."""

import multiprocessing
import os
import signal
import sys
import threading

from multiserverrl.cli import main


def real_env_worker(env_id: str, host: str, port: int) -> None:
    """Serves until SIGTERM, or until the process that started it is gone."""
    threading.Thread(target=stop_with_parent, daemon=True).start()
    sys.exit(main(["serve", env_id, "--host", host, "--port", str(port), "--count", "1"]))


def stop_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
