"""kafka-python, the current 3.x and the 2.0.2 of many old installations, against a broker; see ../README.md."""
import logging
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import kafka  # noqa: E402
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic  # noqa: E402
from kafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError  # noqa: E402

from kit import BASE_MS, BOOTSTRAP, Tally, check, equal, main, record, restart_broker, restarted, until  # noqa: E402

# 2.0.2 has no idempotent producer, fewer admin calls, and other names for some.
OLD = kafka.__version__.startswith("2.")
CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
# A lost connection is an error to its log, and the restart is wanted.
logging.getLogger("kafka").setLevel(logging.CRITICAL)
admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def create(topic, partitions=3, **config):
    admin.create_topics([NewTopic(name=topic, num_partitions=partitions, replication_factor=1, topic_configs=config)])
    until("topic in metadata", lambda: topic in admin.list_topics())


def new_producer(**config):
    exactly = {} if OLD else {"enable_idempotence": True}
    return KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=5, retries=1000, retry_backoff_ms=100,
                         max_in_flight_requests_per_connection=1, **exactly, **config)


def produce(producer, topic, i, partition=None):
    key, value, headers, timestamp = record(i)
    return producer.send(topic, value=value, key=key, headers=headers, partition=partition, timestamp_ms=timestamp)


def send(topic, start, end, partition=None, codec=None):
    """Records start..end, acknowledged."""
    producer = new_producer(compression_type=codec)
    for future in [produce(producer, topic, i, partition) for i in range(start, end)]:
        future.get(60)
    producer.close()


class Member:
    """A member of a group on a thread of its own, as this client's poll blocks while the group rebalances.
    It commits after every poll; errors come out of stop()."""

    def __init__(self, group, topic, add, enough=None):
        self.consumer = KafkaConsumer(topic, bootstrap_servers=BOOTSTRAP, group_id=group, auto_offset_reset="earliest",
                                      enable_auto_commit=False, heartbeat_interval_ms=300, session_timeout_ms=10000,
                                      max_poll_records=50, reconnect_backoff_max_ms=1000)
        self.add, self.enough = add, enough or (lambda: False)
        self.partitions, self.error, self.ending = [], None, False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.ending and not self.enough():
                polled = self._poll()
                for r in (r for records in polled.values() for r in records):
                    self.add(r.partition, r.offset, r.key, r.value, r.headers, r.timestamp)
                self.partitions = sorted(p.partition for p in self.consumer.assignment())
                if polled:
                    self._commit()
            self.consumer.close()
        except Exception as e:  # handed to the check by stop()
            self.error = e

    def _poll(self):
        try:
            polled = self.consumer.poll(timeout_ms=1000)
            if not polled and not OLD:
                # 3.0 forgets an answer to SyncGroup that comes while no poll waits for it: it neither takes the answer nor joins again.
                group = self.consumer._coordinator
                if group.rebalance_in_progress() and not group.need_rejoin():
                    group.request_rejoin()
            return polled
        except KafkaConnectionError:
            # 3.0 lets a refresh of its metadata fail while the broker is away; the next poll asks again.
            time.sleep(0.1)
            return {}

    def _commit(self):
        try:
            self.consumer.commit()
        except KafkaError:
            # The broker is away or has a new generation: the next poll joins again, the next commit covers this one.
            pass

    def stop(self):
        self.ending = True
        self.thread.join(60)
        if self.error:
            raise self.error
        assert not self.thread.is_alive(), "the consumer does not end"


def wait(members, what, condition):
    """Waits for the condition, but not when a member has failed."""
    def step():
        for m in members:
            if m.error:
                raise m.error
        return condition()
    until(what, step)


@check("create topic and metadata")
def _():
    create("kp-create", 4, **{"retention.ms": "7200000"})
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP)
    equal(consumer.partitions_for_topic("kp-create"), {0, 1, 2, 3}, "partitions")
    consumer.close()
    try:
        admin.create_topics([NewTopic(name="kp-create", num_partitions=1, replication_factor=1)])
    except TopicAlreadyExistsError:
        return
    raise AssertionError("the topic was created twice")


for codec in CODECS:
    @check(f"produce and consume by group, {codec or 'none'}")
    def _(codec=codec):
        topic = f"kp-{codec or 'none'}"
        create(topic)
        send(topic, 0, 500, codec=codec)
        tally = Tally()
        member = Member(f"{topic}-g", topic, tally.add)
        wait([member], "500 records", lambda: len(tally) >= 500)
        member.stop()
        tally.expect(500)


@check("committed offsets are where the group goes on")
def _():
    create("kp-commit")
    send("kp-commit", 0, 600)
    tally = Tally()
    first = Member("kp-commit-g", "kp-commit", tally.add, enough=lambda: len(tally) >= 200)
    wait([first], "the first to end", lambda: not first.thread.is_alive())
    first.stop()
    read = len(tally)
    asked = KafkaConsumer(bootstrap_servers=BOOTSTRAP, group_id="kp-commit-g")
    committed = [asked.committed(TopicPartition("kp-commit", p)) or 0 for p in range(3)]
    asked.close()
    equal(sum(committed), read, "sum of the committed offsets")
    second = Member("kp-commit-g", "kp-commit", tally.add)
    wait([second], "the rest", lambda: len(tally) >= 600)
    second.stop()
    tally.expect(600)


