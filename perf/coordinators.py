#!/usr/bin/env python3
"""perf/coordinators.py [--scale 1] [--only REGEX] [--kafka] [--name NAME]: what large coordinators cost in time and memory.

    offsets        1,000,000 keys in __consumer_offsets (1,000 groups of 1,000 partitions), then kill -9 and a start: how long until
                   every group has its offsets again, and what it is answered meanwhile
    members        a group of 1,000 members forms; again and again one leaves and another joins
    groups         5,000 groups of one member each
    transactions   10,000 transactional ids with a transaction each, then kill -9 and a start

Each part starts a broker of its own on an empty directory; with --kafka Apache Kafka's as well. --scale takes so much of each number.
Memory is the broker's resident set: before, with all of it there, and after the start. Clients are this one thread, which speaks the
protocol's bytes. Writes perf/results/NAME.md; needs what tests/clients needs, and target/release/ringlog (or RINGLOG).
"""
import argparse
import asyncio
import os
import re
import resource
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
from rebalance import Connection, connected, data, form, replace, text  # noqa: E402

OFFSET_COMMIT, OFFSET_FETCH, FIND, JOIN, SYNC, CREATE, INIT, ADD, END = 8, 9, 10, 11, 14, 19, 22, 24, 26
COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
MEMBER_ID_REQUIRED, CONCURRENT_TRANSACTIONS = 79, 51
NOT_YET = (COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR)
SETTINGS = ["group.initial.rebalance.delay.ms=0", "transaction.max.timeout.ms=900000"]
CONNECTIONS = 16


def array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


class Load:
    """Requests over a few connections, each with one at a time."""

    def __init__(self, broker):
        self.broker, self.not_yet = broker, 0

    async def open(self, count=CONNECTIONS):
        self.connections = [await Connection().open(self.broker.port) for _ in range(count)]

    async def each(self, items, do):
        """Does it for every item, so many at a time as there are connections."""
        waiting = iter(items)

        async def worker(connection):
            for item in waiting:
                await do(connection, item)
        await asyncio.gather(*(worker(connection) for connection in self.connections))

    async def ask(self, connection, key, version, body, error_of, again=NOT_YET):
        """Asks until the answer is none of those that ask for patience."""
        while True:
            answer = await connection.ask(key, version, body)
            error = error_of(answer)
            if error == 0:
                return answer
            assert error in again, f"API {key}: error {error}"
            self.not_yet += error == COORDINATOR_LOAD_IN_PROGRESS
            await asyncio.sleep(0.005)

    async def coordinator(self, name, kind=0):
        def error(answer):
            answer.number("i")
            return answer.number("h")
        await self.ask(self.connections[0], FIND, 1, text(name) + struct.pack(">b", kind), error)

    async def create(self, topic, partitions):
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">ihii", partitions, 1, 0, 0) + struct.pack(">ib", 60_000, 0)
        await self.connections[0].ask(CREATE, 2, body)

    def cpu(self):
        """CPU seconds of the broker since its start."""
        return bench.cpu_s(self.broker.pid())

    def rss(self):
        return bench.rss_mib(self.broker.pid())


def first_error(answer):
    """Of an answer of topics with partitions, each with an error: the first that is one."""
    answer.number("i")
    errors = []
    for _ in range(answer.number("i")):
        answer.text()
        for _ in range(answer.number("i")):
            answer.number("i")
            errors.append(answer.number("h"))
    return next((error for error in errors if error), 0)


async def offsets(load, scale):
    groups = partitions = max(1, round(1000 * scale ** 0.5))
    await load.create("t", partitions)
    await load.coordinator("g0")
    wanted = array([text("t") + array([struct.pack(">iq", p, p) + text("") for p in range(partitions)])])
    yield f"{groups * partitions:,} keys", {"before": load.rss()}

    async def commit(connection, group):
        await load.ask(connection, OFFSET_COMMIT, 5, text(group) + struct.pack(">i", -1) + text("") + wanted, first_error)
    began = time.perf_counter()
    await load.each([f"g{n}" for n in range(groups)], commit)
    yield "committed", {"seconds": time.perf_counter() - began, "with": load.rss()}
    took = await restart(load)

    async def fetch(connection, group, wanted):
        def error(answer):
            answer.number("i")
            found = []
            for _ in range(answer.number("i")):
                answer.text()
                for _ in range(answer.number("i")):
                    found.append((answer.number("i"), answer.number("q")))
                    answer.number("i")
                    answer.text()
                    error = answer.number("h")
            error = answer.number("h")
            assert error or found == [(p, p) for p in wanted], f"{group}: offsets are missing"
            return error
        body = text(group) + array([text("t") + array([struct.pack(">i", p) for p in wanted])])
        await load.ask(connection, OFFSET_FETCH, 5, body, error)
    # One offset of each group says that it is loaded; to look through all of them would time this script.
    names = [f"g{n}" for n in range(groups)]
    began = time.perf_counter()
    await load.each(names, lambda connection, group: fetch(connection, group, [partitions - 1]))
    yield "after kill -9: the last group is loaded", {
        "start": took, "seconds": time.perf_counter() - began, "after": load.rss(), "not yet": load.not_yet}
    await load.each(names, lambda connection, group: fetch(connection, group, range(partitions)))
    yield "every offset is there", {"after": load.rss()}


