#!/usr/bin/env python3
"""perf/idle.py [--partitions 10000] [--connections 10000] [--written 2000] [--rounds 3] [--name NAME]: what a broker costs that does nothing.

Each round starts the broker on an empty directory and reads memory (RSS), open descriptors and CPU after each step: at the start,
with idle connections, with partitions, with a record in some of them; then stops and starts it again on what it holds.
BROKER=kafka measures Apache Kafka with the same steps (its 1 GiB heap is part of what it costs). Writes perf/results/NAME.md.
Needs the client environment of tests/clients and target/release/ringlog; raise the limit of open files (ulimit -n 30000).
"""
import argparse
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
import kafkatools  # noqa: E402
from bench import cpu_s, rss_mib  # noqa: E402
from broker import Broker, answers, binary, free_port  # noqa: E402

IDLE_S = 5


class Round:
    def __init__(self, options, number):
        self.options, self.rows = options, []
        directory = os.path.join(kafkatools.CACHE, "work", f"idle-{os.getpid()}-{number}")
        shutil.rmtree(directory, ignore_errors=True)
        self.broker = Broker(directory, free_port(19692))

    def run(self):
        try:
            self.timed("start on an empty directory", self.start)
            self.reading("after the start")
            self.connections()
            self.partitions()
            self.written()
            self.timed("clean stop with all that", self.broker.stop)
            self.timed("start with all that", self.start)
            self.reading("after that start")
        finally:
            self.broker.stop()
            shutil.rmtree(self.broker.dir, ignore_errors=True)
        return self.rows

    def start(self):
        self.broker.start(poll_s=0.001)
        while not answers(self.broker.port):
            time.sleep(0.001)

    def timed(self, step, action):
        began = time.monotonic()
        action()
        self.row(step, "ms", (time.monotonic() - began) * 1000)

    def reading(self, step):
        """Waits for quiet, then reads."""
        time.sleep(2)
        pid = self.broker.pid()
        before = cpu_s(pid)
        time.sleep(IDLE_S)
        self.row(step, "RSS MiB", rss_mib(pid))
        self.row(step, "descriptors", len(os.listdir(f"/proc/{pid}/fd")))
        self.row(step, "CPU % of a core", (cpu_s(pid) - before) / IDLE_S * 100)

    def row(self, step, figure, value):
        self.rows.append((step, figure, value))
        print(f"{self.broker.kind:8} {step:44} {figure:16} {value:,.1f}", flush=True)

    def connections(self):
        sockets = [socket.create_connection(("127.0.0.1", self.broker.port), timeout=30) for _ in range(self.options.connections)]
        self.reading(f"{self.options.connections} idle connections")
        for s in sockets:
            s.close()
        time.sleep(1)

    def partitions(self):
        topics, each = 10, self.options.partitions // 10
        began = time.monotonic()
        for number in range(topics):
            self.topic("create", f"idle{number}", "--partitions", str(each))
        self.row(f"{self.options.partitions} partitions made", "ms", (time.monotonic() - began) * 1000)
        self.reading(f"{self.options.partitions} empty partitions")

    def written(self):
        each = self.options.written // 10
        lines = "".join(f"{key}\t{'x' * 100}\n" for key in range(each * 8)).encode()
        for number in range(10):
            subprocess.run([binary(), "produce", f"idle{number}", "--bootstrap", self.broker.address, "--key-separator", "\t"],
                           input=lines, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(6)  # until all of it has been written to its segments
        self.reading(f"{self.options.written * 8} records over these partitions")

    def topic(self, *args):
        subprocess.run([binary(), "topic", *args, "--bootstrap", self.broker.address], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=10000)
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--written", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    kind = os.environ.get("BROKER", "ringlog")
    parser.add_argument("--name", default=f"idle-{kind}")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = {}
    for number in range(options.rounds):
        for step, figure, value in Round(options, number).run():
            found.setdefault((step, figure), []).append(value)
    lines = [f"# What an idle broker costs: {kind}", "",
             f"- command: `{'BROKER=kafka ' if kind == 'kafka' else ''}perf/idle.py --partitions {options.partitions} --connections {options.connections} "
             f"--written {options.written} --rounds {options.rounds}`",
             f"- {bench.origin()}", "",
             "| step | figure | min / median / max |", "| --- | --- | ---: |"]
    for (step, figure), values in found.items():
        lines.append(f"| {step} | {figure} | {min(values):,.1f} / **{statistics.median(values):,.1f}** / {max(values):,.1f} |")
    bench.save(options.name, lines)


if __name__ == "__main__":
    main()
