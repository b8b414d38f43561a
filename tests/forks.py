"""New processes for scripts that are killed: forks of one that has imported TensorFlow, but has not started it."""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback


class Forks:
    """Starts scripts; `ended` waits for one of them, by default the latest."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, __file__], **pipes)

    def start(self, command, output=os.devnull, errors=os.devnull):
        """Start a script with its arguments, and give the number of its process."""
        self.latest = self._asked([*map(str, command), str(output), str(errors)])
        return self.latest

    def ended(self, process=None):
        """The exit code, or the negative number of the signal."""
        return self._asked(process or self.latest)

    def _asked(self, what):
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self):
        self.server.stdin.close()
        self.server.wait()


def run(command, output, errors):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    for number, path in ((0, os.devnull), (1, output), (2, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), number)
    sys.stdin, sys.argv = open(0, closefd=False), command  # noqa: SIM115
    sys.path.insert(0, os.path.dirname(command[0]))
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    import salrob_tf  # noqa: F401

    for line in sys.stdin:
        match json.loads(line):
            case int(child):
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            case [*command, output, errors]:
                child = os.fork()
                if not child:
                    run(command, output, errors)
                print(child, flush=True)
