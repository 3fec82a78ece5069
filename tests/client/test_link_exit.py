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
