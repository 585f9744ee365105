"""What the scripts of this folder share: brokers on empty directories, what a process has used, and the line that says where a figure
comes from. Needs what tests/clients needs, and target/release/ringlog (or RINGLOG)."""
import contextlib
import datetime
import os
import platform
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "clients"))
import kafkatools  # noqa: E402
from broker import Broker, free_port  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(kind, name, port, settings=()):
    """A broker of this kind (ringlog or kafka) on an empty directory that is gone afterwards; the first free port from `port` on."""
    os.environ["BROKER"] = kind
    directory = os.path.join(kafkatools.CACHE, "work", f"{name}-{os.getpid()}-{kind}")
    shutil.rmtree(directory, ignore_errors=True)
    broker = Broker(directory, free_port(port), settings)
    try:
        yield broker.start()
    finally:
        broker.stop()
        shutil.rmtree(directory, ignore_errors=True)


def cpu_s(pid):
    """CPU seconds of a process since its start."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


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


def save(name, lines):
    """Writes perf/results/NAME.md."""
    with open(os.path.join(ROOT, "perf", "results", f"{name}.md"), "w") as f:
        f.write("\n".join(lines) + "\n")


def _out(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
