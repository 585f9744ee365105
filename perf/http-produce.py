#!/usr/bin/env python3
"""perf/http-produce.py [--check] [--requests N] [--repeat N] [--out FILE]: what POST /produce does, by perf/http-produce.jmx.

JMeter runs the plan against a broker of its own for each number of users and acknowledgement, in rounds that alternate; then what a steady
load over Kafka's protocol sees while HTTP is idle, while 10 users produce over it, and while the same users produce to a second broker:
there JMeter and HTTP take the same CPU and disk, but not from this broker, so the difference of the two is what HTTP does to the data path.
With --check a short run only: every request acknowledged, every record there to be read. Prints a table in Markdown (--out: a file). JMeter's jars come from Maven
into ${XDG_CACHE_HOME:-~/.cache}/ringlog-tests. RINGLOG names the binary (else target/release/ringlog), PORT the first port (19800).
"""
import argparse
import csv
import glob
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tests", "clients"))
import bench  # noqa: E402
from broker import Broker, binary, free_port  # noqa: E402

CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ringlog-tests")
HOME = os.path.join(CACHE, "jmeter-5.6.3")
PARTITIONS = 6


def run(*command, timeout=600, **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def install():
    """A home as JMeter wants it: its jars and its settings."""
    if os.path.exists(os.path.join(HOME, "bin", "jmeter.properties")):
        return
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as home:
        run("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={home}/lib", cwd=os.path.join(HERE, "jmeter"))
        os.makedirs(f"{home}/lib/ext")
        for jar in glob.glob(f"{home}/lib/ApacheJMeter_*.jar"):
            shutil.move(jar, f"{home}/lib/ext")
        with zipfile.ZipFile(glob.glob(f"{home}/lib/ext/ApacheJMeter_config-*.jar")[0]) as settings:
            settings.extractall(home, [name for name in settings.namelist() if name.startswith("bin/") and name.endswith(".properties")])
        shutil.rmtree(HOME, ignore_errors=True)
        shutil.copytree(home, HOME)


class Http:
    """A broker with HTTP, in a directory of its own."""

    def __init__(self, directory):
        self.dir = directory
        self.broker = Broker(os.path.join(directory, "broker"), free_port(int(os.environ.get("PORT", "19800"))),
                             ["ringlog.http.listener=http://127.0.0.1:0", "ringlog.http.connections.max=256"])
        self.broker.start()
        with open(os.path.join(self.broker.dir, "broker.out"), encoding="utf-8") as out:
            self.port = out.read().split()[2].rsplit(":", 1)[1]
        self.topics = 0

    def ringlog(self, *command):
        return run(binary(), *command, env=dict(os.environ, RINGLOG_BOOTSTRAP=self.broker.address))

    def topic(self):
        self.topics += 1
        name = f"http-{self.topics}"
        self.ringlog("topic", "create", name, "--partitions", str(PARTITIONS))
        return name

    def jmeter(self, topic, users, loops, acks, pause_ms=0):
        """Runs the plan, each user pausing between its requests; the samples as (elapsed ms, whether all was well), and the time between first and last."""
        out = os.path.join(self.dir, f"{topic}.jtl")
        run("java", "-Xmx512m", f"-Djmeter.home={HOME}", "-cp", f"{HOME}/lib/*:{HOME}/lib/ext/*", "org.apache.jmeter.NewDriver", "-n",
            "-t", os.path.join(HERE, "http-produce.jmx"), "-l", out, "-j", os.path.join(self.dir, "jmeter.log"), f"-Jport={self.port}",
            f"-Jtopic={topic}", f"-Jthreads={users}", f"-Jloops={loops}", f"-Jacks={acks}", f"-Jpause_ms={pause_ms}", timeout=1800, cwd=self.dir)
        with open(out, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        begun = [int(row["timeStamp"]) for row in rows]
        ended = [int(row["timeStamp"]) + int(row["elapsed"]) for row in rows]
        samples = [(int(row["elapsed"]), row["success"] == "true" and row["responseCode"] == "200") for row in rows]
        return samples, (max(ended) - min(begun)) / 1000


def check(http):
    topic = http.topic()
    samples, _ = http.jmeter(topic, 10, 20, "all")
    refused = sum(not good for _, good in samples)
    keys = http.ringlog("consume", topic, "--from", "beginning", "--no-follow", "--format", "{key}").split()
    good = len(samples) == 200 and refused == 0 and len(keys) == 200 and len(set(keys)) == 10
    print(f"{'ok   ' if good else 'FAIL '} JMeter: 10 users, {len(samples)} requests, {refused} refused, {len(keys)} records of {len(set(keys))} users read")
    return good


def measured(http, users, acks, requests):
    before = bench.cpu_s(http.broker.pid())
    samples, seconds = http.jmeter(http.topic(), users, max(1, requests // users), acks)
    cpu = bench.cpu_s(http.broker.pid()) - before
    took = sorted(elapsed for elapsed, _ in samples)
    at = lambda part: took[min(len(took) - 1, int(len(took) * part))]
    return {"users": users, "acks": acks, "per_second": len(samples) / seconds, "refused": sum(not good for _, good in samples),
            "p50": at(0.5), "p99": at(0.99), "max": took[-1], "cpu_us": cpu * 1e6 / len(samples)}


def spread(values, digits=0):
    """The median, and in brackets the least and the most."""
    return "{1:,.{0}f} ({2:,.{0}f}–{3:,.{0}f})".format(digits, statistics.median(values), min(values), max(values))


def steady(http, to, users, options):
    """Percentiles of a load over Kafka's protocol on `http`, while so many users, each pausing between its requests, produce to the broker `to`."""
    report = os.path.join(http.dir, "load.json")
    seconds, warmup = options.seconds, 12 if users else 2  # JMeter's start takes several seconds of both cores
    load = subprocess.Popen([binary(), "load", "--quiet", "--bootstrap", http.broker.address, "--rate", "2000", "--warmup", f"{warmup}s",
                             "--duration", f"{seconds}s", "--max-lag", "1h", "--json", report], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    rate = 0.0
    if users:
        samples, took = to.jmeter(to.topic(), users, (seconds + warmup) * 1000 // options.pause_ms, "all", options.pause_ms)
        rate = len(samples) / took
    load.wait(seconds + 120)
    with open(report, encoding="utf-8") as file:
        ack = json.load(file)["latency"]["ack"]
    return {"rate": rate, "p50": ack["p50_ns"] / 1e6, "p99": ack["p99_ns"] / 1e6, "p99.9": ack["p99_9_ns"] / 1e6}


def neighbours(http, options):
    """The table of what a steady load sees beside HTTP."""
    lines = ["", f"The same broker under 2,000 records/s of 1 KiB over Kafka's protocol (`ringlog load --rate 2000`, acks=all), its acknowledgements while "
             f"10 users produce over HTTP, with {options.pause_ms} ms between their requests, to a second broker and to this one. Medians of {options.beside} rounds in turn, in brackets the least and the most:", "",
             "| HTTP meanwhile | HTTP requests/s | p50 ms | p99 ms | p99.9 ms |", "|:--|--:|--:|--:|--:|"]
    directory = os.path.join(http.dir, "second")
    os.makedirs(directory)
    second = Http(directory)
    try:
        cases = [("none", second, 0), ("to a second broker", second, 10), ("to this broker", http, 10)]
        rounds = []
        for number in range(options.beside):
            rounds.append({case: steady(http, to, users, options) for case, to, users in bench.in_turn(cases, number)})
    finally:
        second.broker.stop()
    for case, _, _ in cases:
        show = lambda name, digits: spread([one[case][name] for one in rounds], digits)
        lines.append(f"| {case} | {show('rate', 0)} | {show('p50', 2)} | {show('p99', 2)} | {show('p99.9', 2)} |")
    return lines


def table(http, options):
    commit = run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    lines = ["# Produce over HTTP", "", f"`perf/http-produce.py --requests {options.requests} --repeat {options.repeat}` at {commit}, "
             f"{time.strftime('%Y-%m-%d', time.gmtime())}: {os.cpu_count()} cores, Linux {platform.release()}; JMeter 5.6.3 on the same machine. One record of 100 "
             f"bytes a request, {PARTITIONS} partitions. Load average at the start {options.load_average:.1f}. Medians of {options.repeat} rounds, in brackets the least and the most.", "",
             "| users | acks | requests/s | p50 ms | p99 ms | max ms | broker CPU us/request | refused |", "|--:|:--|--:|--:|--:|--:|--:|--:|"]
    kinds = [(users, acks) for users in (10, 100) for acks in ("all", "1", "0")]
    measured(http, 10, "all", options.requests)  # not counted: JMeter, the broker and the disk warm up
    rounds = [[measured(http, users, acks, options.requests) for users, acks in kinds] for _ in range(options.repeat)]
    for index, (users, acks) in enumerate(kinds):
        of = lambda name: [one[index][name] for one in rounds]
        show = lambda name: spread(of(name))
        lines.append(f"| {users} | {acks} | {show('per_second')} | {show('p50')} | {show('p99')} | {show('max')} | {show('cpu_us')} | {sum(of('refused'))} |")
    lines += neighbours(http, options)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--beside", type=int, default=5, help="rounds of the load beside HTTP")
    parser.add_argument("--pause-ms", type=int, default=20, help="what a user beside it waits between its requests")
    parser.add_argument("--out")
    options = parser.parse_args()
    options.load_average = os.getloadavg()[0]
    install()
    directory = tempfile.mkdtemp(prefix="http-", dir=CACHE)
    http = Http(directory)
    try:
        if options.check:
            good = check(http)
            print(f"\n{int(good)} passed, {int(not good)} failed")
            return 0 if good else 1
        text = table(http, options)
        print(text)
        if options.out:
            with open(options.out, "w", encoding="utf-8") as file:
                file.write(text)
        return 0
    finally:
        http.broker.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
