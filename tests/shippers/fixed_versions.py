"""The conversation of a client that asks for no versions: ruby-kafka, which Fluentd's Kafka plugin speaks through, sends each request
in one version for ever. Byte by byte, with its own habits (a sequence though there is no producer id, metadata that is null), and every
answer is read to its last byte."""
import gzip
import socket
import struct
import time

CLIENT = "fluentd"
# What it sends, whatever ApiVersions says.
VERSIONS = {"Produce": (0, 3), "Fetch": (1, 4), "ListOffsets": (2, 2), "Metadata": (3, 1), "OffsetCommit": (8, 2), "OffsetFetch": (9, 1),
            "FindCoordinator": (10, 1), "JoinGroup": (11, 1), "Heartbeat": (12, 0), "LeaveGroup": (13, 0), "SyncGroup": (14, 0),
            "DescribeGroups": (15, 0), "ListGroups": (16, 0), "ApiVersions": (18, 0), "CreateTopics": (19, 0), "DeleteTopics": (20, 0),
            "InitProducerId": (22, 0), "DescribeConfigs": (32, 0), "AlterConfigs": (33, 0), "CreatePartitions": (37, 0)}


class Out:
    def __init__(self):
        self.data = b""

    def pack(self, form, *values):
        self.data += struct.pack(">" + form, *values)
        return self

    def string(self, text):
        raw = None if text is None else text.encode()
        self.data += struct.pack(">h", -1) if raw is None else struct.pack(">h", len(raw)) + raw
        return self

    def bytes(self, raw):
        self.data += struct.pack(">i", len(raw)) + raw
        return self

    def array(self, items, each):
        self.pack("i", len(items))
        for item in items:
            each(self, item)
        return self


class In:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert 0 <= count <= len(self.data) - self.at, f"{count} bytes of {len(self.data) - self.at}"
        self.at += count
        return self.data[self.at - count:self.at]

    def unpack(self, form):
        values = struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))
        return values[0] if len(values) == 1 else values

    def string(self):
        length = self.unpack("h")
        return None if length < 0 else self.take(length).decode()

    def bytes(self):
        length = self.unpack("i")
        return None if length < 0 else self.take(length)

    def array(self, each):
        return [each(self) for _ in range(max(self.unpack("i"), 0))]

    def end(self):
        assert self.at == len(self.data), f"{len(self.data) - self.at} bytes too many"


class Wire:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), 60)
        self.correlation = 0

    def ask(self, name, body, read):
        key, version = VERSIONS[name]
        self.correlation += 1
        message = Out().pack("hhi", key, version, self.correlation).string(CLIENT).data + body.data
        self.socket.sendall(struct.pack(">i", len(message)) + message)
        answer = In(self.receive(struct.unpack(">i", self.receive(4))[0]))
        assert answer.unpack("i") == self.correlation
        result = read(answer)
        answer.end()
        return result

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, "the broker has closed the connection"
            data += piece
        return data


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(value):
    value = value << 1 ^ value >> 63
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def batch(values, compressed, producer=(-1, 0, 0)):
    """Without idempotence it still counts from epoch 0 and sequence 0, where others say -1."""
    records = b""
    for index, value in enumerate(values):
        key, header = b"k", b"tag"
        record = b"\0" + varint(0) + varint(index) + varint(len(key)) + key + varint(len(value)) + value
        record += varint(1) + varint(len(header)) + header + varint(3) + b"app"
        records += varint(len(record)) + record
    body = struct.pack(">hiqqqhii", 1 if compressed else 0, len(values) - 1, 1_700_000_000_000, 1_700_000_000_000, *producer, len(values))
    body += gzip.compress(records) if compressed else records
    return struct.pack(">qiibI", 0, len(body) + 9, 0, 2, crc32c(body)) + body


def produce(wire, topic, partition, acks, data):
    request = Out().string(None).pack("hi", acks, 10_000).array([0], lambda out, _: out.string(topic).array(
        [0], lambda out, _: out.pack("i", partition).bytes(data)))

    def read(answer):
        topics = answer.array(lambda a: (a.string(), a.array(lambda a: a.unpack("ihqq"))))
        answer.unpack("i")
        return topics
    [(_, [(_, error, offset, _)])] = wire.ask("Produce", request, read)
    assert error == 0, error
    return offset


