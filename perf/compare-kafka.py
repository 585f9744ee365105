#!/usr/bin/env python3
"""perf/compare-kafka.py [--rounds 5] [--scale 1] [--only REGEX] [--name NAME]: Ringlog beside Apache Kafka on this machine.

Each round starts every broker in turn on an empty directory, runs all tests against it and stops it; the order turns round
from round to round, so that a slow minute of the machine does not always meet the same one. Clients: Kafka's producer-perf,
consumer-perf and end-to-end tool, and `ringlog load`, whose cost is small enough to leave the machine to the broker.
Writes perf/results/NAME.md (min, median, max of the rounds; machine; commit) and NAME.tsv (every run).

An acknowledgement promises one of two things, and only like is set beside like: `written` (the kernel has the write: survives
kill -9; Kafka's only promise) and `durable` (on stable media). Kafka is made durable by flush.messages=1 on the topic; Ringlog
is durable by default at acks=all and made to promise less by ringlog.ack.level.all=written.

Needs a JDK 17, Maven (Kafka's jars go into the cache that tests/clients uses) and target/release/ringlog. Takes about six
minutes a round; --scale 0.1 for a look.
"""
import argparse
import datetime
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
import kafkatools  # noqa: E402
import prepare  # noqa: E402
from bench import ROOT, TICK, cpu_s, rss_mib  # noqa: E402
from broker import Broker, answers, binary, free_port  # noqa: E402

GB = 1e9
# Contenders: the broker and its settings. The second Ringlog only runs what is asked of `written` at acks=all.
CONTENDERS = {
    "kafka": ("kafka", []),
    "ringlog": ("ringlog", []),
    "ringlog-written": ("ringlog", ["ringlog.ack.level.all=written"]),
}
# Figures: unit, and whether more is better.
FIGURES = {
    "MB/s": True, "avg ms": False, "p50 ms": False, "p99 ms": False, "p99.9 ms": False,
    "broker core-s/GB": False, "RSS MiB": False, "ms": False,
}


def machine_busy_seconds():
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / TICK


class Round:
    """One contender's tests in one round."""

    def __init__(self, options, number, contender):
        self.options, self.number, self.contender = options, number, contender
        self.kind, settings = CONTENDERS[contender]
        os.environ["BROKER"] = self.kind
        self.dir = os.path.join(kafkatools.CACHE, "work", f"perf-{os.getpid()}-{contender}")
        shutil.rmtree(self.dir, ignore_errors=True)
        self.broker = Broker(self.dir, free_port(options.port), settings)
        self.rows = []

    def run(self):
        try:
            self._start()
            for test in tests(self):
                self._test(*test)
            self._row("broker at the end", "-", {"RSS MiB": rss_mib(self.broker.pid())})
        finally:
            self.broker.stop()
            shutil.rmtree(self.dir, ignore_errors=True)
        return self.rows

    def _start(self):
        """The first start makes the directory; the second is timed, to the first answered ApiVersions."""
        self.broker.start()
        self.broker.stop()
        began = time.monotonic()
        self.broker.start(poll_s=0.001)
        while not answers(self.broker.port):
            time.sleep(0.001)
        self._row("start to first answer", "-", {"ms": (time.monotonic() - began) * 1000})
        self._row("broker at the start", "-", {"RSS MiB": rss_mib(self.broker.pid())})
        # A Java broker compiles itself while it works: that is not what the tests are to measure.
        self.create("warm")
        for size in (100, 1024):
            subprocess.run(producer(self, "warm", size, 1e6, "acks=all"), stdout=subprocess.DEVNULL, timeout=300)
        subprocess.run(consumer(self, "warm", 2e6), stdout=subprocess.DEVNULL, timeout=300)
        self.delete("warm")

    def n(self, count):
        return max(1000, int(count * self.options.scale))

    def create(self, topic, *config):
        code, out, err = kafkatools.run("topics", "--bootstrap-server", self.broker.address, "--create", "--topic", topic,
                                        "--partitions", 6, *(w for c in config for w in ("--config", c)))
        if code:
            raise RuntimeError(out + err)

    def delete(self, topic):
        kafkatools.run("topics", "--bootstrap-server", self.broker.address, "--delete", "--topic", topic)

    def _test(self, name, level, command, parse, topic_config=None, topic=None, keep=False):
        if not re.search(self.options.only, name):
            return
        if topic_config is not None:
            self.create(topic, *topic_config)
        os.sync()
        pid = self.broker.pid()
        broker, busy, began = cpu_s(pid), machine_busy_seconds(), time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            out = done.stdout + done.stderr
        except subprocess.TimeoutExpired as e:
            out = f"timed out {e}"
        took = time.monotonic() - began
        used = cpu_s(pid) - broker
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        client = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        other = max(0.0, machine_busy_seconds() - busy - used - client) / took / os.cpu_count()
        try:
            figures, volume = parse(out)
            if volume:
                figures["broker core-s/GB"] = used / (volume / GB)
            self._row(name, level, figures, other)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as e:
            print(f"{self.contender} {name}: no result ({e!r}): {out[-500:]}", file=sys.stderr, flush=True)
        if topic_config is not None and not keep:
            self.delete(topic)

    def _row(self, test, level, figures, other=0.0):
        self.rows += [(self.number, self.contender, test, level, name, value, other) for name, value in figures.items()]
        shown = "  ".join(f"{k} {v:.4g}" for k, v in figures.items())
        print(f"{self.number} {self.contender:16} {test:34} {level:8} {shown}  other CPU {other:.0%}", flush=True)


