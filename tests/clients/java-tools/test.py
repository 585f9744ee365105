"""Apache Kafka 4.3's own command-line tools against a broker; see ../README.md. What they print is what is checked: their
exit codes tell little."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import kafkatools  # noqa: E402
from broker import Broker, free_port  # noqa: E402
from kit import BASE_MS, BOOTSTRAP, check, equal, main, restart_broker, restarted, until  # noqa: E402

SERVER = ("--bootstrap-server", BOOTSTRAP)
HOUR_MS = 3_600_000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
RESET = ("--reset-offsets", "--execute", "--group")


def tool(name, *args, want="", stdin=None, connect=True):
    """Runs a tool and gives its standard output, which must match want and hold no stack trace."""
    code, out, err = kafkatools.run(name, *(SERVER if connect else ()), *args, stdin=stdin)
    text = out + err
    if not re.search(want, text, re.M) or re.search(r"^\s+at |Exception", text, re.M) or code == 124:
        raise AssertionError(f"{name} {shlex.join(map(str, args))}: wanted /{want}/, exit code {code}, got: {text[-900:]}")
    return out


def refused(name, *args, want):
    """A tool that must fail with this in its output."""
    _, out, err = kafkatools.run(name, *SERVER, *args)
    assert re.search(want, out + err), f"{name}: wanted /{want}/, got: {(out + err)[-900:]}"


def create(topic, partitions=3, *config):
    words = [w for c in config for w in ("--config", c)]
    tool("topics", "--create", "--topic", topic, "--partitions", partitions, *words, want=f"^Created topic {topic}")


def end_offsets(topic, time="latest"):
    out = tool("get-offsets", "--topic", topic, "--time", time)
    return {int(p): int(offset) for _, p, offset in (line.split(":") for line in out.split())}


class Program:
    """A tool that runs beside the check: its lines as they come; every one is JSON."""

    def __init__(self, name, *args):
        self.process = subprocess.Popen(kafkatools.command(name, *SERVER, *map(str, args)), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.events = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def named(self, name):
        return [e for e in list(self.events) if e["name"] == name]

    def assigned(self):
        """The partitions held now, by the assignments and revocations so far."""
        held = set()
        for e in list(self.events):
            partitions = {p["partition"] for p in e.get("partitions", [])} if e["name"].startswith("partitions_") else set()
            held = held | partitions if e["name"] == "partitions_assigned" else held - partitions
        return held

    def stop(self):
        """Ends it cleanly: SIGTERM runs the tool's own shutdown, which leaves the group."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        self.reader.join(10)


def consumer(group, topic, protocol="classic"):
    own = ("--session-timeout", 10000) if protocol == "classic" else ()
    return Program("verifiable-consumer", "--group-id", group, "--topic", topic, "--verbose", "--group-protocol", protocol,
                   "--reset-policy", "earliest", *own)


def places(*consumers):
    """(partition, offset, value) of every record that came, in the order it came."""
    return [(e["partition"], e["offset"], e["value"]) for c in consumers for e in c.named("record_data")]


@check("kafka-topics: create, list, describe, alter")
def _():
    create("jt-topic", 3, "retention.ms=7200000", "cleanup.policy=delete")
    tool("topics", "--list", want="^jt-topic$")
    out = tool("topics", "--describe", "--topic", "jt-topic", want=r"PartitionCount: 3\b.*ReplicationFactor: 1\b")
    assert "retention.ms=7200000" in out and len(re.findall(r"Partition: \d+\s+Leader: \d+", out)) == 3, out
    tool("topics", "--alter", "--topic", "jt-topic", "--partitions", 5)
    tool("topics", "--describe", "--topic", "jt-topic", want="PartitionCount: 5")
    refused("topics", "--create", "--topic", "jt-topic", want="already exists")
    refused("topics", "--create", "--topic", "jt-wide", "--replication-factor", 3, want="[Rr]eplication factor|InvalidReplicationFactor")
    tool("topics", "--delete", "--topic", "jt-topic")
    until("the topic is gone", lambda: "jt-topic" not in tool("topics", "--list").split())


