#!/usr/bin/env python3
"""perf/scenarios.py [--rounds 5] [--scale 1] [--only REGEX] [--name NAME] [--list]: every scenario of perf/scenarios against Ringlog
and Apache Kafka on this machine, in alternate rounds.

A scenario is a TOML file: title, why, level (what an acknowledgement promises: memory, written or durable; each broker is set up to
promise that and no more), optional `kafka_level` where Kafka is to promise less, optional `seconds` (10) of measuring, `default = false` for those that run only when --only names them, and its steps. A
step is a line of options of `ringlog load`; `once` prepares (with no warm-up), `background` runs beside what follows, `measured` marks
the one whose figures count (the last by default), `drop_caches` empties the page cache before it, as root.

Each round starts every broker in turn on an empty directory, warms it up, runs the scenarios and stops it; the order turns round from round to
round. Writes perf/results/NAME.md with `ringlog compare`'s figures and verdicts, NAME.tsv, and with --keep-json DIR every report.

Needs target/release/ringlog, a JDK 17 and Maven (Kafka's jars go into the cache that tests/clients uses). About half a minute a scenario,
broker and round; --scale 0.2 for a look. Exit codes: 0 all ran, 1 a run failed or has no figures.
"""
import argparse
import datetime
import glob
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import tomllib

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
import prepare  # noqa: E402
from bench import ROOT  # noqa: E402
from broker import binary  # noqa: E402

# What a broker is told so that it promises the level and no more: settings of ours at its start, of Kafka on each topic.
RINGLOG_SETTINGS = {"memory": [], "durable": [],
                    "written": ["ringlog.ack.level.acks1=written", "ringlog.ack.level.all=written"]}
KAFKA_TOPIC = {"memory": [], "written": [], "durable": ["--create-config", "flush.messages=1"]}
# What the two sides may differ in: how a level is reached, and what was negotiated.
ALLOWED = "topic_configs"
DURATION_OPTIONS = ("--records", "--duration")


def load_scenarios(only):
    found = []
    for path in sorted(glob.glob(os.path.join(ROOT, "perf", "scenarios", "*.toml"))):
        with open(path, "rb") as f:
            scenario = tomllib.load(f)
        scenario["name"] = os.path.basename(path)[:-5]
        if scenario["level"] not in RINGLOG_SETTINGS or not scenario["step"]:
            raise ValueError(f"{path}: no level or no steps")
        if re.search(only, scenario["name"]) and (only or scenario.get("default", True)):
            found.append(scenario)
    return found


def kafka_level(scenario):
    return scenario.get("kafka_level", scenario["level"])


class Run:
    """One scenario against one broker."""

    def __init__(self, options, scenario, kind, broker, reports):
        self.options, self.scenario, self.kind, self.broker, self.reports = options, scenario, kind, broker, reports

    def execute(self):
        """The measured step's report, or what went wrong."""
        steps = self.scenario["step"]
        measured = next((s for s in steps if s.get("measured")), steps[-1])
        beside, report = [], None
        try:
            for step in steps:
                if step.get("drop_caches"):
                    drop_caches()
                command = self.command(step)
                if step.get("background"):
                    beside.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                   stderr=subprocess.DEVNULL))
                    continue
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                      timeout=1200 + 200 * self.seconds())
                if step is measured:
                    report = json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr.strip()[-300:]
                elif done.returncode not in (0, 2):
                    return f"step {step.get('name', '?')}: {done.stderr.strip()[-300:]}"
            for process in beside:
                process.wait(timeout=600)
            return report
        finally:
            for process in beside:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def seconds(self):
        return max(1, round(self.scenario.get("seconds", 10) * self.options.scale))

    def command(self, step):
        args = shlex.split(step["args"])
        command = [binary(), "load", "--bootstrap", self.broker.address, "--broker-pid", str(self.broker.pid()), "--quiet",
                   "--json", "-", *args]
        if "--records" in args:
            at = command.index("--records") + 1
            command[at] = str(max(1000, int(int(command[at]) * self.options.scale)))
        elif "--producers 0" not in step["args"]:
            command += ["--duration", f"{self.seconds()}s"]
        if not step.get("once") and "--producers 0" not in step["args"]:
            command += ["--warmup", f"{max(1, self.seconds() // 3)}s"]
        return command + (KAFKA_TOPIC[kafka_level(self.scenario)] if self.kind == "kafka" else [])