def tests(r):
    """(name, level, command, parser, topic config or None for no topic of its own, topic, keep) of what a contender runs."""
    levels = {"kafka": ("written", "durable"), "ringlog": ("durable",), "ringlog-written": ("written",)}[r.contender]
    flush = {"durable": ["flush.messages=1"] if r.kind == "kafka" else [], "written": []}
    for size, label, count in ((100, "100 B", 3e6), (1024, "1 KiB", 1e6)):
        if r.contender != "ringlog-written":
            yield (f"producer-perf {label} acks=1", "written", producer(r, "p", size, count, "acks=1"), parse_producer(size), [], "p")
        for level in levels:
            fewer = 0.3 if r.contender == "kafka" and level == "durable" else 1
            keep = level == levels[0] and r.contender != "ringlog-written"
            topic = f"keep{size}" if keep else "p"
            yield (f"producer-perf {label} acks=all", level, producer(r, topic, size, count * fewer, "acks=all"), parse_producer(size),
                   flush[level], topic, keep)
        if r.contender != "ringlog-written":
            yield f"consumer-perf {label}", "-", consumer(r, f"keep{size}", count), parse_consumer
    for level in levels:
        yield ("end to end, one by one, acks=all", level,
               kafkatools.command("e2e", "--bootstrap-server", r.broker.address, "--topic", "e", "--num-records", r.n(5000),
                                  "--producer-acks", "all", "--record-size", 100), parse_e2e, flush[level], "e")
    for level in levels:
        config = [w for c in flush[level] for w in ("--create-config", c)]
        for size, label in ((100, "100 B"), (1024, "1 KiB")):
            yield (f"ringlog load {label} acks=all, maximum", level,
                   load(r, "--max", "--record-size", size, "--batch-bytes", "256KiB", "--producers", 2, "--consumers", 0, *config),
                   parse_load)
        yield ("ringlog load 1 KiB, 10 MB/s, to the consumer", level,
               load(r, "--rate", "10MB/s", "--record-size", 1024, "--producers", 4, "--consumers", 1, "--linger", "0", *config),
               parse_load)


def producer(r, topic, size, count, acks):
    return kafkatools.command(
        "producer-perf", "--bootstrap-server", r.broker.address, "--topic", topic, "--num-records", r.n(count), "--record-size", size,
        "--throughput", -1, "--warmup-records", r.n(count) * 3 // 10, "--reporting-interval", 600000, "--command-property", acks,
        "batch.size=262144", "linger.ms=10", jvm=kafkatools.long_lived("512m"))


def consumer(r, topic, count):
    return kafkatools.command("consumer-perf", "--bootstrap-server", r.broker.address, "--topic", topic, "--num-records",
                              r.n(count), "--timeout", 60000, jvm=kafkatools.long_lived("512m"))


def load(r, *args):
    seconds = max(2, int(10 * r.options.scale))
    return [binary(), "load", "--bootstrap", r.broker.address, "--duration", f"{seconds}s", "--warmup", f"{max(1, seconds // 3)}s",
            "--acks", "all", "--json", "-", "--quiet", *map(str, args)]


def parse_producer(size):
    """The steady state behind the warm-up; the volume is the whole run's."""
    def parse(out):
        m = [re.search(r"^(\d+) (?:steady state )?records sent, ([\d.]+) records/sec .*? ([\d.]+) ms avg latency, .*? (\d+) ms 50th, "
                       r"\d+ ms 95th, (\d+) ms 99th, (\d+) ms 99.9th", line) for line in out.splitlines()]
        m = [x for x in m if x]
        last, sent = m[-1], max(int(x[1]) for x in m)
        rate = float(last[2])
        return {"MB/s": rate * size / 1e6, "p50 ms": float(last[4]), "p99 ms": float(last[5]),
                "p99.9 ms": float(last[6])}, sent * size
    return parse


