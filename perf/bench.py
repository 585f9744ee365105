"""What the scripts of this folder share: brokers on empty directories, what a process has used, and the line that says where a figure
comes from. Needs what tests/clients needs, and target/release/ringlog (or RINGLOG)."""
import contextlib
import datetime
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "clients"))
import kafkatools  # noqa: E402
from broker import Broker, free_port  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
# As much as a broker that writes to the page cache fills in some seconds.
WARM_GIB = 4
MADV_POPULATE_WRITE = 23


@contextlib.contextmanager
def running(kind, name, port, settings=()):
    """A broker of this kind (ringlog or kafka) on an empty directory that is gone afterwards; the first free port from `port` on."""
    os.environ["BROKER"] = kind
    directory = os.path.join(kafkatools.CACHE, "work", f"{name}-{os.getpid()}-{kind}")
    shutil.rmtree(directory, ignore_errors=True)
    broker = Broker(directory, free_port(port), settings)
    warm_memory()
    try:
        yield broker.start()
    finally:
        broker.stop()
        shutil.rmtree(directory, ignore_errors=True)


def warm_memory():
    """Touches free memory and gives it back. In a virtual machine whose host takes free memory away (free page reporting,
    balloons) the first touch of a page after some seconds costs microseconds: who grows the page cache, as Kafka does, would be measured
    by that (here: 0.4 GB/s into fresh page cache, 11 GB/s into the same again)."""
    length = WARM_GIB << 30
    with mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(MADV_POPULATE_WRITE)


def cpu_s(pid):
    """CPU seconds of a process since its start."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def busy_s():
    """CPU time that anything on the machine took: neither idle nor waiting for the disk."""
    with open("/proc/stat") as f:
        times = [int(word) for word in f.readline().split()[1:9]]
    return (sum(times) - times[3] - times[4]) / TICK


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS"))


def origin():
    """`commit, date; machine; load average`."""
    revision = _out("git", "-C", ROOT, "rev-parse", "--short", "HEAD")
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    return f"commit {revision}, {datetime.date.today()}; {os.cpu_count()} cores, Linux {platform.release()}; load average {load}"


def machine():
    """`cores, processor, memory, kernel, file system`."""
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    file_system = _out("stat", "-f", "-c", "%T", kafkatools.CACHE)
    return f"{os.cpu_count()} cores, {cpu}, {memory:.0f} GiB, Linux {platform.release()}, {file_system}"


def commit():
    """`commit, date`, and whether the work tree differs from it."""
    changed = _out("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no")
    return f"{_out('git', '-C', ROOT, 'rev-parse', '--short=12', 'HEAD')}{' with changes' if changed else ''}, {datetime.date.today()}"


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values):
    """min / median / max, as a table shows it."""
    return f"{number(min(values))} / **{number(statistics.median(values))}** / {number(max(values))}" if values else "-"


def in_turn(names, round_number):
    """The order of a round: it turns round from one to the next, so that a slow minute does not always meet the same one."""
    return list(names) if round_number % 2 == 0 else list(reversed(names))


def interleaved(points, round_number):
    """Points of a curve in an order of their own each round, the same in every run: neighbours lie far apart."""
    points = list(points)
    strides = [s for s in range(len(points) // 2 + 1, len(points) + 1) if _coprime(s, len(points))]
    stride = strides[round_number % len(strides)] if strides else 1
    return [points[(round_number + n * stride) % len(points)] for n in range(len(points))]


def _coprime(a, b):
    while b:
        a, b = b, a % b
    return a == 1


def facts(other=()):
    """The lines of a results page that say where it comes from; `other` is what others took of the machine in each run."""
    command = " ".join([os.path.relpath(os.path.abspath(sys.argv[0]), ROOT), *sys.argv[1:]])
    lines = [f"- command: `{command}`", f"- commit: {commit()}",
             f"- machine: {machine()}; clients on the same machine; {WARM_GIB} GiB of memory touched and freed before each server started"]
    if other:
        lines.append(f"- CPU taken by neither server nor client: {statistics.median(other):.0%} (median of the runs), {max(other):.0%} at most")
    return lines


def save(name, lines):
    """Writes perf/results/NAME.md."""
    with open(os.path.join(ROOT, "perf", "results", f"{name}.md"), "w") as f:
        f.write("\n".join(lines) + "\n")


def _out(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