def fetch(wire, topic, partition, offset):
    request = Out().pack("iiiib", -1, 1000, 1, 1 << 20, 1).array([0], lambda out, _: out.string(topic).array(
        [0], lambda out, _: out.pack("iqi", partition, offset, 1 << 20)))

    def read(answer):
        answer.unpack("i")
        return answer.array(lambda a: (a.string(), a.array(
            lambda a: (a.unpack("ihqq"), a.array(lambda a: a.unpack("qq")), a.bytes()))))
    [(_, [((_, error, high, _), _, data)])] = wire.ask("Fetch", request, read)
    assert error == 0, error
    return high, data


def topics_of(wire, topic):
    request = Out().array([topic], lambda out, name: out.string(name))

    def read(answer):
        brokers = answer.array(lambda a: (a.unpack("i"), a.string(), a.unpack("i"), a.string()))
        answer.unpack("i")
        return brokers, answer.array(lambda a: (a.unpack("h"), a.string(), a.unpack("?"), a.array(
            lambda a: (a.unpack("hii"), a.array(lambda a: a.unpack("i")), a.array(lambda a: a.unpack("i"))))))
    return wire.ask("Metadata", request, read)


def conversation(address):
    """What was written, by partition."""
    wire = Wire(address)
    # It looks at ApiVersions only to know what exists at all.
    error, apis = wire.ask("ApiVersions", Out(), lambda a: (a.unpack("h"), a.array(lambda a: a.unpack("hhh"))))
    assert error == 0
    ranges = {key: (least, most) for key, least, most in apis}
    # It believes these two, which a broker of Kafka 4 announces from 0 for such clients.
    assert ranges[0][0] == 0 and ranges[11][0] == 0, ranges
    topic = "fixed"
    made = Out().array([0], lambda out, _: out.string(topic).pack("ih", 2, 1).pack("ii", 0, 0)).pack("i", 10_000)
    assert wire.ask("CreateTopics", made, lambda a: a.array(lambda a: (a.string(), a.unpack("h")))) == [(topic, 0)]
    brokers, [(error, name, internal, partitions)] = topics_of(wire, topic)
    assert (error, name, internal, len(partitions)) == (0, topic, False, 2) and f"{brokers[0][1]}:{brokers[0][2]}" == address
    assert produce(wire, topic, 0, -1, batch([b"one", b"two"], False)) == 0
    assert produce(wire, topic, 0, 1, batch([b"three"] * 500, True)) == 2
    ident = wire.ask("InitProducerId", Out().string(None).pack("i", 1000), lambda a: a.unpack("ihqh"))
    assert ident[1] == 0
    assert produce(wire, topic, 1, -1, batch([b"four"], False, (ident[2], ident[3], 0))) == 0
    high, data = fetch(wire, topic, 0, 0)
    assert high == 502 and b"three" not in data[:150] and b"one" in data and b"two" in data, (high, data[:150])
    offsets = Out().pack("ib", -1, 1).array([0], lambda out, _: out.string(topic).array([0], lambda out, _: out.pack("iq", 0, -1)))
    ends = wire.ask("ListOffsets", offsets, lambda a: (a.unpack("i"), a.array(lambda a: (a.string(), a.array(lambda a: a.unpack("ihqq"))))))
    assert ends[1] == [(topic, [(0, 0, -1, 502)])], ends
    group(wire, topic)
    admin(wire, topic)
    return {0: 502, 1: 1}


def patiently(ask):
    """A coordinator that is not there yet, or reads its log, is asked again."""
    for _ in range(300):
        answer = ask()
        if answer[0] not in (14, 15, 16):
            break
        time.sleep(0.1)
    return answer


