#!/usr/bin/env python3
"""Puts the cases of cases.rs to a real broker and writes down what it answers and stores.

    RECORD_CASES_OUT=cases.tsv cargo test --test record write_cases -- --ignored
    tests/record/ask-kafka.py HOST:PORT LOG_DIR < cases.tsv > tests/fixtures/record/produce-answers.tsv

The topics must exist, empty, with one partition and Kafka's defaults but for: cases-compact cleanup.policy=compact; cases-lat
message.timestamp.type=LogAppendTime; cases-small max.message.bytes=300; cases-gzip and cases-none compression.type=gzip and
uncompressed; cases-bounds message.timestamp.before.max.ms and .after.max.ms=1000; cases-plain nothing.
Columns: name, topic, version, request in hex, error code, faulty records' indexes, stored batch in hex or "-".
"""
import socket
import struct
import sys


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError("connection closed")
        data += part
    return data


def produce(address, topic, version, records):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        body = struct.pack(">hhi", 0, version, 1) + string("ask-kafka") + struct.pack(">h", -1)
        body += struct.pack(">hii", 1, 5000, 1) + string(topic) + struct.pack(">ii", 1, 0)
        body += struct.pack(">i", len(records)) + records
        sock.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", read_exactly(sock, 4))
        reply = read_exactly(sock, size)
    at = 4 + 4 + 2 + len(topic) + 4 + 4
    error, base_offset = struct.unpack_from(">hq", reply, at)
    at += 10 + 8 + (8 if version >= 5 else 0)
    faulty = []
    message = ""
    if version >= 8:
        (count,) = struct.unpack_from(">i", reply, at)
        at += 4
        for _ in range(count):
            index, length = struct.unpack_from(">ih", reply, at)
            faulty.append(str(index))
            at += 6 + max(length, 0)
        (length,) = struct.unpack_from(">h", reply, at)
        message = reply[at + 2 : at + 2 + max(length, 0)].decode()
    return error, base_offset, faulty, message


def stored(log_dir, topic, base_offset):
    data = open(f"{log_dir}/{topic}-0/00000000000000000000.log", "rb").read()
    at = 0
    while at + 12 <= len(data):
        offset, length = struct.unpack_from(">qi", data, at)
        if offset == base_offset:
            return data[at : at + 12 + length].hex()
        at += 12 + length
    raise ValueError(f"offset {base_offset} of {topic} is not in the log")


def main():
    address, log_dir = sys.argv[1:3]
    for line in sys.stdin:
        name, topic, version, request = line.rstrip("\n").split("\t")
        error, base_offset, faulty, message = produce(address, "cases-" + topic, int(version), bytes.fromhex(request))
        found = stored(log_dir, "cases-" + topic, base_offset) if error == 0 else "-"
        print(name, topic, version, request or "-", error, ",".join(faulty) or "-", found, sep="\t", flush=True)
        print(f"{error:4} {name}: {message}", file=sys.stderr)


main()
