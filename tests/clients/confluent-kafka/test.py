"""confluent-kafka (librdkafka) against a broker; see ../README.md for what each check means."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from confluent_kafka import (OFFSET_BEGINNING, OFFSET_INVALID, Consumer, ConsumerGroupTopicPartitions,  # noqa: E402
                             ElectionType, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition)
from confluent_kafka.admin import (AclBinding, AclOperation, AclPermissionType, AdminClient,  # noqa: E402
                                   AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec,
                                   ResourcePatternType, ResourceType)

from kit import (BASE_MS, BOOTSTRAP, Tally, check, equal, main, record, restart_broker, restarted, until)  # noqa: E402

# Lost connections are logged at 3 and below: the restart is wanted.
CLIENT = {"bootstrap.servers": BOOTSTRAP, "log_level": 2, "reconnect.backoff.max.ms": 1000}
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
admin = AdminClient(CLIENT)


def create(topic, partitions=3, **config):
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30)
    until("topic in metadata", lambda: topic in admin.list_topics(timeout=10).topics)


def send(topic, start, end, partition=None, **config):
    """Records start..end, acknowledged."""
    failures = []
    producer = Producer({**CLIENT, "linger.ms": 5, **config})
    for i in range(start, end):
        produce(producer, topic, i, failures, partition)
    equal(producer.flush(60), 0, "records left in the producer")
    equal(failures, [], "failed deliveries")


def produce(producer, topic, i, failures, partition=None):
    key, value, headers, timestamp = record(i)
    where = {} if partition is None else {"partition": partition}
    producer.produce(topic, value, key, headers=headers, timestamp=timestamp,
                     on_delivery=lambda error, _: failures.append(str(error)) if error else None, **where)
    producer.poll(0)


def consumer(group, topic=None, **config):
    c = Consumer({**CLIENT, "group.id": group, "auto.offset.reset": "earliest",
                  "enable.auto.commit": False, "session.timeout.ms": 10000, "heartbeat.interval.ms": 300, **config})
    if topic:
        c.subscribe([topic])
    return c


def take(c, add, timeout_s=0.1):
    """One poll of a consumer."""
    m = c.poll(timeout_s)
    if m is None:
        return
    if m.error():
        raise KafkaException(m.error())
    add(m.partition(), m.offset(), m.key(), m.value(), m.headers(), m.timestamp()[1])


def drain(consumers, tally, n):
    """Polls the consumers until the tally has n records, then commits their positions."""
    def step():
        for c in consumers:
            take(c, tally.add)
        return len(tally) >= n
    until(f"{n} records", step, pause_s=0)
    for c in consumers:
        if c.assignment():
            c.commit(asynchronous=False)
    tally.expect(n)


@check("create topic and metadata")
def _():
    create("ck-create", 4, **{"retention.ms": "7200000"})
    topic = admin.list_topics("ck-create", timeout=10).topics["ck-create"]
    equal(sorted(topic.partitions), [0, 1, 2, 3], "partitions")
    error = admin.create_topics([NewTopic("ck-create", 1, 1)])["ck-create"].exception(30)
    equal(error.args[0].name(), "TOPIC_ALREADY_EXISTS")


for codec in CODECS:
    @check(f"produce and consume by group, {codec}")
    def _(codec=codec):
        topic = f"ck-{codec}"
        create(topic)
        send(topic, 0, 500, **{"compression.type": codec})
        tally, c = Tally(), consumer(f"ck-{codec}-g", topic)
        drain([c], tally, 500)
        c.close()


@check("committed offsets are where the group goes on")
def _():
    create("ck-commit")
    send("ck-commit", 0, 600)
    tally, first = Tally(), consumer("ck-commit-g", "ck-commit")
    until("some records", lambda: take(first, tally.add) or len(tally) >= 200, pause_s=0)
    first.commit(asynchronous=False)
    read = len(tally)
    first.close()
    second = consumer("ck-commit-g", "ck-commit")
    committed = second.committed([TopicPartition("ck-commit", p) for p in range(3)], timeout=20)
    equal(sum(max(0, t.offset) for t in committed), read, "sum of the committed offsets")
    drain([second], tally, 600)
    second.close()


def rebalance(strategy):
    topic, group = f"ck-rebalance-{strategy}", f"ck-rebalance-{strategy}-g"
    create(topic, 4)
    config = {"partition.assignment.strategy": strategy}
    tally, a = Tally(), consumer(group, topic, **config)
    send(topic, 0, 200)
    drain([a], tally, 200)
    equal(len(a.assignment()), 4, "partitions of the only member")
    b = consumer(group, topic, **config)

    def shared():
        take(a, tally.add), take(b, tally.add)
        return sorted(t.partition for c in (a, b) for t in c.assignment()) == [0, 1, 2, 3] and a.assignment() and b.assignment()
    until("both members have partitions", shared, pause_s=0)
    send(topic, 200, 400)
    drain([a, b], tally, 400)
    b.close()
    until("the one left has all", lambda: take(a, tally.add) or len(a.assignment()) == 4, pause_s=0)
    send(topic, 400, 600)
    drain([a], tally, 600)
    a.close()


for strategy in ("range", "cooperative-sticky"):
    check(f"rebalance, {strategy}")(lambda strategy=strategy: rebalance(strategy))


# Of the newer protocol: sessions and heartbeats are the broker's to say, assignors too.
NEW = {"group.protocol": "consumer"}


def new_consumer(group, *topics, **config):
    c = Consumer({**CLIENT, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False, **NEW, **config})
    c.subscribe(list(topics))
    return c


def poll_all(tally, *consumers):
    for c in consumers:
        take(c, tally.add)


def rebalance_new(assignor):
    topic, group = f"ck-new-{assignor}", f"ck-new-{assignor}-g"
    create(topic, 6)
    config = {"group.remote.assignor": assignor}
    tally, members = Tally(), [new_consumer(group, topic, **config)]
    send(topic, 0, 200)
    drain(members, tally, 200)
    equal(len(members[0].assignment()), 6, "partitions of the only member")

    def shared():
        poll_all(tally, *members)
        held = [[t.partition for t in c.assignment()] for c in members]
        return all(len(h) == 6 // len(members) for h in held) and sorted(p for h in held for p in h) == list(range(6))
    for n in (2, 3):
        members.append(new_consumer(group, topic, **config))
        until(f"{n} members share", shared, pause_s=0)
        send(topic, 200 * (n - 1), 200 * n)
        drain(members, tally, 200 * n)
    described = admin.describe_consumer_groups([group])[group].result(30)
    equal((described.state.name, len(described.members), described.type.name), ("STABLE", 3, "CONSUMER"))
    members.pop(1).close()
    until("two share", shared, pause_s=0)
    send(topic, 600, 800)
    drain(members, tally, 800)
    for c in members:
        c.close()


for assignor in ("uniform", "range"):
    check(f"rebalance in the consumer protocol, {assignor}")(lambda assignor=assignor: rebalance_new(assignor))


@check("consumer protocol: topics by pattern, also those that come later")
def _():
    create("ck-pattern-a", 2)
    create("ck-other", 2)
    tally, c = Tally(), new_consumer("ck-pattern-g", "^ck-pattern-.*", **{"topic.metadata.refresh.interval.ms": 1000})

    def topics():
        take(c, lambda *_: None)
        return sorted((t.topic, t.partition) for t in c.assignment())
    until("the first topic", lambda: topics() == [("ck-pattern-a", 0), ("ck-pattern-a", 1)])
    create("ck-pattern-b", 1)
    until("the second", lambda: topics() == [("ck-pattern-a", 0), ("ck-pattern-a", 1), ("ck-pattern-b", 0)])
    send("ck-pattern-b", 0, 50)
    drain([c], tally, 50)
    c.close()


@check("consumer protocol: static member comes back, another takes its place")
def _():
    create("ck-new-static", 2)
    send("ck-new-static", 0, 100)
    tally, a = Tally(), new_consumer("ck-new-static-g", "ck-new-static", **{"group.instance.id": "one"})
    drain([a], tally, 100)
    member = a.memberid()
    a.close()
    again = new_consumer("ck-new-static-g", "ck-new-static", **{"group.instance.id": "one"})
    send("ck-new-static", 100, 200)
    drain([again], tally, 200)
    assert member and again.memberid() and member != again.memberid(), "a member id a life"
    again.close()


@check("static member comes back without a rebalance")
def _():
    create("ck-static", 2)
    send("ck-static", 0, 100)
    static = {"group.instance.id": "one", "session.timeout.ms": 30000}
    tally, a = Tally(), consumer("ck-static-g", "ck-static", **static)
    drain([a], tally, 100)
    member = a.memberid()
    a.close()
    again = consumer("ck-static-g", "ck-static", **static)
    send("ck-static", 100, 200)
    drain([again], tally, 200)
    assert member and again.memberid() and member != again.memberid(), "a member id a life"
    again.close()


def back_again(how, config=None):
    topic = f"ck-{how.lower()}" + ("-new" if config else "")
    create(topic)
    failures, n = [], 4000
    producer = Producer({**CLIENT, "enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4",
                         "message.timeout.ms": 100000})
    c, tally = (new_consumer if config else consumer)(f"{topic}-g", topic), Tally()

    def take_any():
        try:
            take(c, tally.add_again, 0.005)
        except KafkaException as e:
            if not e.args[0].retriable() and e.args[0].name() not in ("_ALL_BROKERS_DOWN", "_TRANSPORT"):
                raise
    restart = None
    for i in range(n):
        produce(producer, topic, i, failures)
        if i == n // 4:
            until("half of them read", lambda: take_any() or len(tally) >= n // 8, pause_s=0)
            restart = restart_broker(how)
        if i % 10 == 0:
            take_any()
    equal(producer.flush(100), 0, "records left in the producer")
    restarted(restart)
    equal(failures, [], "failed deliveries")
    until(f"{n} records", lambda: take_any() or len(tally) >= n, pause_s=0)
    tally.expect(n)

    def ends():
        try:
            return [c.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in range(3)]
        except KafkaException:  # librdkafka makes its brokers anew after all were down, and drops what was asked meanwhile
            return None
    equal(sum(until("end offsets", ends)), n, "end offsets")
    c.commit(asynchronous=False)
    c.close()


check("broker restart in the middle, idempotent producer")(lambda: back_again("RESTART"))
check("broker killed in the middle, idempotent producer")(lambda: back_again("CRASH"))
check("broker killed in the middle, consumer protocol")(lambda: back_again("CRASH", NEW))


def transactional(transactional_id, **config):
    producer = Producer({**CLIENT, "transactional.id": transactional_id, "linger.ms": 5, **config})
    producer.init_transactions(60)
    return producer


def transaction(producer, topic, start, end, commit):
    producer.begin_transaction()
    for i in range(start, end):
        produce(producer, topic, i, [])
    producer.flush(60)
    (producer.commit_transaction if commit else producer.abort_transaction)(60)


@check("transactions: commit, abort, read_committed, offsets in a transaction")
def _():
    create("ck-txn-in")
    create("ck-txn-out")
    producer = transactional("ck-txn")
    transaction(producer, "ck-txn-in", 0, 100, commit=True)
    transaction(producer, "ck-txn-in", 100, 160, commit=False)
    transaction(producer, "ck-txn-in", 100, 200, commit=True)
    seen, everything = [], consumer("ck-txn-all", "ck-txn-in", **{"isolation.level": "read_uncommitted"})
    until("all that was sent", lambda: take(everything, lambda *r: seen.append(r)) or len(seen) >= 260, pause_s=0)
    everything.close()
    tally, c = Tally(), consumer("ck-txn-g", "ck-txn-in", **{"isolation.level": "read_committed"})
    until("what was committed", lambda: take(c, tally.add) or len(tally) >= 200, pause_s=0)
    tally.expect(200)
    positions = c.position(c.assignment())
    for commit in (False, True):
        producer.begin_transaction()
        for i in range(200):
            produce(producer, "ck-txn-out", i, [])
        producer.send_offsets_to_transaction(positions, c.consumer_group_metadata(), 60)
        (producer.commit_transaction if commit else producer.abort_transaction)(60)
        committed = [t.offset for t in c.committed(positions, timeout=20)]
        equal(committed, [t.offset if commit else OFFSET_INVALID for t in positions], f"offsets, commit {commit}")
    c.close()
    tally, c = Tally(), consumer("ck-txn-out-g", "ck-txn-out", **{"isolation.level": "read_committed"})
    drain([c], tally, 200)
    c.close()
    transactional("ck-txn")
    try:
        transaction(producer, "ck-txn-out", 200, 210, commit=True)
        raise AssertionError("a producer goes on whose id another has taken")
    except KafkaException as e:
        assert e.args[0].fatal() and e.args[0].name() in ("_FENCED", "PRODUCER_FENCED"), f"fenced: {e.args[0]!r}"


def work(source, target, group, commits_max):
    """A life of a worker: batch by batch, and at the end it leaves a transaction open."""
    producer = transactional(group)
    c = consumer(group, source, **{"isolation.level": "read_committed"})
    try:
        for life in range(commits_max + 1):
            batch = [m for m in c.consume(25, timeout=2) if not m.error()]
            if not batch:
                return
            producer.begin_transaction()
            for m in batch:
                producer.produce(target, m.value(), m.key(), m.partition(), headers=m.headers(), timestamp=m.timestamp()[1])
            producer.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 30)
            producer.flush(30)
            if life < commits_max:
                producer.commit_transaction(30)
    except KafkaException as e:
        # Whatever it was: the next life begins where the last transaction that was committed ended.
        print(f"a worker ends: {e}", file=sys.stderr)
    finally:
        c.close()


@check("consume-transform-produce with kills is exactly once")
def _():
    create("ck-eos-in")
    create("ck-eos-out")
    n = 1500
    send("ck-eos-in", 0, n)
    tally, c = Tally(), consumer("ck-eos-out-g", "ck-eos-out", **{"isolation.level": "read_committed"})

    def taken():
        for _ in range(200):
            try:
                take(c, tally.add_again, 0.01)
            except KafkaException:  # while the broker is away
                pass
        return len(tally)
    life = 0
    while taken() < n:
        restart = restart_broker("CRASH") if life % 3 == 1 and life < 10 else None
        work("ck-eos-in", "ck-eos-out", "ck-eos-g", 3 + life)
        if restart:
            restarted(restart)
        life += 1
    tally.expect(n)
    c.close()


@check("seek by timestamp")
def _():
    create("ck-time", 1)
    send("ck-time", 0, 100, partition=0)
    send("ck-time", 100, 200, partition=0, **{"compression.type": "zstd"})
    c = consumer("ck-time-g")
    for at, want in ((-5, 0), (37, 37), (150, 150), (199, 199)):
        found = c.offsets_for_times([TopicPartition("ck-time", 0, BASE_MS + at)], timeout=20)[0]
        equal((found.error, found.offset), (None, want), f"offset at {at} ms")
    equal(c.offsets_for_times([TopicPartition("ck-time", 0, BASE_MS + 200)], timeout=20)[0].offset, -1, "behind the end")
    c.assign([TopicPartition("ck-time", 0, 150)])
    # A message has a length, and record 150's is 0: it must not be asked whether it is true.
    m = next(m for m in iter(lambda: c.poll(0.5), c) if m is not None)
    equal((m.offset(), m.timestamp()[1]), (150, BASE_MS + 150))
    c.seek(TopicPartition("ck-time", 0, OFFSET_BEGINNING))
    until("the first record", lambda: (m := c.poll(0.5)) is not None and m.offset() == 0)
    c.close()


@check("admin: describe and alter configs")
def _():
    create("ck-admin")
    resource = ConfigResource(ResourceType.TOPIC, "ck-admin")

    def config():
        return admin.describe_configs([resource])[resource].result(30)
    equal((config()["retention.ms"].value, config()["retention.ms"].is_default), ("604800000", True), "retention.ms")

    def alter(value):
        entry = ConfigEntry("retention.ms", value, incremental_operation=AlterConfigOpType.SET)
        changed = ConfigResource(ResourceType.TOPIC, "ck-admin", incremental_configs=[entry])
        return admin.incremental_alter_configs([changed])[changed].exception(30)
    equal(alter("123456789"), None)
    until("the changed value", lambda: config()["retention.ms"].value == "123456789")
    equal(alter("a week").args[0].name(), "INVALID_CONFIG")
    broker = str(next(iter(admin.list_topics(timeout=10).brokers)))
    resource = ConfigResource(ResourceType.BROKER, broker)
    assert "log.dirs" in config(), "the broker's config has log.dirs"


@check("admin: create partitions, delete records, delete topic")
def _():
    create("ck-admin2")
    admin.create_partitions([NewPartitions("ck-admin2", 5)])["ck-admin2"].result(30)
    until("five partitions", lambda: len(admin.list_topics("ck-admin2", timeout=10).topics["ck-admin2"].partitions) == 5)
    send("ck-admin2", 0, 100, partition=4)
    at = TopicPartition("ck-admin2", 4, 30)
    equal(next(iter(admin.delete_records([at]).values())).result(30).low_watermark, 30)
    got = admin.list_offsets({at: OffsetSpec.earliest()})[at].result(30).offset
    equal(got, 30, "the earliest offset")
    admin.delete_topics(["ck-admin2"])["ck-admin2"].result(30)
    until("the topic is gone", lambda: "ck-admin2" not in admin.list_topics(timeout=10).topics)


@check("admin: ACLs, users, elections, the broker's own configs")
def _():
    create("ck-admin3", 1)

    def refusal(future):
        return future.exception(30).args[0].code()

    acl = AclBinding(ResourceType.TOPIC, "ck-admin3", ResourcePatternType.LITERAL, "User:a", "*", AclOperation.READ,
                     AclPermissionType.ALLOW)
    equal(refusal(admin.create_acls([acl])[acl]), KafkaError.SECURITY_DISABLED, "an ACL created")
    equal(admin.describe_user_scram_credentials().result(30), {}, "users")
    equal(refusal(admin.describe_user_scram_credentials(["nobody"])["nobody"]), KafkaError.RESOURCE_NOT_FOUND, "a user")
    partition = TopicPartition("ck-admin3", 0)
    elected = admin.elect_leaders(ElectionType.PREFERRED, [partition]).result(30)
    equal(elected[partition].code(), KafkaError.ELECTION_NOT_NEEDED, "the election")
    topic = admin.describe_topics(TopicCollection(["ck-admin3"]))["ck-admin3"].result(30)
    equal((topic.name, len(topic.partitions), topic.is_internal), ("ck-admin3", 1, False), "the topic described")
    broker = str(next(iter(admin.list_topics(timeout=10).brokers)))

    def change(name, value, how):
        entry = ConfigEntry(name, value, incremental_operation=how)
        resource = ConfigResource(ResourceType.BROKER, broker, incremental_configs=[entry])
        return admin.incremental_alter_configs([resource])[resource].exception(30)

    def now(name):
        resource = ConfigResource(ResourceType.BROKER, broker)
        return admin.describe_configs([resource])[resource].result(30)[name].value

    equal(change("message.max.bytes", "2000000", AlterConfigOpType.SET), None, "a dynamic key")
    until("the broker's new value", lambda: now("message.max.bytes") == "2000000")
    equal(change("message.max.bytes", None, AlterConfigOpType.DELETE), None, "back to the default")
    until("the default", lambda: now("message.max.bytes") == "1048588")
    equal(change("num.partitions", "3", AlterConfigOpType.SET).args[0].code(), KafkaError.INVALID_REQUEST, "a static key")


@check("admin: cluster, groups, offsets of a group")
def _():
    cluster = admin.describe_cluster().result(30)
    equal([f"{node.host}:{node.port}" for node in cluster.nodes], [BOOTSTRAP], "nodes")
    create("ck-groups", 1)
    send("ck-groups", 0, 50)
    c = consumer("ck-groups-g", "ck-groups")
    drain([c], Tally(), 50)
    described = admin.describe_consumer_groups(["ck-groups-g"])["ck-groups-g"].result(30)
    equal((described.state.name, len(described.members)), ("STABLE", 1))
    c.close()
    assert "ck-groups-g" in [g.group_id for g in admin.list_consumer_groups().result(30).valid]
    to_ten = ConsumerGroupTopicPartitions("ck-groups-g", [TopicPartition("ck-groups", 0, 10)])
    admin.alter_consumer_group_offsets([to_ten])["ck-groups-g"].result(30)
    asked = ConsumerGroupTopicPartitions("ck-groups-g", [TopicPartition("ck-groups", 0)])
    equal(admin.list_consumer_group_offsets([asked])["ck-groups-g"].result(30).topic_partitions[0].offset, 10)
    admin.delete_consumer_groups(["ck-groups-g"])["ck-groups-g"].result(30)
    assert "ck-groups-g" not in [g.group_id for g in admin.list_consumer_groups().result(30).valid]


main()