@check("rebalance")
def _():
    create("kp-rebalance", 4)
    tally = Tally()
    a = Member("kp-rebalance-g", "kp-rebalance", tally.add)
    send("kp-rebalance", 0, 200)
    wait([a], "200 records", lambda: len(tally) >= 200 and a.partitions == [0, 1, 2, 3])
    b = Member("kp-rebalance-g", "kp-rebalance", tally.add)
    wait([a, b], "both members have partitions",
         lambda: a.partitions and b.partitions and sorted(a.partitions + b.partitions) == [0, 1, 2, 3])
    send("kp-rebalance", 200, 400)
    wait([a, b], "400 records", lambda: len(tally) >= 400)
    b.stop()
    wait([a], "the one left has all", lambda: a.partitions == [0, 1, 2, 3])
    send("kp-rebalance", 400, 600)
    wait([a], "600 records", lambda: len(tally) >= 600)
    a.stop()
    tally.expect(600)


@check("seek by timestamp")
def _():
    create("kp-time", 1)
    send("kp-time", 0, 100, partition=0)
    send("kp-time", 100, 200, partition=0, codec="zstd")
    consumer, p = KafkaConsumer(bootstrap_servers=BOOTSTRAP), TopicPartition("kp-time", 0)
    for at, want in ((-5, 0), (37, 37), (150, 150), (199, 199)):
        equal(consumer.offsets_for_times({p: BASE_MS + at})[p][:2], (want, BASE_MS + max(0, at)), f"offset at {at} ms")
    equal(consumer.offsets_for_times({p: BASE_MS + 200})[p], None, "behind the end")
    consumer.assign([p])
    for at in (150, 20):
        consumer.seek(p, at)
        got = until("records", lambda: consumer.poll(timeout_ms=500))[p][0]
        equal((got.offset, got.timestamp), (at, BASE_MS + at))
    consumer.close()


def topic_config(topic):
    if OLD:
        response = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])[0]
        return {entry[0]: entry[1] for entry in response.resources[0][4]}
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {name: data["value"] for name, data in found["topic"][topic].items()}


@check("admin: describe and alter configs")
def _():
    create("kp-admin")
    equal(topic_config("kp-admin")["retention.ms"], "604800000", "retention.ms")
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "kp-admin", configs={"retention.ms": "123456789"})])
    until("the changed value", lambda: topic_config("kp-admin")["retention.ms"] == "123456789")


@check("admin: create partitions, delete records, delete topic")
def _():
    create("kp-admin2")
    admin.create_partitions({"kp-admin2": NewPartitions(total_count=5)})
    until("five partitions", lambda: len(admin.describe_topics(["kp-admin2"])[0]["partitions"]) == 5)
    if not OLD:
        p = TopicPartition("kp-admin2", 4)
        send("kp-admin2", 0, 100, partition=4)
        equal(admin.delete_records({p: 30})[p]["low_watermark"], 30, "low watermark")
        consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP)
        equal(consumer.beginning_offsets([p])[p], 30, "the earliest offset")
        consumer.close()
    admin.delete_topics(["kp-admin2"])
    until("the topic is gone", lambda: "kp-admin2" not in admin.list_topics())


@check("admin: groups")
def _():
    create("kp-groups", 1)
    send("kp-groups", 0, 50)
    tally = Tally()
    member = Member("kp-groups-g", "kp-groups", tally.add)
    wait([member], "50 records", lambda: len(tally) >= 50)
    if OLD:
        state = admin.describe_consumer_groups(["kp-groups-g"])[0].state
    else:
        state = admin.describe_groups(["kp-groups-g"])["kp-groups-g"]["group_state"]
    equal(state, "Stable", "state")
    member.stop()

    def groups():
        return [g[0] for g in admin.list_consumer_groups()] if OLD else [g["group_id"] for g in admin.list_groups()]
    assert "kp-groups-g" in groups(), f"listed are {groups()}"
    (admin.delete_consumer_groups if OLD else admin.delete_groups)(["kp-groups-g"])
    assert "kp-groups-g" not in groups(), f"listed are {groups()}"


# The last: the admin client gives up on a lost connection, and only producers and consumers have to bear a restart.
@check("broker restart in the middle" + ("" if OLD else ", idempotent producer"))
def _():
    create("kp-restart")
    n, tally = 3000, Tally(duplicates=OLD)
    member = Member("kp-restart-g", "kp-restart", tally.add_again)
    producer = new_producer(compression_type="lz4", reconnect_backoff_max_ms=1000)
    futures, restart = [], None
    for i in range(n):
        futures.append(produce(producer, "kp-restart", i))
        if i == n // 4:
            futures[-1].get(60)
            wait([member], "some of them read", lambda: len(tally) >= n // 8)
            restart = restart_broker()
        if restart and restart.poll() is None and i % 20 == 0:
            # Keeps the producer at work while the broker is away, in bounded steps.
            restart_step(restart)
    for future in futures:
        future.get(100)
    producer.close()
    restarted(restart)
    wait([member], f"{n} records", lambda: len(tally) >= n)
    member.stop()
    tally.expect(n)
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP)
    ends = consumer.end_offsets([TopicPartition("kp-restart", p) for p in range(3)])
    consumer.close()
    assert OLD and sum(ends.values()) >= n or sum(ends.values()) == n, f"end offsets {ends}"


def restart_step(restart):
    try:
        restart.wait(0.05)
    except Exception:  # still under way
        pass


main()
