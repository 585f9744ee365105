"""What the measuring scripts share: CPU of a process and of the machine, spreads, and the facts of a results page."""
import datetime
import os
import platform
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """User and system time of a process, its ended threads included."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def busy_s():
    """CPU time that anything on the machine took: neither idle nor waiting for the disk."""
    with open("/proc/stat") as f:
        times = [int(word) for word in f.readline().split()[1:9]]
    return (sum(times) - times[3] - times[4]) / TICK


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
    stride = strides[round_number % len(strides)]
    return [points[(round_number + n * stride) % len(points)] for n in range(len(points))]


def _coprime(a, b):
    while b:
        a, b = b, a % b
    return a == 1


def facts(directory, other=None):
    """Lines of a results page: command, commit, machine."""
    def out(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    changed = out("git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no")
    command = " ".join([os.path.relpath(os.path.abspath(sys.argv[0]), ROOT), *sys.argv[1:]])
    lines = [f"- command: `{command}`",
             f"- commit: {out('git', '-C', ROOT, 'rev-parse', '--short=12', 'HEAD')}{' with changes' if changed else ''}, "
             f"{datetime.date.today()}",
             f"- machine: {os.cpu_count()} cores, {cpu}, {memory:.0f} GiB, Linux {platform.release()}, "
             f"{out('stat', '-f', '-c', '%T', directory)}; clients on the same machine"]
    if other:
        lines.append(f"- CPU taken by neither server nor client: {statistics.median(other):.0%} (median of the runs), {max(other):.0%} at most")
    return lines
