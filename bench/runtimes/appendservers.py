"""Builds bench/runtimes, starts its servers, and runs its client against them or any broker."""
import json
import os
import resource
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "perf"))
from bench import busy_s, cpu_s, free_port, warm_memory  # noqa: E402

TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "target")
# The rows of requests: what a request holds, and how many are under way.
ROWS = {
    "1 KiB, 256 KiB a request": ["--connections", 4, "--in-flight", 4, "--records", 250, "--size", 1024],
    "100 B, 256 KiB a request": ["--connections", 4, "--in-flight", 4, "--records", 2400, "--size", 100],
    "100 B, 16 KiB a request": ["--connections", 4, "--in-flight", 4, "--records", 150, "--size", 100],
    "100 B, one a request": ["--connections", 8, "--in-flight", 5, "--records", 1, "--size", 100],
}
PARTITIONS = 6
FIGURES = ("MB/s", "requests/s", "core-s/GB", "CPU us/request", "p99 ms")


def build():
    subprocess.run(["cargo", "build", "-q", "--release", "--locked", "--manifest-path", os.path.join(HERE, "Cargo.toml"),
                    "--target-dir", TARGET], check=True)


def program(name):
    return os.path.join(TARGET, "release", name)


def raw(*args, timeout=300):
    """The client's output; JSON where it has any."""
    done = subprocess.run([program("raw"), *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"raw {' '.join(map(str, args))}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout) if done.stdout else None


class Server:
    """One append server on a directory, until the end of the `with`."""

    def __init__(self, name, directory, *options, port=24100):
        self.address = f"127.0.0.1:{free_port(port)}"
        self.command = [program(name), "--dir", directory, "--listen", self.address, *map(str, options)]

    def __enter__(self):
        warm_memory()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if not self.process.stdout.readline().startswith("ready "):
            self.process.wait()
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.returncode}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def pid(self):
        return self.process.pid


def measured(server, *args):
    """One run of the client against a server or broker: the figures, and the CPU that neither of them took."""
    pid = server.pid()
    used, busy, began = cpu_s(pid), busy_s(), time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = raw(args[0], server.address, *args[1:])
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    used = cpu_s(pid) - used
    other = max(0.0, busy_s() - busy - used - client) / took / os.cpu_count()
    figures = (report["mb_per_second"], report["requests_per_second"], used / (report["bytes"] / 1e9),
               used / report["requests"] * 1e6, report["p99_us"] / 1000)
    return dict(zip(FIGURES, figures)), other