@check("kafka-configs: topic and broker")
def _():
    create("jt-config")
    entity = ("--entity-type", "topics", "--entity-name", "jt-config")
    tool("configs", "--alter", *entity, "--add-config", "retention.ms=3600000,max.message.bytes=2097152", want="Completed updating")
    out = tool("configs", "--describe", *entity, want=r"retention.ms=3600000 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG")
    assert "max.message.bytes=2097152" in out, out
    tool("configs", "--alter", *entity, "--delete-config", "retention.ms", want="Completed updating")
    assert "retention.ms" not in tool("configs", "--describe", *entity)
    tool("configs", "--describe", "--all", *entity, want="retention.ms=604800000 ")
    refused("configs", "--alter", *entity, "--add-config", "no.such.key=1", want="Unknown topic config|InvalidConfiguration")
    node = re.search(r"(?:^|\s)\(?id: (\d+)|^\S+ \(id: (\d+)", tool("broker-api-versions", want=r"Produce\(0\)"), re.M)
    tool("configs", "--describe", "--all", "--entity-type", "brokers", "--entity-name", node[1] or node[2], want=r"log\.dirs")
    tool("cluster", "cluster-id", *SERVER, want="Cluster ID: ", connect=False)


for codec in CODECS:
    @check(f"console producer and consumer, {codec}")
    def _(codec=codec):
        topic, n = f"jt-{codec}", 400
        create(topic)
        lines = [f"n:{i},h:x\tkey-{i % 17}\t" + f"value-{i};" * (1 + i % 40) for i in range(n)]
        tool("console-producer", "--topic", topic, "--compression-codec", codec, "--reader-property", "parse.key=true",
             "--reader-property", "parse.headers=true", stdin="\n".join(lines) + "\n")
        prints = [w for p in ("timestamp", "partition", "offset", "headers", "key") for w in ("--formatter-property", f"print.{p}=true")]
        out = tool("console-consumer", "--topic", topic, "--group", f"{topic}-g", "--from-beginning", "--max-messages", n,
                   "--timeout-ms", 60000, *prints)
        got = [line.split("\t", 3) for line in out.splitlines()]
        equal(sorted(g[3] for g in got), sorted(lines), "what came back")
        assert all(re.fullmatch(r"CreateTime:\d{13}", g[0]) for g in got), "timestamps"
        equal(len({(g[1], g[2]) for g in got}), n, "places")


@check("consumer groups: list, describe, go on, reset, delete")
def _():
    create("jt-group", 2)
    # Keys, so that both partitions have records: without them one batch may take them all to one.
    tool("console-producer", "--topic", "jt-group", "--reader-property", "parse.key=true", "--reader-property", "key.separator=:",
         stdin="".join(f"{i}:{i}\n" for i in range(100)))
    consume = ("console-consumer", "--topic", "jt-group", "--group", "jt-g", "--timeout-ms", 60000,
               "--command-property", "auto.offset.reset=earliest", "--max-messages")
    first, second = tool(*consume, 40).split(), tool(*consume, 60).split()
    equal(sorted(map(int, first + second)), list(range(100)), "both runs together")
    tool("consumer-groups", "--list", want="^jt-g$")
    out = tool("consumer-groups", "--describe", "--group", "jt-g")
    equal(sum(int(m) for m in re.findall(r"^jt-g\s+jt-group\s+\d+\s+(\d+)\s+\d+\s+0\s", out, re.M)), 100, "committed offsets")
    tool("consumer-groups", "--describe", "--group", "jt-g", "--state", want=r"jt-g .*Empty\s+0")
    tool("consumer-groups", *RESET, "jt-g", "--topic", "jt-group", "--to-earliest", want=r"jt-g\s+jt-group\s+0\s+0")
    tool("consumer-groups", *RESET, "jt-g", "--topic", "jt-group:0", "--shift-by", 5, want=r"jt-g\s+jt-group\s+0\s+5")
    equal(len(tool(*consume, 95).split()), 95, "records after the reset")
    tool("consumer-groups", "--delete-offsets", "--group", "jt-g", "--topic", "jt-group", want=r"jt-group\s+0\s+Successful")
    tool("consumer-groups", "--delete", "--group", "jt-g", want="was successful")
    assert "jt-g" not in tool("consumer-groups", "--list").split()


