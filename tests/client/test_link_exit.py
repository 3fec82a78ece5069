"""What a script that just ends leaves behind at the server."""

import subprocess
import sys

from multiserverrl.client.env import VirtualEnv
from multiserverrl.testing.serving import serving


def test_a_script_that_ends_without_close_frees_its_envs() -> None:
    script = "import sys, multiserverrl as msr; env = msr.VirtualEnv(sys.argv[1]); env.reset(); env.step(0)"
    with serving("CartPole-v1", count=1, workers=1) as server:
        subprocess.run([sys.executable, "-c", script, server.url], check=True, timeout=60)
        VirtualEnv(server.url, wait_s=10.0).close()


INTERRUPTED = """
import os, signal, sys, threading
import multiserverrl as msr
env = msr.VirtualEnv(sys.argv[1])
env.reset(options={"how": "sleep", "at": 1, "sleep_s": 0.6})
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    env.step(0)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_script_that_a_ctrl_c_ends_in_mid_step_frees_its_envs() -> None:
    with serving("multiserverrl.testing.envs:Scripted", count=1, workers=1) as server:
        ran = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, server.url], check=True, timeout=60, capture_output=True, text=True
        )
        assert ran.stdout == "interrupted\n"
        VirtualEnv(server.url, wait_s=10.0).close()  # the time to live is two minutes


def test_a_script_that_ends_while_its_connection_is_broken_frees_its_envs() -> None:
    script = (
        "import sys, multiserverrl as msr; env = msr.VirtualEnv(sys.argv[1]); env.reset(); env._remote.link._drop()"
    )
    with serving("CartPole-v1", count=1, workers=1) as server:
        subprocess.run([sys.executable, "-c", script, server.url], check=True, timeout=60)
        VirtualEnv(server.url, wait_s=10.0).close()
