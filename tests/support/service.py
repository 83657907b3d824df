"""PyPI's httpbin on loopback: a server that says what it was asked."""

import os
import re
import signal
import subprocess
import sys

_LISTENING = re.compile(r"Listening at: (\S+)")


class Httpbin:
    """httpbin in a process of its own. `url` ends with a slash."""

    def __init__(self) -> None:
        program = ["gunicorn", "httpbin:app", "-b", "127.0.0.1:0", "-k", "gthread", "--threads", "8", "--no-control-socket"]
        command = [sys.executable, "-W", "ignore", "-m", *program]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stderr is not None
        said: list[str] = []
        for line in self.process.stderr:
            said.append(line)
            match = _LISTENING.search(line)
            if match:
                self.url = match[1].rstrip("/") + "/"
                return
        raise AssertionError("httpbin did not start:\n" + "".join(said))

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
