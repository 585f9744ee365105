#!/usr/bin/env python3
"""perf/sink.py [--rounds 5] [--seconds 5] [--only REGEX] [--level written] [--name sink] [--quick]: Ringlog beside a bare io_uring sink, with the
same client, in alternate rounds.

Produce rows: the sink (`append-ring` of bench/runtimes, as many threads as Ringlog has shards) receives the same requests, writes them with O_DIRECT and
answers when they are written (--level durable: synced). Fetch rows: both are filled with the same batches; the sink answers fetches with these bytes from
memory, by reference. Either is a floor: what the machine allows for the bytes alone. Writes perf/results/NAME.md with Ringlog's share of the sink, NAME.tsv
with every run. Needs target/release/ringlog and cargo; about three minutes a round. --quick is one short round that writes nothing.
"""
import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "bench", "runtimes"))
from appendservers import FIGURES, PARTITIONS, ROWS, Server, build, measured, raw  # noqa: E402
import bench  # noqa: E402
from broker import binary  # noqa: E402

SHARDS = 2
SETTINGS = {"written": ["ringlog.ack.level.all=written"], "durable": []}
# What a fetch row reads: requests of the row that fills it, and connections. As much as 5 M and 1.5 M records.
FETCHES = {"fetch of 100 B records": ("100 B, 256 KiB a request", 2084),
           "fetch of 1 KiB records": ("1 KiB, 256 KiB a request", 6000)}
FETCH_CONNECTIONS = 2
SINK_MEMORY_MIB = 2048


def contender(name, options, memory=False):
    """The sink or Ringlog on an empty place, until the end of the `with`."""
    if name == "ringlog":
        return bench.running("ringlog", "sink", options.port, SETTINGS[options.level])
    more = ("--memory", SINK_MEMORY_MIB) if memory else ("--ack", options.level, "--segment-mib", options.segment_mib)
    return Server("append-ring", work(), "--threads", SHARDS, *more, port=options.port)


def work():
    """Where the sink's segments are, from round to round."""
    return os.path.join(bench.kafkatools.CACHE, "work", f"sink-{os.getpid()}-segments")


def produce_rows(name, options, rows):
    """One broker for all rows; a topic and a warm-up of its own for each."""
    with contender(name, options) as server:
        for number, row in enumerate(rows):
            topic = f"t{number}"
            raw("create", server.address, topic, PARTITIONS)
            raw("produce", server.address, topic, PARTITIONS, *ROWS[row], "--seconds", options.warmup)
            yield row, measured(server, "produce", topic, PARTITIONS, *ROWS[row], "--seconds", options.seconds)
            if name != "sink":
                subprocess.run([binary(), "topic", "delete", topic, "--bootstrap", server.address], check=True, timeout=60,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def fetch_row(name, options, row):
    filling, requests = FETCHES[row]
    with contender(name, options, memory=True) as server:
        raw("create", server.address, "t", PARTITIONS)
        raw("produce", server.address, "t", PARTITIONS, *ROWS[filling], "--requests", max(60, int(requests * options.fill)))
        reading = ("fetch", "t", PARTITIONS, "--connections", FETCH_CONNECTIONS)
        raw(reading[0], server.address, *reading[1:], "--seconds", options.warmup)
        return measured(server, *reading, "--seconds", options.seconds)


def one_round(number, options):
    """(contender, row, figures, other CPU) of every run."""
    names = bench.in_turn(("sink", "ringlog"), number)
    rows = [row for row in ROWS if re.search(options.only, row)]
    runs = []
    for name in names if rows else ():
        runs += [(name, row, *found) for row, found in produce_rows(name, options, rows)]
    for row in FETCHES:
        if re.search(options.only, row):
            runs += [(name, row, *fetch_row(name, options, row)) for name in names]
    for name, row, found, other in runs:
        print(f"{number} {name:8} {row:26}" + "".join(f" {found[f]:10.4g} {f}" for f in FIGURES) + f"  other CPU {other:.0%}", flush=True)
    return runs


def page(options, rounds):
    runs = [run for found in rounds for run in found]
    lines = ["# Ringlog beside a bare io_uring sink", "", *bench.facts([run[3] for run in runs]),
             f"- {len(rounds)} alternate rounds of {options.seconds:g} s, `{options.level}`; {SHARDS} shards, {SHARDS} threads of the sink, {PARTITIONS} partitions",
             "- share: Ringlog's figure to the sink's of the same round; min / **median** / max", "",
             "| row | figure | sink | Ringlog | share of the sink |", "| --- | --- | ---: | ---: | ---: |"]
    for row in dict.fromkeys(run[1] for run in runs):
        for figure in FIGURES:
            sink, ours = ([run[2][figure] for run in runs if run[:2] == (name, row)] for name in ("sink", "ringlog"))
            shares = [mine / floor for mine, floor in zip(ours, sink) if floor > 0]
            lines.append(f"| {row} | {figure} | {bench.spread(sink)} | {bench.spread(ours)} | {bench.spread(shares)} |")
    return "\n".join(lines) + "\n"


def save(options, rounds, text):
    results = os.path.join(ROOT, "perf", "results", options.name)
    with open(f"{results}.md", "w") as f:
        f.write(text)
    with open(f"{results}.tsv", "w") as f:
        f.write("\t".join(["round", "contender", "row", *FIGURES, "other CPU"]) + "\n")
        for number, runs in enumerate(rounds):
            f.writelines("\t".join([str(number), *run[:2], *(f"{run[2][x]:.6g}" for x in FIGURES), f"{run[3]:.3f}"]) + "\n" for run in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--warmup", type=float, default=2)
    parser.add_argument("--fill", type=float, default=1, help="multiplies what is written before a fetch row")
    parser.add_argument("--segment-mib", type=int, default=1024)
    parser.add_argument("--only", default="", help="regular expression on the rows")
    parser.add_argument("--level", choices=SETTINGS, default="written")
    parser.add_argument("--name", default="sink")
    parser.add_argument("--port", type=int, default=24200, help="first port tried")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.warmup, options.fill, options.segment_mib = 1, 0.5, 0.2, 0.05, 128
    # Ends by way of the finally blocks: no broker stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    build()
    try:
        rounds = [one_round(number, options) for number in range(options.rounds)]
        text = page(options, rounds)
    finally:
        shutil.rmtree(work(), ignore_errors=True)
    print(text)
    if not options.quick:
        save(options, rounds, text)
    first = [run for found in rounds for run in found if run[1] == next(iter(ROWS))]
    if first:
        share = statistics.median(run[2]["MB/s"] for run in first if run[0] == "ringlog") / statistics.median(
            run[2]["MB/s"] for run in first if run[0] == "sink")
        print(f"{next(iter(ROWS))}: {share:.0%} of the sink's throughput")


if __name__ == "__main__":
    main()
