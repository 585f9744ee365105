#!/usr/bin/env python3
"""perf/transactions.py [--rounds 5] [--seconds 10] [--producers 1,8] [--records 1,100] [--name NAME]: transactions a second and their
latency, beside Apache Kafka's, in alternate rounds.

`ringlog load --transactional` is the client of both: each producer has one transaction at a time, writes its records to 6 partitions and
commits; all is read back and checked. Three contenders: Apache Kafka, whose acknowledgements promise what the page cache holds;
Ringlog told to promise the same (written); and Ringlog as it is (durable: on stable media). Each round starts every one in turn on an empty
directory, the order turning round. Writes perf/results/NAME.md; needs what tests/clients needs, and target/release/ringlog.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
import prepare  # noqa: E402
from broker import binary  # noqa: E402

CONTENDERS = {
    "Kafka, written": ("kafka", []),
    "Ringlog, written": ("ringlog", ["ringlog.ack.level.all=written", "ringlog.ack.level.acks1=written"]),
    "Ringlog, durable": ("ringlog", []),
}
PARTITIONS = 6
FIGURES = (("transactions/s", lambda report: report["transactions_per_second"]),
           ("transaction p50, ms", lambda report: report["latency"]["transaction"]["p50_ns"] / 1e6),
           ("p99, ms", lambda report: report["latency"]["transaction"]["p99_ns"] / 1e6),
           ("commit alone p50, ms", lambda report: report["latency"]["end"]["p50_ns"] / 1e6),
           ("p99, ms", lambda report: report["latency"]["end"]["p99_ns"] / 1e6))


def load(broker, producers, records, seconds, warmup):
    """One run's report."""
    command = [binary(), "load", "--transactional", "--bootstrap", broker.address, "--topic", f"t{producers}-{records}",
               "--partitions", PARTITIONS, "--producers", producers, "--transaction-records", records, "--record-size", 100,
               "--warmup", f"{warmup}s", "--duration", f"{seconds}s", "--quiet", "--json", "-"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600 + 2 * seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-600:]}{done.stderr[-600:]}")
    return json.loads(done.stdout)


def one(name, options, number):
    kind, settings = CONTENDERS[name]
    with bench.running(kind, "transactions", options.port, settings) as broker:
        found = {}
        for producers in options.producers:
            for records in options.records:
                report = load(broker, producers, records, options.seconds, options.warmup)
                found[producers, records] = [figure(report) for _, figure in FIGURES]
                print(f"round {number} {name}: {producers} producers, {records} records: "
                      + ", ".join(f"{value:.1f} {title}" for (title, _), value in zip(FIGURES, found[producers, records])), flush=True)
        return found


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("seconds", 10), ("warmup", 5), ("port", 19792)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--producers", type=numbers, default=[1, 8])
    parser.add_argument("--records", type=numbers, default=[1, 100])
    parser.add_argument("--name", default="transactions")
    options = parser.parse_args()
    prepare.kafka_jars()
    runs = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
            runs[name].append(one(name, options, number))
    lines = ["# Transactions", "", f"- command: `{' '.join(['perf/transactions.py', *sys.argv[1:]])}`",
             f"- {bench.origin()}",
             f"- {options.rounds} alternate rounds, {options.seconds} s each after {options.warmup} s of warm-up; records of 100 B over {PARTITIONS} "
             "partitions; median (min to max)"]
    for producers in options.producers:
        for records in options.records:
            lines += ["", f"## Producers: {producers}; records of a transaction: {records}", "",
                      "| | " + " | ".join(title for title, _ in FIGURES) + " |", "| --- |" + " ---: |" * len(FIGURES)]
            for name, rounds in runs.items():
                columns = zip(*(found[producers, records] for found in rounds))
                cells = [f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" for values in columns]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
    bench.save(options.name, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