def group(wire, topic):
    find = lambda: wire.ask("FindCoordinator", Out().string("fixed-group").pack("b", 0),
                            lambda a: (a.unpack("ih")[1], a.string(), a.unpack("i"), a.string(), a.unpack("i")))
    assert patiently(find)[0] == 0
    subscription = Out().pack("h", 0).array([topic], lambda out, name: out.string(name)).pack("i", 0).data
    join = Out().string("fixed-group").pack("ii", 30_000, 30_000).string("").string("consumer").array(
        ["roundrobin"], lambda out, name: out.string(name).bytes(subscription))
    error, generation, protocol, leader, member, members = patiently(lambda: wire.ask("JoinGroup", join, lambda a: (
        *a.unpack("hi"), a.string(), a.string(), a.string(), a.array(lambda a: (a.string(), a.bytes())))))
    assert (error, protocol, leader) == (0, "roundrobin", member) and members == [(member, subscription)], (error, protocol)
    mine = Out().pack("h", 0).array([0], lambda out, _: out.string(topic).array([0, 1], lambda out, one: out.pack("i", one))).pack("i", 0).data
    sync = Out().string("fixed-group").pack("i", generation).string(member).array([0], lambda out, _: out.string(member).bytes(mine))
    assert wire.ask("SyncGroup", sync, lambda a: (a.unpack("h"), a.bytes())) == (0, mine)
    beat = Out().string("fixed-group").pack("i", generation).string(member)
    assert wire.ask("Heartbeat", beat, lambda a: a.unpack("h")) == 0
    commit = Out().string("fixed-group").pack("i", generation).string(member).pack("q", -1).array([0], lambda out, _: out.string(topic).array(
        [0], lambda out, _: out.pack("iq", 0, 7).string(None)))
    assert wire.ask("OffsetCommit", commit, lambda a: a.array(lambda a: (a.string(), a.array(lambda a: a.unpack("ih"))))) == [(topic, [(0, 0)])]
    asked = Out().string("fixed-group").array([0], lambda out, _: out.string(topic).array([0, 1], lambda out, one: out.pack("i", one)))
    kept = wire.ask("OffsetFetch", asked, lambda a: a.array(lambda a: (a.string(), a.array(lambda a: (*a.unpack("iq"), a.string(), a.unpack("h"))))))
    assert kept == [(topic, [(0, 7, "", 0), (1, -1, "", 0)])], kept
    leave = Out().string("fixed-group").string(member)
    assert wire.ask("LeaveGroup", leave, lambda a: a.unpack("h")) == 0


def admin(wire, topic):
    groups = wire.ask("ListGroups", Out(), lambda a: (a.unpack("h"), a.array(lambda a: (a.string(), a.string()))))
    assert ("fixed-group", "consumer") in groups[1], groups
    described = wire.ask("DescribeGroups", Out().array(["fixed-group"], lambda out, name: out.string(name)), lambda a: a.array(
        lambda a: (a.unpack("h"), a.string(), a.string(), a.string(), a.string(),
                   a.array(lambda a: (a.string(), a.string(), a.string(), a.bytes(), a.bytes())))))
    assert described[0][:3] == (0, "fixed-group", "Empty"), described
    wanted = Out().array([0], lambda out, _: out.pack("b", 2).string(topic).array(["retention.ms"], lambda out, name: out.string(name)))
    configs = lambda a: (a.unpack("i"), a.array(lambda a: (a.unpack("h"), a.string(), a.unpack("b"), a.string(), a.array(
        lambda a: (a.string(), a.string(), *a.unpack("???"))))))
    [(error, _, _, _, [(name, value, *_)])] = wire.ask("DescribeConfigs", wanted, configs)[1]
    assert (error, name, value) == (0, "retention.ms", "604800000"), (error, name, value)
    changed = Out().array([0], lambda out, _: out.pack("b", 2).string(topic).array([0], lambda out, _: out.string("retention.ms").string("1000000"))).pack("?", False)
    done = wire.ask("AlterConfigs", changed, lambda a: (a.unpack("i"), a.array(lambda a: (a.unpack("h"), a.string(), a.unpack("b"), a.string()))))
    assert done[1][0][0] == 0, done
    more = Out().array([0], lambda out, _: out.string(topic).pack("i", 3).pack("i", -1)).pack("i?", 10_000, False)
    grown = wire.ask("CreatePartitions", more, lambda a: (a.unpack("i"), a.array(lambda a: (a.string(), a.unpack("h"), a.string()))))
    assert grown[1][0][1] == 0, grown
    gone = Out().array(["fixed-none"], lambda out, name: out.string(name)).pack("i", 10_000)
    assert wire.ask("DeleteTopics", gone, lambda a: a.array(lambda a: (a.string(), a.unpack("h")))) == [("fixed-none", 3)]