def parse_consumer(out):
    fields = [line for line in out.splitlines() if re.match(r"\d{4}-", line)][-1].split(", ")
    mib, fetch_ms = float(fields[2]), float(fields[7])
    return {"MB/s": mib * 1048.576 / fetch_ms}, mib * 1048576


def parse_e2e(out):
    p = re.search(r"50th = (\d+), 99th = (\d+), 99.9th = (\d+)", out)
    average = re.search(r"Avg latency: ([\d.]+) ms", out)
    return {"avg ms": float(average[1]), "p99 ms": float(p[2]), "p99.9 ms": float(p[3])}, 0


def parse_load(out):
    return load_figures(json.loads(out[out.index("{"):out.rindex("}") + 1]))


def load_figures(report):
    """End-to-end latency where the run had consumers, else the acknowledgement's; both count from the planned time."""
    if report["verdict"] != "ok":
        raise ValueError("; ".join(report["reasons"]))
    latency = report["latency"].get("e2e") or report["latency"]["ack"]
    figures = {"MB/s": report["produced"]["megabytes_per_second"], "p50 ms": latency["p50_ns"] / 1e6,
               "p99 ms": latency["p99_ns"] / 1e6, "p99.9 ms": latency["p99_9_ns"] / 1e6}
    return figures, report["produced"]["records"] * report["asked"]["record_bytes"]


def spread(values):
    def number(v):
        return f"{v:,.0f}" if v >= 1000 else f"{v:.3g}"
    return f"{number(min(values))} / **{number(statistics.median(values))}** / {number(max(values))}" if values else "-"


def tables(rows):
    """A line a test, level and figure: Kafka, Ringlog, and how far Ringlog's median is ahead (above 1: better)."""
    found = {}
    for _, contender, test, level, figure, value, _ in rows:
        found.setdefault((test, level, figure), {}).setdefault(contender.split("-")[0], []).append(value)
    lines = ["| test | ack level | figure | Apache Kafka (min / median / max) | Ringlog (min / median / max) | ahead |",
             "| --- | --- | --- | ---: | ---: | ---: |"]
    for (test, level, figure), by in found.items():
        kafka, ours = by.get("kafka", []), by.get("ringlog", [])
        ahead = "-"
        if kafka and ours and statistics.median(kafka) > 0 and statistics.median(ours) > 0:
            ratio = statistics.median(ours) / statistics.median(kafka)
            ahead = f"{ratio if FIGURES[figure] else 1 / ratio:.2f} x"
        lines.append(f"| {test} | {level} | {figure} | {spread(kafka)} | {spread(ours)} | {ahead} |")
    return "\n".join(lines)


def facts(options, rows):
    other = statistics.median([r[6] for r in rows]) if rows else 0
    return "\n".join([
        f"- command: `perf/compare-kafka.py --rounds {options.rounds} --scale {options.scale:g}`",
        f"- commit: {bench.commit()}",
        f"- machine: {bench.machine()}",
        "- Apache Kafka 4.3.1, one KRaft node, 1 GiB heap, JDK 17; Ringlog with 2 shards; clients on the same machine",
        "- producers: 6 partitions, batch.size 262144, linger 10 ms; the figures leave out the first 30 % of the records",
        f"- CPU taken by neither broker nor client: {other:.0%} (median of the runs)",
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies record counts and durations")
    parser.add_argument("--only", default="", help="regular expression on the names of the tests")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="those to run, of " + ", ".join(CONTENDERS))
    parser.add_argument("--name", default=f"compare-kafka-{datetime.date.today()}", help="name of the result files")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "19592")), help="first port tried")
    options = parser.parse_args()
    # Ends by way of the finally blocks: no broker stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    prepare.kafka_jars()
    rows, names = [], options.contenders.split(",")
    base = os.path.join(ROOT, "perf", "results", options.name)
    os.makedirs(os.path.dirname(base), exist_ok=True)
    for number in range(1, options.rounds + 1):
        for contender in names if number % 2 else names[::-1]:
            rows += Round(options, number, contender).run()
        with open(base + ".tsv", "w") as f:
            f.write("round\tbroker\ttest\tlevel\tfigure\tvalue\tother_cpu\n")
            f.writelines("\t".join([str(r[0]), *r[1:5], f"{r[5]:.6g}", f"{r[6]:.3f}"]) + "\n" for r in rows)
        with open(base + ".md", "w") as f:
            f.write(f"# Ringlog beside Apache Kafka\n\n{facts(options, rows)}\n\n{tables(rows)}\n")
    print(tables(rows))


if __name__ == "__main__":
    main()
