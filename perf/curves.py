#!/usr/bin/env python3
"""perf/curves.py [--rounds 3] [--seconds 4] [--only REGEX] [--rows REGEX] [--name curves] [--quick]: what a record costs the broker, against the
number of partitions, of connections, and of bytes stored.

Every point is a fresh broker and the same requests: one batch for one partition each, 32 under way in all, over the partitions and the
connections in turn, so that nothing but the number itself changes. The broker is restarted before it is measured, so that the partitions'
files are there; on the curve over partitions it is measured ten times as long, so that the timer's flushes and the freeing of journal files
are in it. What the connections themselves cost is taken off: a short run is. Each round takes the points of all curves in an order of its
own, in which neighbours lie apart. Writes perf/results/NAME.md (broker CPU a record and throughput: min, median, max, and the median to the first point's)
and NAME.json (every run). Needs target/release/ringlog and cargo; raise the limit of open files (ulimit -n 30000). A round takes about fifteen
minutes, and the largest point 10 GB of disk. --quick shows in two minutes, on small points, that it works, and writes nothing.
"""
import argparse
import json
import os
import re
import resource
import signal
import statistics
import sys

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "bench", "runtimes"))
from appendservers import build, measured, raw  # noqa: E402
import bench  # noqa: E402
from bench import cpu_s  # noqa: E402

THREADS, UNDER_WAY = 4, 32
# What a request holds.
ROWS = {"100 B, one a request": (1, 100), "100 B, 16 KiB a request": (150, 100)}
CURVES = {"partitions": [1, 10, 100, 1000, 10_000],
          "connections": [1, 4, 16, 64, 256, 1000, 5000, 10_000],
          "GB stored": [0, 1, 3, 9]}
QUICK = {"partitions": [1, 100], "connections": [4, 256], "GB stored": [0, 0.2]}
PARTITIONS, CONNECTIONS = 6, 16
LONGER = {"partitions": 10}
SETTINGS = {"written": ["ringlog.ack.level.all=written"], "durable": []}
LIMITS = ["max.connections=20000", "max.connections.per.ip=20000"]
RECORD, RATE = "CPU us/record", "records/s"


def run(options, curve, point, row):
    """One point on a fresh broker: its figures, and the CPU that neither broker nor client took."""
    records, size = ROWS[row]
    partitions = point if curve == "partitions" else PARTITIONS
    connections = point if curve == "connections" else CONNECTIONS
    with bench.running("ringlog", "curves", options.port, SETTINGS[options.level] + LIMITS) as broker:
        raw("create", broker.address, "t", partitions)
        if curve == "GB stored" and point:
            fill(broker, partitions, point)
        threads = min(THREADS, connections)
        load = ["--threads", threads, "--connections", connections, "--in-flight", UNDER_WAY // threads, "--records", records, "--size", size]
        # Long enough that each partition and connection has had its first.
        raw("produce", broker.address, "t", partitions, *load, "--requests", max(20_000, 2 * partitions, 2 * connections))
        broker.restart()
        raw("produce", broker.address, "t", partitions, *load, "--seconds", options.warmup)
        before = cpu_s(broker.pid())
        raw("produce", broker.address, "t", partitions, *load, "--requests", connections)
        short_us = (cpu_s(broker.pid()) - before) * 1e6
        seconds = options.seconds * LONGER.get(curve, 1)
        found, other = measured(broker, "produce", "t", partitions, *load, "--seconds", seconds)
    us, requests = found["CPU us/request"], found["requests/s"] * seconds
    if requests > 2 * connections:
        us = (us * requests - short_us) / (requests - connections)
    return {RECORD: us / records, RATE: found["requests/s"] * records, "p99 ms": found["p99 ms"]}, other


def fill(broker, partitions, gigabytes):
    batch = 250 * 1024
    raw("produce", broker.address, "t", partitions, "--records", 250, "--size", 1024, "--requests", int(gigabytes * 1e9 / batch), timeout=600)


def tables(options, runs):
    lines = ["# What a record costs, against what there is", "", *bench.facts([run["other_cpu"] for run in runs]),
             f"- {options.rounds} rounds, a fresh broker for each point, {options.seconds:g} s each (partitions {LONGER['partitions']} times that), `{options.level}`, 2 shards; "
             f"{UNDER_WAY} requests under way, {PARTITIONS} partitions and {CONNECTIONS} connections where the curve does not say; min / **median** / max"]
    for curve in dict.fromkeys(run["curve"] for run in runs):
        for row in ROWS:
            mine = [run for run in runs if (run["curve"], run["row"]) == (curve, row)]
            if not mine:
                continue
            lines += ["", f"## {curve}: {row}", "", f"| {curve} | broker {RECORD} | to the first | {RATE} | to the first | p99 ms |",
                      "| ---: | ---: | ---: | ---: | ---: | ---: |"]
            first = None
            for point in sorted({run["point"] for run in mine}):
                values = {name: [run[name] for run in mine if run["point"] == point] for name in (RECORD, RATE, "p99 ms")}
                medians = {name: statistics.median(found) for name, found in values.items()}
                first = first or medians
                lines.append(f"| {point:,g} | {bench.spread(values[RECORD])} | {bench.number(medians[RECORD] / first[RECORD])} | "
                             f"{bench.spread(values[RATE])} | {bench.number(medians[RATE] / first[RATE])} | {bench.spread(values['p99 ms'])} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--only", default="", help="regular expression on the curves: " + ", ".join(CURVES))
    parser.add_argument("--rows", default="", help="regular expression on the requests: " + "; ".join(ROWS))
    parser.add_argument("--level", choices=SETTINGS, default="written")
    parser.add_argument("--name", default="curves")
    parser.add_argument("--port", type=int, default=24300, help="first port tried")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    curves = QUICK if options.quick else CURVES
    if options.quick:
        options.rounds, options.seconds, options.warmup = 1, 0.5, 0.2
    # Ends by way of the finally blocks: no broker stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    build()
    points = [(curve, point, row) for curve, found in curves.items() if re.search(options.only, curve) for point in found
              for row in ROWS if re.search(options.rows, row)]
    runs = []
    for number in range(options.rounds):
        for curve, point, row in bench.interleaved(points, number):
            found, other = run(options, curve, point, row)
            runs.append({"round": number, "curve": curve, "point": point, "row": row, **found, "other_cpu": other})
            print(f"{number} {point:8,g} {curve:12} {row:26}" + "".join(f" {value:10.4g} {name}" for name, value in found.items())
                  + f"  other CPU {other:.0%}", flush=True)
    text = tables(options, runs)
    print(text)
    if not options.quick:
        results = os.path.join(ROOT, "perf", "results", options.name)
        with open(f"{results}.md", "w") as f:
            f.write(text)
        with open(f"{results}.json", "w") as f:
            json.dump({"level": options.level, "seconds": options.seconds, "runs": runs}, f, indent=1)


if __name__ == "__main__":
    main()