@check("rebalance: verifiable consumers join and leave")
def _():
    create("jt-rebalance", 4)
    a = consumer("jt-rebalance-g", "jt-rebalance")
    b = None
    try:
        until("the first has all", lambda: a.assigned() == {0, 1, 2, 3})
        b = consumer("jt-rebalance-g", "jt-rebalance")
        until("they share", lambda: a.assigned() and b.assigned() and sorted([*a.assigned(), *b.assigned()]) == [0, 1, 2, 3])
        out = tool("consumer-groups", "--describe", "--group", "jt-rebalance-g", "--members")
        equal(len(re.findall(r"^jt-rebalance-g\s+\S+\s+\S+\s+\S+\s+2\b", out, re.M)), 2, f"members with two partitions in {out}")
        tool("verifiable-producer", "--topic", "jt-rebalance", "--max-messages", 500, want='"acked":500')
        until("all read by both", lambda: len(places(a, b)) >= 500)
        b.stop()
        until("the first has all again", lambda: a.assigned() == {0, 1, 2, 3})
        tool("verifiable-producer", "--topic", "jt-rebalance", "--max-messages", 500, "--value-prefix", 7, want='"acked":500')
        until("all read", lambda: len(places(a, b)) >= 1000)
        want = [str(i) for i in range(500)] + [f"7.{i}" for i in range(500)]
        equal(sorted(v for _, _, v in places(a, b)), sorted(want), "every record once")
    finally:
        for c in filter(None, (a, b)):
            c.stop()


def shared(*consumers):
    """Each holds some of the four partitions, and none is held twice."""
    return all(c.assigned() for c in consumers) and sorted(p for c in consumers for p in c.assigned()) == [0, 1, 2, 3]


def fill(topic, prefix):
    tool("verifiable-producer", "--topic", topic, "--max-messages", 400, "--value-prefix", prefix, want='"acked":400')
    return [f"{prefix}.{i}" for i in range(400)]


@check("consumer protocol: members join and leave, as the tools see it")
def _():
    topic, group = "jt-consumer", "jt-consumer-g"
    create(topic, 4)
    consumers = [consumer(group, topic, "consumer")]
    try:
        until("the first has all", lambda: shared(consumers[0]))
        want = fill(topic, 1)
        until("all read", lambda: len(places(*consumers)) >= len(want))
        consumers += [consumer(group, topic, "consumer") for _ in range(2)]
        until("three share", lambda: shared(*consumers))
        out = tool("consumer-groups", "--describe", "--group", group, "--members", "--verbose")
        equal(sum(int(n) for n in re.findall(rf"^{group}\s+\S+\s+\S+\s+\S+\s+(\d)\b", out, re.M)), 4, f"partitions in {out}")
        tool("consumer-groups", "--describe", "--group", group, "--state", want=rf"{group} .*uniform.*Stable .*3")
        tool("groups", "--list", want=rf"^{group}\s+Consumer\s+consumer")
        tool("consumer-groups", "--list", "--type", "consumer", want=rf"^{group}\s+Consumer")
        refused("consumer-groups", "--delete", "--group", group, want="not empty|NonEmpty")
        want += fill(topic, 2)
        until("all read by three", lambda: len(places(*consumers)) >= len(want))
        consumers[1].stop()
        until("two share", lambda: shared(consumers[0], consumers[2]))
        want += fill(topic, 3)
        until("all read by two", lambda: len(places(*consumers)) >= len(want))
        equal(sorted(v for _, _, v in places(*consumers)), sorted(want), "every record once")
    finally:
        for c in consumers:
            c.stop()
    tool("consumer-groups", *RESET, group, "--topic", topic, "--to-earliest", want=rf"{group}\s+{topic}\s+0\s+0")
    tool("consumer-groups", "--delete", "--group", group, want="was successful")


