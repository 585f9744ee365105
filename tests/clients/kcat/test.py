"""kcat against a broker; see ../README.md. kcat sets the same headers on all records of a run, sends lines, and has no admin
calls: topics with several partitions are made with kafka-topics."""
import json
import os
import re
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import kafkatools  # noqa: E402
from kit import BOOTSTRAP, check, equal, main, restart_broker, restarted, until  # noqa: E402

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
# -E: a broker that is away for a moment is not the end.
BASE = ["kcat", "-E", "-b", BOOTSTRAP, "-X", "reconnect.backoff.max.ms=1000"]
GROUP = ["-J", "-u", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=10000", "-X", "heartbeat.interval.ms=300"]


def kcat(*args, stdin=""):
    done = subprocess.run([*BASE, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"kcat {args}: {done.stderr[-600:]}"
    return done.stdout


def create(topic, partitions=3):
    code, out, err = kafkatools.run("topics", "--bootstrap-server", BOOTSTRAP, "--create", "--topic", topic, "--partitions", partitions)
    equal(code, 0, out + err)


def line(i):
    """Record i as kcat sends it: a key, a value that is now and then empty (sent as null with -Z)."""
    return f"key-{i % 17}\t" + ("" if i % 50 == 1 else f"{i};" * (1 + i % 40)) + "\n"


def lines(start, end):
    return "".join(line(i) for i in range(start, end))


def shown(records):
    """What came back, in the form of line()."""
    return sorted(f"{r['key']}\t{r['payload'] or ''}\n" for r in records)


def sent(start, end):
    return sorted(line(i) for i in range(start, end))


class Member:
    """A kcat -G beside the check: its records, and the partitions that it says it holds."""

    def __init__(self, group, topic):
        self.process = subprocess.Popen([*BASE, *GROUP, "-G", group, topic], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.records, self.partitions = [], set()
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self._records, self._log)]
        for t in self.threads:
            t.start()

    def _records(self):
        for text in self.process.stdout:
            self.records.append(json.loads(text))

    def _log(self):
        for text in self.process.stderr:
            found = re.search(r"rebalanced \(memberid [^)]*\): (assigned|revoked): (.*)", text)
            if found:
                self.partitions = {int(p) for p in re.findall(r"\[(\d+)\]", found[2])} if found[1] == "assigned" else set()

    def places(self):
        return {(r["partition"], r["offset"]) for r in list(self.records)}

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        for t in self.threads:
            t.join(10)


@check("metadata, and a topic made by producing to it")
def _():
    kcat("-P", "-t", "kc-auto", stdin="one\n")
    equal(kcat("-C", "-t", "kc-auto", "-e", "-q"), "one\n")
    metadata = json.loads(kcat("-L", "-J"))
    equal([b["name"] for b in metadata["brokers"]], [BOOTSTRAP], "brokers")
    assert "kc-auto" in [t["topic"] for t in metadata["topics"]], metadata


for codec in CODECS:
    @check(f"produce and consume by group, {codec}")
    def _(codec=codec):
        topic = f"kc-{codec}"
        create(topic)
        kcat("-P", "-t", topic, "-K", "\t", "-Z", "-z", codec, "-H", "codec=" + codec, "-H", "empty=", stdin=lines(0, 500))
        records = [json.loads(r) for r in kcat(*GROUP, "-e", "-G", f"{topic}-g", topic).splitlines()]
        equal(shown(records), sent(0, 500), "what came back")
        assert all(r["headers"] == ["codec", codec, "empty", ""] and r["tstype"] == "create" for r in records), records[0]
        assert sum(r["payload"] is None for r in records) == 10, "null values"
        for p in range(3):
            got = [json.loads(r)["offset"] for r in kcat("-C", "-J", "-t", topic, "-p", p, "-o", 5, "-c", 10, "-e").splitlines()]
            equal(got, list(range(5, 15)), f"offsets of partition {p} from 5 on")


@check("committed offsets are where the group goes on")
def _():
    create("kc-commit")
    kcat("-P", "-t", "kc-commit", "-K", "\t", "-Z", stdin=lines(0, 300))
    runs = [[json.loads(r) for r in kcat(*GROUP, *some, "-G", "kc-commit-g", "kc-commit").splitlines()]
            for some in (["-c", 100], ["-e"])]
    equal((len(runs[0]), len(runs[1])), (100, 200), "records of the two runs")
    equal(shown(runs[0] + runs[1]), sent(0, 300), "both runs together")


@check("rebalance")
def _():
    create("kc-rebalance", 4)
    members = [Member("kc-rebalance-g", "kc-rebalance")]
    try:
        until("the first has all", lambda: members[0].partitions == {0, 1, 2, 3})
        members.append(Member("kc-rebalance-g", "kc-rebalance"))
        a, b = members
        until("they share", lambda: a.partitions and b.partitions and sorted([*a.partitions, *b.partitions]) == [0, 1, 2, 3])
        kcat("-P", "-t", "kc-rebalance", "-K", "\t", "-Z", stdin=lines(0, 300))
        until("all read by both", lambda: len(a.records) + len(b.records) >= 300)
        b.stop()
        until("the first has all again", lambda: a.partitions == {0, 1, 2, 3})
        kcat("-P", "-t", "kc-rebalance", "-K", "\t", "-Z", stdin=lines(300, 500))
        until("all read", lambda: len(a.places() | b.places()) >= 500)
    finally:
        for m in members:
            m.stop()
    # kcat commits every five seconds and not when partitions are taken away: what it had not committed may come again.
    once = {(r["partition"], r["offset"]): r for m in members for r in m.records}
    equal(shown(once.values()), sent(0, 500), "every record")


@check("broker restart in the middle, idempotent producer")
def _():
    create("kc-restart")
    n = 4000
    member = Member("kc-restart-g", "kc-restart")
    producer = subprocess.Popen([*BASE, "-P", "-t", "kc-restart", "-K", "\t", "-Z", "-z", "lz4", "-X", "enable.idempotence=true",
                                 "-X", "message.timeout.ms=100000", "-X", "linger.ms=5"], stdin=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
    try:
        producer.stdin.write(lines(0, n // 4))
        producer.stdin.flush()
        until("some of them read", lambda: len(member.records) >= n // 8)
        restart = restart_broker()
        for start in range(n // 4, n, 20):
            producer.stdin.write(lines(start, start + 20))
            producer.stdin.flush()
            if restart.poll() is None:
                # Spreads the rest over the time of the restart.
                threading.Event().wait(0.02)
        restarted(restart)
        producer.stdin.close()
        equal(producer.wait(100), 0, "exit code of the producer")
        until("all read", lambda: len(member.places()) >= n)
    finally:
        producer.kill()
        member.stop()
    once = {(r["partition"], r["offset"]): r for r in member.records}
    equal(shown(once.values()), sent(0, n), "every record once")


@check("offsets by timestamp")
def _():
    create("kc-time", 1)
    kcat("-P", "-t", "kc-time", stdin="a\nb\n")
    last = max(json.loads(r)["ts"] for r in kcat("-C", "-J", "-t", "kc-time", "-e").splitlines())
    until("a later millisecond", lambda: kcat("-Q", "-t", f"kc-time:0:{last + 1}"))
    kcat("-P", "-t", "kc-time", stdin="c\n")
    third = json.loads(kcat("-C", "-J", "-t", "kc-time", "-o", 2, "-c", 1))
    assert third["ts"] > last, (third, last)
    for at, want in ((0, 0), (third["ts"], 2), (third["ts"] + 3_600_000, -1), (-2, 0), (-1, 3)):
        out = kcat("-Q", "-t", f"kc-time:0:{at}")
        found = int(re.search(r"kc-time \[0\] offset (-?\d+)", out)[1])
        equal(found, want, f"offset at {at}")
    equal(kcat("-C", "-t", "kc-time", "-o", f"s@{third['ts']}", "-e", "-q"), "c\n", "consumed from the timestamp")


main()