async def members(load, scale):
    count = max(2, round(1000 * scale))
    await load.create("t", count)
    await load.coordinator("g")
    group = await connected(load.broker.port, count)
    yield f"{count:,} members, connected", {"before": load.rss()}
    yield "the group forms", {"seconds": await form(group), "with": load.rss()}
    for comer in group[:3]:
        yield "one joins, all have their assignments", {"seconds": await replace(group, comer), "with": load.rss()}


async def groups(load, scale):
    count = max(1, round(5000 * scale))
    await load.create("t", 1)
    await load.coordinator("g0")
    yield f"{count:,} groups", {"before": load.rss()}

    async def with_member(connection, group):
        member = ""

        async def join(error_of):
            body = (text(group) + struct.pack(">ii", 300_000, 300_000) + text(member) + text(None) + text("consumer")
                    + array([text("range") + data(struct.pack(">hi", 0, 1) + text("t") + data(b""))]))
            answer = await load.ask(connection, JOIN, 5, body, error_of)
            generation = answer.number("i")
            answer.text(), answer.text()
            return generation, answer.text()
        _, member = await join(lambda answer: join_error(answer, fine=MEMBER_ID_REQUIRED))
        generation, member = await join(join_error)
        assignment = array([text(member) + data(struct.pack(">hi", 0, 0) + data(b""))])
        body = text(group) + struct.pack(">i", generation) + text(member) + text(None) + assignment
        await load.ask(connection, SYNC, 3, body, join_error)
    began = time.perf_counter()
    await load.each([f"g{n}" for n in range(count)], with_member)
    yield "each has its member", {"seconds": time.perf_counter() - began, "with": load.rss()}


def join_error(answer, fine=0):
    answer.number("i")
    error = answer.number("h")
    return 0 if error == fine else error


async def transactions(load, scale):
    count = max(1, round(10_000 * scale))
    await load.create("t", 1)
    await load.coordinator("t0", kind=1)
    yield f"{count:,} transactional ids", {"before": load.rss()}
    patience = (*NOT_YET, CONCURRENT_TRANSACTIONS)

    async def begin(connection, name):
        body = text(name) + struct.pack(">i", 900_000)
        answer = await load.ask(connection, INIT, 1, body, join_error, patience)
        return text(name) + struct.pack(">qh", answer.number("q"), answer.number("h"))

    async def whole(connection, name):
        who = await begin(connection, name)
        await load.ask(connection, ADD, 1, who + array([text("t") + array([struct.pack(">i", 0)])]), first_error, patience)
        await load.ask(connection, END, 1, who + b"\x01", join_error, patience)
    names = [f"t{n}" for n in range(count)]
    began = time.perf_counter()
    await load.each(names, whole)
    yield "a transaction of each", {"seconds": time.perf_counter() - began, "with": load.rss()}
    took = await restart(load)
    began = time.perf_counter()
    await load.each(names, begin)
    yield "after kill -9: each asks for its producer id", {
        "start": took, "seconds": time.perf_counter() - began, "after": load.rss(), "not yet": load.not_yet}


async def restart(load):
    """Kills the broker and starts it again; seconds until it says that it serves."""
    began = time.perf_counter()
    await asyncio.get_running_loop().run_in_executor(None, load.broker.crash)
    took = time.perf_counter() - began
    load.not_yet = 0
    await load.open()
    return took


PARTS = {"offsets": offsets, "members": members, "groups": groups, "transactions": transactions}
COLUMNS = (("seconds", "s", "{:.2f}"), ("cpu", "broker's CPU s", "{:.2f}"), ("start", "start, s", "{:.2f}"), ("not yet", "COORDINATOR_LOAD_IN_PROGRESS", "{:,}"),
           ("before", "memory before, MiB", "{:.0f}"), ("with", "with it", "{:.0f}"), ("after", "after the start", "{:.0f}"))


async def measure(part, broker, scale, kind):
    load = Load(broker)
    await load.open()
    rows, before = [], load.cpu()
    async for what, figures in PARTS[part](load, scale):
        # Of the time since the row before; after a start since that.
        figures["cpu"], before = load.cpu() - (0 if "start" in figures else before), load.cpu()
        cells = [form.format(figures[key]) if key in figures else "" for key, _, form in COLUMNS]
        rows.append(f"| {kind} | {part} | {what} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def one(part, kind, options):
    with bench.running(kind, f"coordinators-{part}", options.port, SETTINGS) as broker:
        return asyncio.run(asyncio.wait_for(measure(part, broker, options.scale, kind), 1800))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--kafka", action="store_true")
    parser.add_argument("--port", type=int, default=19792)
    parser.add_argument("--name", default="coordinators")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    rows = []
    for part in (part for part in PARTS if re.search(options.only, part)):
        for kind in ("ringlog", "kafka") if options.kafka else ("ringlog",):
            rows += one(part, kind, options)
    lines = ["# Large coordinators", "", f"- command: `{' '.join(['perf/coordinators.py', *sys.argv[1:]])}`",
             f"- {bench.origin()}", "",
             "| broker | part | | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
             "| --- | --- | --- |" + " ---: |" * len(COLUMNS), *rows]
    bench.save(options.name, lines)


if __name__ == "__main__":
    main()