@check("a group at work moves to the consumer protocol and back")
def _():
    topic, group = "jt-move", "jt-move-g"
    create(topic, 4)
    consumers = [consumer(group, topic), consumer(group, topic)]
    old = consumers[:]
    try:
        until("two classic members share", lambda: shared(*consumers))
        want = fill(topic, 1)
        until("all read by two", lambda: len(places(*consumers)) >= len(want))
        new = consumer(group, topic, "consumer")
        consumers.append(new)
        until("three of both protocols share", lambda: shared(*consumers))
        tool("groups", "--list", want=rf"^{group}\s+Consumer\s+consumer")
        want += fill(topic, 2)
        until("all read by three", lambda: len(places(*consumers)) >= len(want))
        old[0].stop()
        until("one of each share", lambda: shared(old[1], new))
        new.stop()
        until("a classic member has all", lambda: shared(old[1]))
        tool("groups", "--list", want=rf"^{group}\s+Classic\s+consumer")
        want += fill(topic, 3)
        until("all read by one", lambda: len(places(*consumers)) >= len(want))
        equal(sorted(set(v for _, _, v in places(*consumers))), sorted(want), "every record")
    finally:
        for c in consumers:
            c.stop()


@check("broker restart in the middle: verifiable producer and consumer")
def _():
    create("jt-restart", 3)
    n = 4000
    c = consumer("jt-restart-g", "jt-restart")
    # Left to itself this tool never tries again.
    config = tempfile.NamedTemporaryFile("w", suffix=".properties")
    config.write("retries=2147483647\nenable.idempotence=true\ndelivery.timeout.ms=100000\n")
    config.flush()
    p = Program("verifiable-producer", "--topic", "jt-restart", "--max-messages", n, "--throughput", 600, "--command-config", config.name)
    try:
        until("some sent and read", lambda: len(p.named("producer_send_success")) > n // 8 and len(places(c)) > n // 16)
        restarted(restart_broker())
        until("the producer to end", lambda: p.process.poll() is not None, timeout_s=100)
        p.reader.join(10)
        equal((len(p.named("producer_send_success")), len(p.named("producer_send_error"))), (n, 0), "sent, failed")
        equal(sum(end_offsets("jt-restart").values()), n, "end offsets")
        # A member whose commit the restart cut off may read from its last commit again: the same place, the same record.
        until("all read", lambda: len(set(places(c))) >= n)
        equal(sorted(int(v) for _, _, v in set(places(c))), list(range(n)), "every record once")
    finally:
        p.stop(), c.stop(), config.close()


@check("kafka-get-offsets: latest, earliest, timestamp, max-timestamp")
def _():
    create("jt-offsets", 1)
    day_ago = BASE_MS - 24 * HOUR_MS
    for t in range(3):
        tool("verifiable-producer", "--topic", "jt-offsets", "--max-messages", 10, "--message-create-time", day_ago + t * HOUR_MS)
    equal(end_offsets("jt-offsets"), {0: 30})
    equal(end_offsets("jt-offsets", "earliest"), {0: 0})
    equal(end_offsets("jt-offsets", day_ago + HOUR_MS), {0: 10})
    equal(end_offsets("jt-offsets", day_ago + HOUR_MS // 2), {0: 10})
    got = end_offsets("jt-offsets", "max-timestamp")[0]
    assert 20 <= got < 30, got


@check("kafka-delete-records")
def _():
    create("jt-delete", 1)
    tool("verifiable-producer", "--topic", "jt-delete", "--max-messages", 100)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"version": 1, "partitions": [{"topic": "jt-delete", "partition": 0, "offset": 60}]}, f)
        f.flush()
        tool("delete-records", "--offset-json-file", f.name, want="low_watermark: 60")
    equal(end_offsets("jt-delete", "earliest"), {0: 60})
    out = tool("console-consumer", "--topic", "jt-delete", "--from-beginning", "--max-messages", 40, "--timeout-ms", 60000)
    equal([int(line) for line in out.split()], list(range(60, 100)), "what is left")


@check("kafka-log-dirs")
def _():
    create("jt-dirs", 2)
    tool("verifiable-producer", "--topic", "jt-dirs", "--max-messages", 1000, "--repeating-keys", 50)
    out = tool("log-dirs", "--describe", "--topic-list", "jt-dirs")
    found = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    dirs = found["brokers"][0]["logDirs"]
    equal([d["error"] for d in dirs], [None])
    sizes = {p["partition"]: p["size"] for p in dirs[0]["partitions"]}
    assert set(sizes) == {"jt-dirs-0", "jt-dirs-1"} and all(s > 1000 for s in sizes.values()), sizes


@check("producer-perf and consumer-perf")
def _():
    create("jt-perf", 3)
    for acks, codec in (("1", "none"), ("all", "lz4"), ("0", "none")):
        tool("producer-perf", "--topic", "jt-perf", "--num-records", 20000, "--record-size", 100, "--throughput", -1,
             "--command-property", f"acks={acks}", f"compression.type={codec}", *(() if acks == "all" else ("enable.idempotence=false",)),
             want="^20000 records sent")
    until("60000 records", lambda: sum(end_offsets("jt-perf").values()) == 60000)
    out = tool("consumer-perf", "--topic", "jt-perf", "--num-records", 60000, "--timeout", 30000)
    equal(int(out.strip().splitlines()[-1].split(", ")[4]), 60000, "records")
    create("jt-e2e", 1)
    tool("e2e", "--topic", "jt-e2e", "--num-records", 100, "--producer-acks", "all", "--record-size", 100, want="Percentiles")


@check("kafka-features and kafka-metadata-quorum")
def _():
    out = tool("features", "describe", want=r"Feature: transaction.version\s.*FinalizedVersionLevel: 2")
    assert re.search(r"Feature: group.version\s.*FinalizedVersionLevel: 1", out), out
    tool("features", "downgrade", "--feature", "group.version=0", want="group.version was downgraded to 0")
    try:
        assert re.search(r"Feature: group.version\s.*FinalizedVersionLevel: 0", tool("features", "describe"))
    finally:
        tool("features", "upgrade", "--feature", "group.version=1", want="group.version was upgraded to 1")
    refused("features", "upgrade", "--feature", "transaction.version=7", want="only supports versions 0-2")
    tool("metadata-quorum", "describe", "--status", want=r'CurrentVoters:\s+\[\{"id": 1, ')
    tool("metadata-quorum", "describe", "--replication", want=r"^1\s.*Leader")


@check("kafka-leader-election and kafka-reassign-partitions: what one broker can say")
def _():
    create("jt-elect", 2)
    tool("leader-election", "--election-type", "preferred", "--topic", "jt-elect", "--partition", 0, want="Valid replica already elected")
    tool("leader-election", "--election-type", "unclean", "--topic", "jt-elect", "--partition", 1, want="Valid replica already elected")
    tool("leader-election", "--election-type", "preferred", "--all-topic-partitions")
    tool("reassign-partitions", "--list", want="No partition reassignments found")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        json.dump({"version": 1, "partitions": [{"topic": "jt-elect", "partition": 0, "replicas": [1]}]}, plan)
        plan.flush()
        file = ("--reassignment-json-file", plan.name)
        tool("reassign-partitions", "--execute", *file, want="Successfully started partition reassignment")
        tool("reassign-partitions", "--verify", *file, want="partition jt-elect-0 is completed")


@check("kafka-reassign-partitions between the log directories of a broker")
def _():
    with tempfile.TemporaryDirectory() as folder:
        # The first is where Kafka's start looks for what it has formatted.
        dirs = [os.path.join(folder, name) for name in ("data", "more")]
        for path in dirs:
            os.makedirs(path)
        broker = Broker(folder, free_port(int(BOOTSTRAP.split(":")[1]) + 10), [f"log.dirs={','.join(dirs)}"]).start()
        try:
            between_dirs(broker.address, dirs)
        finally:
            broker.stop()


def between_dirs(address, dirs):
    server = ("--bootstrap-server", address)

    def run(name, *args, want=""):
        return tool(name, *server, *args, want=want, connect=False)

    def places():
        """The directory of the partition, and the one it moves to."""
        out = run("log-dirs", "--describe", "--topic-list", "jt-move")
        found = json.loads(next(line for line in out.splitlines() if line.startswith("{")))["brokers"][0]["logDirs"]
        at = {False: None, True: None}
        for d in found:
            for p in d["partitions"]:
                at[p["isFuture"]] = d["logDir"]
                assert p["isFuture"] or p["offsetLag"] == 0, p
        return at[False], at[True]

    def reassign(action, to, *args, want):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
            one = {"topic": "jt-move", "partition": 0, "replicas": [1], "log_dirs": [to]}
            json.dump({"version": 1, "partitions": [one]}, plan)
            plan.flush()
            return run("reassign-partitions", action, "--reassignment-json-file", plan.name, *args, want=want)

    run("topics", "--create", "--topic", "jt-move", "--partitions", 1, "--config", "segment.bytes=1048576", want="^Created topic")
    run("producer-perf", "--topic", "jt-move", "--num-records", 20000, "--record-size", 500, "--throughput", -1,
        "--command-property", "compression.type=none", want="^20000 records sent")
    home, future = places()
    equal(future, None, "no move yet")
    away = next(path for path in dirs if path != home)
    started = f"^Successfully started moving log directory to {away} for replica jt-move-0 with broker 1"
    reassign("--execute", away, "--replica-alter-log-dirs-throttle", 1000, want=started)
    equal(places(), (home, away), "a slow move")
    reassign("--verify", away, want="^Reassignment of replica jt-move-0-1 is still in progress")
    reassign("--execute", home, want=f"^Successfully started moving log directory to {home} for replica jt-move-0 with broker 1")
    equal(places(), (home, None), "taken back")
    reassign("--verify", home, want="^Clearing broker-level throttles on broker 1")
    reassign("--verify", away, want="^Partition jt-move-0 on broker 1 is not being moved from log dir")
    reassign("--execute", away, want=started)
    until("the move", lambda: places() == (away, None))
    reassign("--verify", away, want="^Reassignment of replica jt-move-0-1 completed successfully")
    out = run("console-consumer", "--topic", "jt-move", "--from-beginning", "--max-messages", 20000, "--timeout-ms", 30000)
    equal(len(out.splitlines()), 20000, "records after the move")
    files = [name for path in dirs for name in os.listdir(path) if name.startswith("jt-move-0") and not name.endswith("-delete")]
    equal(files, ["jt-move-0"])


@check("kafka-acls, SCRAM and quotas without an authorizer")
def _():
    refused("acls", "--list", want="No Authorizer is configured")
    refused("acls", "--add", "--allow-principal", "User:a", "--operation", "Read", "--topic", "t", want="No Authorizer is configured")
    user = ("--entity-type", "users", "--entity-name", "jt-user")
    tool("configs", "--alter", *user, "--add-config", "producer_byte_rate=1024,request_percentage=12.5", want="Completed updating")
    tool("configs", "--describe", *user, want="producer_byte_rate=1024.0, request_percentage=12.5")
    tool("configs", "--alter", *user, "--delete-config", "producer_byte_rate", want="Completed updating")
    out = tool("configs", "--describe", "--entity-type", "users", want="'jt-user' are request_percentage=12.5$")
    assert "SCRAM" not in out, out
    refused("configs", "--alter", *user, "--add-config", "consumer_byte_rate=-1", want="must be greater than 0")


@check("kafka-configs: groups and brokers; kafka-client-metrics")
def _():
    group = ("--entity-type", "groups", "--entity-name", "jt-conf")
    tool("configs", "--alter", *group, "--add-config", "consumer.session.timeout.ms=50000", want="Completed updating")
    tool("configs", "--describe", *group, want=r"consumer.session.timeout.ms=50000 sensitive=false synonyms=\{DYNAMIC_GROUP_CONFIG")
    refused("configs", "--alter", *group, "--add-config", "consumer.session.timeout.ms=1", want="must be greater than or equal to")
    refused("configs", "--alter", *group, "--add-config", "no.such.key=1", want="Unknown group config name")
    tool("configs", "--alter", *group, "--delete-config", "consumer.session.timeout.ms", want="Completed updating")
    broker = ("--entity-type", "brokers", "--entity-default")
    tool("configs", "--alter", *broker, "--add-config", "log.retention.ms=7200000", want="Completed updating")
    tool("configs", "--describe", *broker, want="log.retention.ms=7200000")
    create("jt-inherits", 1)
    topic = ("--entity-type", "topics", "--entity-name", "jt-inherits")
    tool("configs", "--describe", "--all", *topic, want=r"retention.ms=7200000 .*DYNAMIC_DEFAULT_BROKER_CONFIG")
    tool("configs", "--alter", *broker, "--delete-config", "log.retention.ms", want="Completed updating")
    refused("configs", "--alter", *broker, "--add-config", "num.partitions=5", want="Cannot update these configs dynamically")
    tool("client-metrics", "--alter", "--name", "jt-sub", "--metrics", "org.apache.kafka.producer.", "--interval", 5000,
         "--match", "client_id=jt-.*", want="Altered client metrics config")
    out = tool("client-metrics", "--describe", "--name", "jt-sub", want="interval.ms=5000")
    assert "match=[client_id=jt-.*]" in out or "match=client_id=jt-.*" in out, out
    tool("client-metrics", "--list", want="^jt-sub$")
    refused("client-metrics", "--alter", "--name", "jt-sub", "--interval", 5, want="interval must be between 100 and 3600000")
    tool("client-metrics", "--delete", "--name", "jt-sub", want="Deleted client metrics config")


@check("kafka-transactions: list, describe, find hanging, abort")
def _():
    create("jt-txn", 1)
    perf = ("--topic", "jt-txn", "--record-size", 100, "--transactional-id", "jt-txn-id")
    tool("producer-perf", *perf, "--num-records", 200, "--throughput", -1, "--transaction-duration-ms", 100, want="^200 records sent")
    tool("transactions", "list", want=r"^jt-txn-id\s+\d+\s+\d+\s+CompleteCommit")
    tool("transactions", "describe", "--transactional-id", "jt-txn-id", want=r"^\d+\s+jt-txn-id\s+\d+\s+\d+\s+CompleteCommit")
    # Killed in the middle of a transaction, which stays open.
    producer = subprocess.Popen(kafkatools.command("producer-perf", *SERVER, *perf, "--num-records", 100_000, "--throughput", 50,
                                                   "--transaction-duration-ms", 120_000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("records in the transaction", lambda: end_offsets("jt-txn")[0] > 210)
    finally:
        producer.kill()
        producer.wait()
    tool("transactions", "list", want=r"^jt-txn-id\s+\d+\s+\d+\s+Ongoing")
    partition = ("--topic", "jt-txn", "--partition", 0)
    out = tool("transactions", "describe-producers", *partition, want="CurrentTransactionStartOffset")
    open_at = [int(line.split()[-1]) for line in out.splitlines()[1:] if line.split() and line.split()[-1].isdigit()]
    equal(len(open_at), 1, f"open transactions in {out}")
    # Its coordinator knows it: it does not hang, but may be aborted by hand all the same.
    out = tool("transactions", "find-hanging", "--topic", "jt-txn", want="Topic")
    assert len(out.strip().splitlines()) == 1, out
    tool("transactions", "abort", *partition, "--start-offset", open_at[0])
    out = tool("transactions", "describe-producers", *partition, want="CurrentTransactionStartOffset")
    assert not re.search(rf"\b{open_at[0]}$", out, re.M), out


@check("clients' metrics are sent when asked for, and shown")
def _():
    create("jt-push", 1)
    if os.environ.get("BROKER") == "kafka":
        # Kafka without a plug-in that takes them does not serve it.
        tool("broker-api-versions", want=r"PushTelemetry\(72\): UNSUPPORTED")
        return
    tool("broker-api-versions", want=r"PushTelemetry\(72\): 0 \[usable: 0\]")
    tool("client-metrics", "--alter", "--name", "jt-push", "--metrics", "org.apache.kafka.producer.record.", "--interval", 500,
         "--match", "client_id=jt-push-[0-9],client_software_name=apache-kafka-java", want="Altered client metrics config")
    programs = [verifiable_producer("jt-push", client) for client in ("jt-push-1", "jt-other")]
    until("a count of the producer's", lambda: (pushed("kafka_client_producer_record_send_total") or 0) > 20)
    for program in programs:
        program.stop()
    sent = len(programs[0].named("producer_send_success"))
    count = pushed("kafka_client_producer_record_send_total")
    assert 20 < count <= sent, f"{count} of {sent}"
    assert pushed("kafka_client_producer_request_total") is None, "a metric that nobody has subscribed to"
    tool("client-metrics", "--delete", "--name", "jt-push", want="Deleted client metrics config")


def verifiable_producer(topic, client):
    with tempfile.NamedTemporaryFile("w", suffix=".properties", delete=False) as f:
        f.write(f"client.id={client}\n")
    return Program("verifiable-producer", "--topic", topic, "--throughput", 50, "--command-config", f.name)


def pushed(name):
    """What the broker shows of a metric that clients have sent; all of them must be the one client's that was asked for it."""
    host, port = BOOTSTRAP.split(":")
    with urllib.request.urlopen(f"http://{host}:{int(port) + 1}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'client_id="jt-other"' not in "".join(re.findall("^kafka_client_.*", text, re.M)), "metrics of a client that does not match"
    found = re.search(rf'^{name}{{client_id="jt-push-1",client_instance_id="[^"]+",client_software_name="apache-kafka-java",'
                      r'client_software_version="[^"]+"[^}]*} (\S+)$', text, re.M)
    return float(found[1]) if found else None


@check("kafka-dump-log: rolled segments and their indexes, batch by batch")
def _():
    create("jt-dump", 1, "segment.bytes=1048576", "index.interval.bytes=4096")
    tool("producer-perf", "--topic", "jt-dump", "--num-records", 30000, "--record-size", 200, "--throughput", -1,
         "--command-property", "compression.type=none", "batch.size=4000", want="30000 records sent")
    subprocess.run(shlex.split(os.environ["STOP"]), check=True, timeout=100)
    try:
        dump()
    finally:
        subprocess.run(shlex.split(os.environ["START"]), check=True, timeout=100)
    equal(end_offsets("jt-dump"), {0: 30000})


def dump():
    folder = os.path.join(os.environ["DATA_DIR"], "jt-dump-0")
    files = [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.endswith((".log", ".index", ".timeindex"))]
    out = tool("dump-log", "--deep-iteration", "--files", ",".join(files), connect=False)
    dumped = dict(part.split("\n", 1) for part in out.split("Dumping ")[1:])
    logs = [f for f in files if f.endswith(".log")]
    assert len(logs) >= 5, f"segments: {logs}"
    next_offset = 0
    for log in logs:
        equal(int(os.path.basename(log)[:-4]), next_offset, "base offset of the segment")
        batches = re.findall(r"^baseOffset: \d+ lastOffset: \d+ .*$", dumped[log], re.M)
        assert all("isvalid: true" in b for b in batches), f"invalid batches in {log}"
        records = [int(o) for o in re.findall(r"^\| offset: (\d+) ", dumped[log], re.M)]
        equal(records, list(range(next_offset, next_offset + len(records))), "offsets of the records")
        next_offset += len(records)
        for kind, least in ((".index", 10), (".timeindex", 1)):
            entries = dumped[log[:-4] + kind].count("offset: ")
            assert log == logs[-1] or entries >= least, f"{log[:-4]}{kind} has {entries} entries"
    equal(next_offset, 30000, "records in all")


main()
