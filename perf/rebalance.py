#!/usr/bin/env python3
"""perf/rebalance.py [--members 100] [--rounds 5] [--repeats 5] [--name NAME]: how long a group takes to rebalance, beside Apache Kafka.

Each round starts both brokers in turn on empty directories, the order turning round from one to the next. A group of so many
members forms, each member on a connection of its own; then again and again one member leaves and another joins. The time
of a rebalance runs from the newcomer's JoinGroup until the last member has its assignment. The members are this one thread, which
speaks the classic protocol's bytes and asks again as soon as it is answered: what real clients add, the time until their next
heartbeat, is left out. Writes perf/results/NAME.md and needs what tests/clients needs, and target/release/ringlog.
"""
import argparse
import asyncio
import os
import statistics
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402

JOIN, HEARTBEAT, LEAVE, SYNC, FIND, CREATE = 11, 12, 13, 14, 10, 19
REBALANCE_IN_PROGRESS, MEMBER_ID_REQUIRED = 27, 79
NOT_YET = (14, 15, 16)
SETTINGS = ["group.initial.rebalance.delay.ms=0"]


def text(value):
    return struct.pack(">h", -1) if value is None else struct.pack(">h", len(value)) + value.encode()


def data(value):
    return struct.pack(">i", len(value)) + value


class Answer:
    """Reads an answer's fields in order."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def number(self, kind):
        value, = struct.unpack_from(">" + kind, self.body, self.at)
        self.at += struct.calcsize(">" + kind)
        return value

    def text(self):
        return (self.take(self.number("h")) or b"").decode()

    def data(self):
        return self.take(self.number("i"))

    def take(self, length):
        if length < 0:
            return None
        self.at += length
        return self.body[self.at - length:self.at]


class Connection:
    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, key, version, body):
        request = struct.pack(">hhi", key, version, 1) + text("rebalance") + body
        self.writer.write(struct.pack(">i", len(request)) + request)
        size, = struct.unpack(">i", await self.reader.readexactly(4))
        return Answer((await self.reader.readexactly(size))[4:])


class Member:
    """A member of the group `g`; JoinGroup 5, SyncGroup 3, Heartbeat 3, LeaveGroup 3."""

    def __init__(self, connection):
        self.connection, self.id, self.generation = connection, "", -1

    def who(self):
        return text("g") + struct.pack(">i", self.generation) + text(self.id) + text(None)

    async def join(self):
        """Joins, and has an assignment when it returns: a rebalance that overtakes it is joined too."""
        while True:
            body = (text("g") + struct.pack(">ii", 60_000, 300_000) + text(self.id) + text(None) + text("consumer")
                    + struct.pack(">i", 1) + text("range") + data(struct.pack(">hi", 0, 1) + text("t") + data(b"")))
            answer = await self.connection.ask(JOIN, 5, body)
            answer.number("i")
            error, self.generation = answer.number("h"), answer.number("i")
            answer.text()
            leader, self.id = answer.text(), answer.text()
            if error in (MEMBER_ID_REQUIRED, *NOT_YET):
                await asyncio.sleep(0.01 if error in NOT_YET else 0)
                continue
            assert error == 0, f"JoinGroup: error {error}"
            members = []
            for _ in range(answer.number("i")):
                members.append(answer.text())
                answer.text()
                answer.data()
            assignments = b""
            if leader == self.id:
                assignments = b"".join(text(m) + data(struct.pack(">hii", 0, 1, p) + b"x" * 20) for p, m in enumerate(members))
            count = len(members) if leader == self.id else 0
            answer = await self.connection.ask(SYNC, 3, self.who() + struct.pack(">i", count) + assignments)
            answer.number("i")
            error = answer.number("h")
            if error != REBALANCE_IN_PROGRESS:
                assert error == 0 and answer.data(), f"SyncGroup: error {error}"
                return

    async def follow(self, generation):
        """Sends heartbeats until there is a rebalance, and takes part in it."""
        while self.generation < generation:
            answer = await self.connection.ask(HEARTBEAT, 3, self.who())
            answer.number("i")
            if answer.number("h") == REBALANCE_IN_PROGRESS:
                await self.join()
            else:
                await asyncio.sleep(0)

    async def leave(self):
        body = text("g") + struct.pack(">i", 1) + text(self.id) + text(None)
        await self.connection.ask(LEAVE, 3, body)
        self.id, self.generation = "", -1


async def connected(port, members):
    """So many members to be, each on a connection of its own."""
    return [Member(await Connection().open(port)) for _ in range(members)]


async def form(group):
    """All join; seconds until each has its assignment in the last generation."""
    began = time.perf_counter()
    await asyncio.gather(*(member.join() for member in group))
    last = max(member.generation for member in group)
    await asyncio.gather(*(member.follow(last) for member in group))
    return time.perf_counter() - began


async def replace(group, comer):
    """One leaves, and when the others have settled joins again; seconds from then until all have their assignments."""
    await comer.leave()
    others = [member for member in group if member is not comer]
    last = max(member.generation for member in others)
    await asyncio.gather(*(member.follow(last + 1) for member in others))
    last = max(member.generation for member in others)
    began = time.perf_counter()
    await asyncio.gather(comer.join(), *(member.follow(last + 1) for member in others))
    return time.perf_counter() - began


async def measure(port, members, repeats):
    """Seconds: of the group's making, and of each rebalance."""
    first = await Connection().open(port)
    await first.ask(CREATE, 2, struct.pack(">i", 1) + text("t") + struct.pack(">ihii", members, 1, 0, 0)
                    + struct.pack(">ib", 30_000, 0))
    while True:
        answer = await first.ask(FIND, 1, text("g") + b"\0")
        answer.number("i")
        if answer.number("h") == 0:
            break
        await asyncio.sleep(0.1)
    group = await connected(port, members)
    made = await form(group)
    return made, [await replace(group, group[n % members]) for n in range(repeats)]


def one(kind, options):
    with bench.running(kind, "rebalance", options.port, SETTINGS) as broker:
        return asyncio.run(asyncio.wait_for(measure(broker.port, options.members, options.repeats), 300))


def row(what, figures):
    ms = sorted(1000 * f for f in figures)
    return f"| {what} | {len(ms)} | {ms[0]:.1f} | {statistics.median(ms):.1f} | {ms[-1]:.1f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("members", 100), ("rounds", 5), ("repeats", 5), ("port", 19792)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--name", default="rebalance")
    options = parser.parse_args()
    made, times = {"ringlog": [], "kafka": []}, {"ringlog": [], "kafka": []}
    for number in range(options.rounds):
        for kind in ("ringlog", "kafka") if number % 2 == 0 else ("kafka", "ringlog"):
            first, again = one(kind, options)
            made[kind].append(first)
            times[kind] += again
            print(f"round {number} {kind}: made in {1000 * first:.0f} ms, then {[round(1000 * t) for t in again]} ms", flush=True)
    lines = [f"# A rebalance of {options.members} members", "",
             f"- command: `perf/rebalance.py --members {options.members} --rounds {options.rounds} --repeats {options.repeats}`",
             f"- {bench.origin()}",
             "- classic protocol, one thread is all members; milliseconds; the brokers are fresh from their start, and forming the group is "
             "the first thing they do", "",
             "| | times | min | median | max |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind in ("ringlog", "kafka"):
        lines += [row(f"{kind}: the group forms", made[kind]), row(f"{kind}: one joins, all have their assignments", times[kind])]
    bench.save(options.name, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