def drop_caches():
    os.sync()
    if os.geteuid() == 0:
        try:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("1")
        except OSError as error:
            print(f"the page cache is not dropped: {error}", file=sys.stderr)


def warm_up(address):
    """A Java broker compiles itself while it works: that is not what is to be measured."""
    for args in ("--max --record-size 1024 --batch-bytes 64KiB --consumers 1 --duration 4s",
                 "--max --record-size 100 --keys 1000 --producers 10 --consumers 1 --duration 3s"):
        subprocess.run([binary(), "load", "--bootstrap", address, "--quiet", *args.split()], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


def contenders(scenarios):
    """(kind, settings, scenarios): a broker is started once a round for all that it is set up alike for."""
    groups = [("kafka", [], scenarios)]
    for settings in sorted({tuple(RINGLOG_SETTINGS[s["level"]]) for s in scenarios}):
        groups.append(("ringlog", list(settings),
                       [s for s in scenarios if tuple(RINGLOG_SETTINGS[s["level"]]) == settings]))
    return groups


def one_round(options, number, group, results):
    kind, settings, scenarios = group
    with bench.running(kind, "scenarios", options.port, settings) as broker:
        warm_up(broker.address)
        for scenario in scenarios:
            if broker.pid() is None:
                raise RuntimeError(f"the broker has ended:\n{broker.log_tail()}")
            report = Run(options, scenario, kind, broker, results).execute()
            results.setdefault(scenario["name"], {}).setdefault(kind, []).append(report)
            print(f"{number} {kind:8} {scenario['name']:22} {summary(report)}", flush=True)
            for topic in ("cold", "tail", "fan"):
                subprocess.run([binary(), "topic", "delete", topic, "--bootstrap", broker.address], timeout=60,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def summary(report):
    if not isinstance(report, dict):
        return f"no result: {report}"
    if report["kind"] == "search":
        return f"{report['search']['records_per_second']} records/s"
    flow = report["produced"] or report["consumed"]
    latency = report["latency"].get("ack") or report["latency"].get("e2e") or {}
    text = f"{flow['megabytes_per_second']:.1f} MB/s"
    if latency and report["produced"]:
        text += "".join(f"  {p[:-3].replace('_', '.')} {latency[p] / 1e6:.2f} ms" for p in ("p50_ns", "p99_ns", "p99_9_ns"))
    if report["broker"]:
        text += f"  {report['broker']['core_seconds_per_gb']:.2f} core-s/GB"
    return text + ("" if report["verdict"] == "ok" else f"  {report['verdict'].upper()}: {'; '.join(report['reasons'])}")


def compare(folder, name, by):
    """`ringlog compare` of Kafka as the base and Ringlog as the candidate."""
    paths = {}
    for kind, reports in by.items():
        good = [r for r in reports if isinstance(r, dict)]
        paths[kind] = []
        for number, report in enumerate(good):
            path = os.path.join(folder, f"{name}.{kind}.{number + 1}.json")
            with open(path, "w") as f:
                json.dump(report, f)
            paths[kind].append(path)
    if not paths.get("kafka") or not paths.get("ringlog"):
        return None
    done = subprocess.run([binary(), "compare", ",".join(paths["kafka"]), ",".join(paths["ringlog"]), "--allow", ALLOWED,
                           "--noise", "100", "--json", "-", "--quiet"], capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {"figures": [], "reasons": [done.stderr.strip()],
                                                                         "verdict": "invalid"}


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def section(scenario, by, comparison):
    theirs = f", of Kafka `{kafka_level(scenario)}`" if "kafka_level" in scenario else ""
    lines = [f"## {scenario['name']}: {scenario['title']}", "", f"{scenario['why']} Ack level: `{scenario['level']}`{theirs}.", ""]
    steps = "; ".join(f"`ringlog load {s['args']}`" for s in scenario["step"])
    lines += [steps, ""]
    if comparison is None or not comparison["figures"]:
        shown = comparison["reasons"] if comparison else []
        lines += [f"- {kind}: {summary(r)}" for kind, reports in by.items() for r in reports]
        return lines + [f"- not compared: {reason}" for reason in shown] + [""]
    lines += ["| figure | Apache Kafka (min / median / max) | Ringlog (min / median / max) | Ringlog to Kafka | |",
              "| --- | ---: | ---: | ---: | --- |"]
    for f in comparison["figures"]:
        spreads = [f"{number(f[s]['min'])} / **{number(f[s]['median'])}** / {number(f[s]['max'])}" for s in ("base", "candidate")]
        interval = f"{f['ratio']:.3g} ({f['ratio_low']:.3g} to {f['ratio_high']:.3g}, {f['confidence']:.0%})"
        lines.append(f"| {f['name']}, {f['unit']} | {spreads[0]} | {spreads[1]} | {interval} | {f['verdict']} |")
    return lines + [""] + [f"- {reason}" for reason in comparison["reasons"]]


def facts(options, results):
    reports = [r for by in results.values() for rs in by.values() for r in rs if isinstance(r, dict)]
    noise = [r["noise"]["other_cpu"] for r in reports if r.get("noise") and r["noise"]["other_cpu"] is not None]
    shown = f"{sorted(noise)[len(noise) // 2]:.0%} (median), {max(noise):.0%} (most)" if noise else "unknown"
    return [f"- command: `perf/scenarios.py --rounds {options.rounds} --scale {options.scale:g}"
            + (f" --only '{options.only}'" if options.only else "") + "`",
            f"- commit: {bench.commit()}", f"- machine: {bench.machine()}",
            "- Apache Kafka 4.3.1, one KRaft node, 1 GiB heap, JDK 17; Ringlog with 2 shards; clients on the same machine",
            f"- CPU of the machine that others took during a run: {shown}"]


def write(options, scenarios, results):
    base = os.path.join(ROOT, "perf", "results", options.name)
    os.makedirs(os.path.dirname(base), exist_ok=True)
    lines = ["# The scenarios, Ringlog beside Apache Kafka", "", *facts(options, results), ""]
    rows, complete = ["scenario\tbroker\tround\tverdict\tMB/s\tp50 ms\tp99 ms\tp99.9 ms\tcore-s/GB\tother CPU\n"], True
    with tempfile.TemporaryDirectory() as folder:
        for scenario in scenarios:
            by = results.get(scenario["name"], {})
            comparison = compare(options.keep_json or folder, scenario["name"], by)
            lines += section(scenario, by, comparison)
            for kind, reports in by.items():
                for number, report in enumerate(reports):
                    good = isinstance(report, dict)
                    complete &= good and report["verdict"] == "ok"
                    if good and report["kind"] == "run":
                        rows.append(row(scenario["name"], kind, number + 1, report))
    with open(base + ".md", "w") as f:
        f.write("\n".join(lines) + "\n")
    with open(base + ".tsv", "w") as f:
        f.writelines(rows)
    return complete


def row(name, kind, number, report):
    flow = report["produced"] or report["consumed"]
    latency = report["latency"].get("e2e") or report["latency"].get("ack") or {}
    values = [flow["megabytes_per_second"], *(latency.get(p, 0) / 1e6 for p in ("p50_ns", "p99_ns", "p99_9_ns")),
              (report["broker"] or {}).get("core_seconds_per_gb", 0), (report["noise"] or {}).get("other_cpu") or 0]
    return "\t".join([name, kind, str(number), report["verdict"], *(f"{v:.6g}" for v in values)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each broker; fewer than 4 reach no 95 %% confidence")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies record counts and durations")
    parser.add_argument("--only", default="", help="regular expression on the scenarios' names")
    parser.add_argument("--contenders", default="kafka,ringlog", help="brokers to run, of kafka, ringlog")
    parser.add_argument("--name", default=f"scenarios-{datetime.date.today()}", help="name of the result files")
    parser.add_argument("--keep-json", metavar="DIR", help="keep every report here")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "19692")), help="first port tried")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    options = parser.parse_args()
    scenarios = load_scenarios(options.only)
    if options.list:
        print("\n".join(f"{s['name']:22} {s['title']}" for s in scenarios))
        return 0
    if not scenarios:
        parser.error("no scenario has such a name")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the finally blocks: no broker stays behind
    if options.keep_json:
        os.makedirs(options.keep_json, exist_ok=True)
    wanted = options.contenders.split(",")
    if "kafka" in wanted:
        prepare.kafka_jars()
    groups = [group for group in contenders(scenarios) if group[0] in wanted]
    results, complete = {}, True
    for number in range(1, options.rounds + 1):
        for group in groups if number % 2 else groups[::-1]:
            one_round(options, number, group, results)
        complete = write(options, scenarios, results)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
