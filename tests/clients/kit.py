"""What the Python client tests share: the records that README.md defines, their tally, and the named checks."""
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback

BOOTSTRAP = os.environ["BOOTSTRAP"]
CHECK_S = 240
# An hour ago: retention leaves the records alone and no broker takes them for records from the future.
BASE_MS = int(time.time() * 1000) - 3_600_000


def record(i):
    """Record i of a topic: key, value (None now and then), headers, timestamp in ms."""
    value = None if i % 50 == 1 else b"" if i % 50 == 0 else b"value-%d;" % i * (1 + i % 40)
    return b"key-%d" % (i % 17), value, [("n", b"%d" % i), ("bin", bytes([0, i % 256, 255]))], BASE_MS + i


class Tally:
    """Holds what came out of a topic against what went in: each record once, unchanged, in order within its partition.
    duplicates: the producer may have written a record twice, as one without idempotence does when an answer is lost."""

    def __init__(self, duplicates=False):
        self.duplicates = duplicates
        self.seen = {}
        self.last = {}

    def add(self, partition, offset, key, value, headers, timestamp_ms=None):
        i = int(dict(headers)["n"])
        want = record(i)
        got = (key, value, [(name, bytes(data)) for name, data in headers], want[3] if timestamp_ms is None else timestamp_ms)
        if got != want:
            raise AssertionError(f"record {i} came back as {got!r}, not {want!r}"[:600])
        if i in self.seen and self.duplicates:
            return
        if i in self.seen:
            raise AssertionError(f"record {i} twice: at {self.seen[i]} and at {(partition, offset)}")
        before_offset, before_i = self.last.get(partition, (-1, -1))
        if offset <= before_offset or i <= before_i:
            raise AssertionError(f"partition {partition}: record {i} at {offset} after record {before_i} at {before_offset}")
        self.seen[i] = (partition, offset)
        self.last[partition] = (offset, i)

    def add_again(self, partition, offset, *rest):
        """As add, where a consumer may see an offset again: it lost its place with the broker and took its last commit."""
        if partition in self.last and offset <= self.last[partition][0]:
            assert self.duplicates or (partition, offset) in self.seen.values(), f"{partition}/{offset} was not there the first time"
        else:
            self.add(partition, offset, *rest)

    def __len__(self):
        return len(self.seen)

    def expect(self, n):
        missing = [i for i in range(n) if i not in self.seen]
        assert not missing and len(self.seen) == n, f"{len(self.seen)} of {n} records, the first missing: {missing[:5]}"


def until(what, condition, timeout_s=60, pause_s=0.05):
    """Asks until the condition holds and gives its value. The calls made by condition may block for a moment themselves."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(pause_s)


def equal(got, want, what=""):
    assert got == want, f"{what}: got {got!r}, not {want!r}"[:600]


def restart_broker(how="RESTART"):
    """Begins a restart of the broker (CRASH: by SIGKILL); the process returned ends with 0 when it serves again."""
    return subprocess.Popen(shlex.split(os.environ[how]))


def restarted(process):
    equal(process.wait(timeout=CHECK_S), 0, "exit code of the restart")


_checks = []


def check(name):
    """Registers a function as a check; main runs them in the order they were declared."""
    def add(function):
        _checks.append((name, function))
        return function
    return add


def _too_long(_signal, _frame):
    raise TimeoutError(f"not done within {CHECK_S} s")


def main(only=None):
    """Runs the checks (those named on the command line, else all), a line each; ends with 1 where one failed."""
    wanted = sys.argv[1:] if only is None else only
    signal.signal(signal.SIGALRM, _too_long)
    failed = 0
    for name, function in _checks:
        if wanted and not any(w in name for w in wanted):
            continue
        began = time.monotonic()
        signal.alarm(CHECK_S)
        try:
            function()
            print(f"ok    {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as e:  # every failure of a check is its result
            failed += 1
            traceback.print_exc()
            print(f"FAIL  {name}: {' '.join(f'{type(e).__name__}: {e}'.split())[:800]}", flush=True)
        finally:
            signal.alarm(0)
    sys.stdout.flush()
    # Not sys.exit: threads of a client whose check failed must not keep the process.
    os._exit(1 if failed else 0)
