"""The checks, each as a person would go about it; what the page shows is compared with what other tools say."""
import base64
import http.server
import json
import os
import socket
import struct
import subprocess
import threading
import time
import urllib.request

from selenium.webdriver.common.keys import Keys

import page as pages
from broker import Broker, binary, free_port

PAGES = ["", "topics", "topics/orders", "topics/orders/messages", "topics/orders/settings", "groups", "groups/billing", "brokers",
         "live", "load", "tuning", "acls"]


class Suite:
    def __init__(self, directory, port):
        self.dir = directory
        self.broker, self.base = self.start("broker", port)
        self.orders()
        self.page = pages.Page(self.base, os.path.join(directory, "profile"))
        self.others = []

    def all(self):
        return [("every page opens, light and dark, and nothing is complained of", self.every_page),
                ("topics are made, changed, grown, emptied and deleted", self.topics),
                ("hundreds of topics are searched, sorted and paged", self.many_topics),
                ("ten thousand topics are no more to a page than ten", self.ten_thousand),
                ("messages are found by place, time and text", self.messages),
                ("messages are decoded: JSON, Avro, hex, numbers, tombstones", self.decoding),
                ("a record produced here is what others read", self.produce),
                ("a script in a record stays text", self.script),
                ("groups show their lag, are reset and deleted", self.groups),
                ("a group with members shows them and refuses a reset", self.members),
                ("a group of the newer protocol shows its members", self.newer_group),
                ("settings of a broker are found, set and unset", self.settings),
                ("live figures move", self.live),
                ("a load test runs and is kept", self.load),
                ("tuning says what the command line says", self.tuning),
                ("all goes by keyboard", self.keyboard),
                ("a small screen scrolls one way only", self.small),
                ("another site's page can do nothing", self.foreign),
                ("a read-only listener offers no change, and names epoll", self.read_only),
                ("a broker that goes away and comes back is told", self.away),
                ("pictures", self.pictures)]

    def start(self, name, port, *settings):
        broker = Broker(os.path.join(self.dir, name), free_port(port),
                        ["ringlog.http.listener=http://127.0.0.1:0", "group.initial.rebalance.delay.ms=0",
                         "offsets.topic.num.partitions=4", "ringlog.memory.bytes=67108864", *settings])
        broker.start()
        with open(os.path.join(broker.dir, "broker.out"), encoding="utf-8") as out:
            return broker, out.read().split()[2]

    def close(self):
        self.page.close()
        for broker in [self.broker, *self.others]:
            broker.stop()

    def picture(self, file):
        self.page.picture(file)

    def is_quiet(self):
        complaints = self.page.complaints()
        assert not complaints, complaints

    def ringlog(self, *command, text=None, broker=None):
        done = subprocess.run([binary(), *command], input=text, capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, RINGLOG_BOOTSTRAP=(broker or self.broker).address))
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stderr}"
        return done.stdout

    def described(self, topic):
        return json.loads(self.ringlog("topic", "describe", topic, "--json"))[0]

    def consumed(self, topic):
        lines = self.ringlog("consume", topic, "--from", "beginning", "--no-follow", "--json").splitlines()
        return [json.loads(line) for line in lines]

    def produced(self, topic, *records):
        """Records with bytes, over HTTP: (key, value)."""
        text = [{name: part if part is None else base64.b64encode(part).decode() for name, part in [("key", key), ("value", value)]}
                for key, value in records]
        told = self.post(f"/topics/{topic}", "application/vnd.kafka.binary.v2+json", records=text)
        assert all("offset" in one for one in told["offsets"]), told

    def post(self, path, media, **body):
        request = urllib.request.Request(self.base + path, json.dumps(body).encode(), {"content-type": media})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def orders(self):
        """What all checks may look at, and none changes."""
        self.ringlog("topic", "create", "orders", "--partitions", "3")
        lines = "".join(f'k{number % 7}:{{"id":{number},"item":"book {number % 5}"}}\n' for number in range(500))
        self.ringlog("produce", "orders", "--key-separator", ":", text=lines)
        self.ringlog("consume", "orders", "--group", "billing", "--from", "beginning", "--max-messages", "200")

    def every_page(self):
        page = self.page
        for scheme in ["light", "dark"]:
            page.media(prefers_color_scheme=scheme)
            for path in PAGES:
                page.go(path)
                text = page.text()
                assert not any(word in text for word in ["undefined", "NaN", "[object", "null", "Invalid Date"]), (path, text)
                assert not page.toasts(), (path, page.toasts())
                foreign = page.run("return performance.getEntriesByType('resource').map((one) => one.name)"
                                   ".filter((name) => !name.startsWith(location.origin))")
                assert not foreign, (path, foreign)
                faint = page.run(CONTRAST)
                assert not faint, (scheme, path, faint)
            back = page.run("return getComputedStyle(document.documentElement).backgroundColor")
            light = sum(int(part) for part in back[4:-1].split(",")[:3])
            assert light > 700 if scheme == "light" else light < 100, (scheme, back)
        page.media()

    def topics(self):
        page = self.page
        page.go("topics")
        row = page.row("Name", "orders")
        assert row["Partitions"] == "3" and row["Records"] == "500", row
        page.click("Create a topic")
        page.type("Name", "invoices")
        page.type("Partitions", "2")
        page.choose("When it is full", "Both")
        page.type("Further settings", "retention.ms=3600000\nsegment.bytes=1048576")
        page.click("Create")
        page.told("invoices was created.")
        topic = self.described("invoices")
        assert len(topic["partitions"]) == 2, topic
        assert topic["configs"] == {"cleanup.policy": "compact,delete", "retention.ms": "3600000", "segment.bytes": "1048576"}, topic
        # What is refused says why and changes nothing.
        page.click("Create a topic")
        page.type("Name", "invoices")
        page.click("Create")
        page.told("already exists")
        page.click("invoices")
        page.click("Add partitions")
        page.type("Partitions in all", "5")
        page.click("Add")
        page.told("Partitions were added.")
        assert len(self.described("invoices")["partitions"]) == 5
        self.ringlog("produce", "invoices", "--key-separator", ":", text="".join(f"k{n}:v\n" for n in range(100)))
        rows = page.until("the records are counted", lambda: [row for row in page.rows("High watermark") if row["End"] != "0"])
        number = rows[0]["Partition"]
        page.click(f"Delete records of partition {number}")
        page.click("Delete")
        page.told("The records are gone.")
        partition = self.described("invoices")["partitions"][int(number)]
        assert partition["start_offset"] == partition["end_offset"] > 0, partition
        page.click("Settings")
        page.type("Find a setting", "retention.ms")
        page.click("Change retention.ms")
        page.type("Value", "7200000")
        page.click("Set")
        page.told("retention.ms was set.")
        assert self.described("invoices")["configs"]["retention.ms"] == "7200000"
        page.click("Change retention.ms")
        page.type("Value", "a week")
        page.click("Set")
        page.told("retention.ms")
        page.click("Unset retention.ms")
        page.told("default again")
        assert "retention.ms" not in self.described("invoices")["configs"]
        page.click("Delete")
        page.type("Name", "something else")
        page.click("Delete")
        page.told("That is not its name.")
        page.click("Delete")
        page.type("Name", "invoices")
        page.click("Delete")
        page.told("invoices was deleted.")
        page.until("the list is back", lambda: page.rows("Name"))
        assert "invoices" not in self.ringlog("topic", "list")
        page.complaints(refusals=True)

    def many_topics(self):
        page = self.page
        page.go("topics")
        cluster = json.loads(page.fetch(f"{self.base}/v3/clusters")[1])["data"][0]["cluster_id"]
        for number in range(250):
            self.post(f"/v3/clusters/{cluster}/topics", "application/json", topic_name=f"many-{number:04}", partitions_count=1 + number % 2)
        page.type("Find a topic", "many-")
        page.shows("1 to 100 of 250")
        page.click("Next")
        page.shows("101 to 200 of 250")
        assert "many-0150" in page.text()
        page.click("Next")
        page.shows("201 to 250 of 250")
        assert not page._button("Next").is_enabled()
        page.type("Find a topic", "many-004")
        page.shows("1 to 10 of 10")
        page.click("Partitions")
        page.until("sorted", lambda: [row["Partitions"] for row in page.rows("Name")] == ["2"] * 5 + ["1"] * 5)
        page.click("Partitions ▾")
        page.until("sorted backwards", lambda: [row["Partitions"] for row in page.rows("Name")] == ["1"] * 5 + ["2"] * 5)
        page.type("Find a topic", "no such")
        page.shows("No topic fits.")
        page.tick("internal ones")
        page.type("Find a topic", "consumer_offsets")
        page.shows("__consumer_offsets")

    def ten_thousand(self):
        """What a page asks for, and what it draws, does not grow with the topics; how long it takes is printed."""
        names = ",".join(f"m{number:04}:1:1" for number in range(10_000))
        broker, base = self.start("many", self.broker.port + 20, f"ringlog.create.topics={names}")
        self.others.append(broker)
        page = self.page
        page.until("all topics are there", lambda: "m9999" in self.ringlog("topic", "list", broker=broker))
        self.ringlog("produce", "m0042", text="one\n", broker=broker)
        self.ringlog("consume", "m0042", "--group", "readers", "--from", "beginning", "--max-messages", "1", broker=broker)
        own, page.base = page.base, base
        try:
            took = {}
            for path in PAGES:
                path = path.replace("orders", "m0042").replace("billing", "readers")
                began = time.monotonic()
                page.go(path)
                took[path or "overview"] = round((time.monotonic() - began) * 1000)
                sizes = page.run("return performance.getEntriesByType('resource').map((one) => [one.decodedBodySize, one.name])")
                assert max(sizes)[0] < 250_000, (path, max(sizes))
                assert page.run("return document.querySelectorAll('main *').length") < 5000, path
            print("      milliseconds: " + ", ".join(f"{path} {ms}" for path, ms in took.items()))
            page.go("topics")
            page.shows("1 to 100 of 10,000")
            page.click("Records")
            page.until("the one with records is last or first", lambda: page.rows("Name")[0]["Name"] in ("m0000", "m0042"))
            page.type("Find a topic", "m777")
            page.shows("1 to 10 of 10")
            page.type("Find a topic", "m0042")
            assert page.until("it is found", lambda: [row["Records"] for row in page.rows("Name")] == ["1"])
        finally:
            page.base = own
            broker.stop()

    def messages(self):
        page = self.page
        self.ringlog("topic", "create", "timed", "--partitions", "1")
        self.ringlog("produce", "timed", text="".join(f"early {number}\n" for number in range(120)))
        page.go("topics/timed/messages")
        page.shows("early 119")
        assert [row["Offset"] for row in page.rows("Offset")] == [str(number) for number in range(119, 69, -1)]
        page.choose("From", "the beginning")
        page.choose("At most", "50")
        page.click("Show")
        page.until("the first are shown", lambda: page.rows("Offset")[0]["Offset"] == "0")
        page.click("Next")
        page.until("the next are shown", lambda: page.rows("Offset")[0]["Offset"] == "50")
        page.click("Next")
        page.until("the last are shown", lambda: page.rows("Offset")[-1]["Offset"] == "119")
        assert not page._button("Next").is_enabled()
        page.choose("From", "an offset")
        page.type("Offset", "77")
        page.click("Show")
        page.until("from 77 on", lambda: page.rows("Offset")[0]["Offset"] == "77")
        page.choose("From", "a time")
        page.type("Time", "2020-01-01T00:00:00")
        page.click("Show")
        page.until("from 2020 on", lambda: page.rows("Offset")[0]["Offset"] == "0")
        page.type("Time", "2099-01-01T00:00:00")
        page.click("Show")
        page.shows("No records here.")
        page.choose("From", "the beginning")
        page.type("Filter", "EARLY 11")
        page.click("Show")
        page.until("filtered", lambda: [row["Value"] for row in page.rows("Value")] == ["early 11", *(f"early {n}" for n in range(110, 120))])
        # All partitions together are the newest first; one alone is what it holds.
        page.go("topics/orders/messages")
        page.choose("Partition", "1")
        page.choose("At most", "500")
        page.choose("From", "the beginning")
        page.click("Show")
        ours = [record["value"] for record in self.consumed("orders") if record["partition"] == 1]
        page.until("all of partition 1", lambda: [json.loads(row["Value"]) for row in page.rows("Value")] == [json.loads(one) for one in ours])

    def decoding(self):
        page = self.page
        self.ringlog("topic", "create", "kinds", "--partitions", "1")
        self.produced("kinds", (b"json", b'{"a":[1,2]}'), (b"avro", b"\x54\x08book"), (b"registry", b"\0\0\0\0\x07\x53\x08page"),
                      (b"number", (1234567890123).to_bytes(8, "big")), (b"binary", bytes(range(256))), (b"gone", None), (None, "ä€😀".encode()))
        page.go("topics/kinds/messages")
        page.choose("From", "the beginning")
        page.click("Show")
        by_key = page.until("all seven", lambda: (lambda rows: len(rows) == 7 and {row["Key"]: row["Value"] for row in rows})(page.rows("Key")))
        assert by_key["json"] == '{ "a": [ 1, 2 ] }' and by_key["gone"] == "null" and by_key["null"] == "ä€😀", by_key
        assert by_key["binary"].startswith("000000 00 01 02 03"), by_key
        page.click("Show record 0 of partition 0")
        page.shows('"a": [')
        page.choose("Show values as", "Avro")
        page.type("Avro schema", json.dumps({"type": "record", "name": "Order", "fields": [
            {"name": "id", "type": "long"}, {"name": "item", "type": "string"}]}))
        values = lambda: {row["Key"]: row["Value"] for row in page.rows("Key")}
        page.until("Avro is read", lambda: values()["avro"] == '{ "id": 42, "item": "book" }')
        assert values()["registry"] == '{ "id": -42, "item": "page" }', values()
        page.choose("Show values as", "Number")
        page.until("a number is read", lambda: values()["number"].startswith("1234567890123 "))
        page.choose("Show values as", "Hex")
        page.until("bytes are read", lambda: values()["avro"] == "000000 54 08 62 6f 6f 6b T.book")

    def produce(self):
        page = self.page
        self.ringlog("topic", "create", "written", "--partitions", "3")
        page.go("topics/written/messages")
        page.click("Produce a record")
        page.type("Key", "customer ä")
        page.type("Value", '{"n": 1}\nsecond line')
        page.type("Headers", "trace=abc\nempty=")
        page.choose("Partition", "2")
        page.choose("Acknowledgement", "1")
        page.click("Produce")
        page.told("Partition 2, offset 0.")
        page.until("it is shown", lambda: page.rows("Key")[0]["Key"] == "customer ä")
        page.click("Produce a record")
        page.type("Key", "customer ä")
        page.tick("no value: a tombstone")
        page.click("Produce")
        page.told("offset")
        records = {record["partition"]: record for record in self.consumed("written")}
        assert len(self.consumed("written")) == 2
        first = records[2]
        assert (first["key"], first["value"]) == ("customer ä", '{"n": 1}\nsecond line'), first
        kcat = subprocess.run(["kcat", "-b", self.broker.address, "-C", "-t", "written", "-p", "2", "-e", "-q", "-c", "1", "-f", "%k|%h|%s"],
                              capture_output=True, text=True, timeout=30)
        assert kcat.stdout == 'customer ä|trace=abc,empty=|{"n": 1}\nsecond line', kcat
        assert any(record["value"] is None for record in self.consumed("written"))

    def script(self):
        page = self.page
        attack = '<img src=x onerror="window.stolen=1"><script>window.stolen=1</script>'
        self.ringlog("topic", "create", "attack", "--partitions", "1")
        self.produced("attack", (attack.encode(), attack.encode()))
        page.go("topics/attack/messages")
        page.shows(attack)
        page.click("Show record 0 of partition 0")
        page.shows("text")
        self.ringlog("consume", "attack", "--group", attack, "--from", "beginning", "--max-messages", "1")
        page.go("groups")
        page.shows(attack)
        page.click(attack)
        page.until("the group's page", lambda: page.rows("Committed"))
        # Neither as an element nor as a part of the address.
        page.driver.get(f"{self.base}/#/topics/{attack}")
        page.ready()
        assert page.run("return window.stolen") is None
        assert not page.run("return document.querySelector('img[src=x], main script')")
        page.complaints(refusals=True)

    def groups(self):
        page = self.page
        self.ringlog("topic", "create", "jobs", "--partitions", "2")
        self.ringlog("produce", "jobs", "--key-separator", ":", text="".join(f"k{n}:job {n}\n" for n in range(100)))
        self.ringlog("consume", "jobs", "--group", "workers", "--from", "beginning", "--max-messages", "100")
        committed = lambda: {one["partition"]: one["committed"] for one in json.loads(
            self.ringlog("group", "describe", "workers", "--json"))[0]["partitions"]}
        ends = {one["partition"]: one["end_offset"] for one in self.described("jobs")["partitions"]}
        page.go("groups")
        row = page.row("Group", "billing")
        assert row["Lag"] == "300" and row["State"] == "Empty", row
        assert page.row("Group", "workers")["Lag"] == "0"
        page.type("Find a group", "workers")
        page.until("one is left", lambda: len(page.rows("Group")) == 1)
        page.click("workers")
        page.until("its partitions", lambda: len(page.rows("Committed")) == 2)
        page.click("Reset offsets")
        page.choose("To", "the earliest record")
        page.click("Preview")
        rows = page.until("the preview", lambda: page.rows("From"))
        assert {row["Partition"]: (row["From"], row["To"]) for row in rows} == {f"jobs-{n}": (str(ends[n]), "0") for n in ends}, rows
        assert committed() == ends, "a preview has changed something"
        page.click("Set")
        page.told("The offsets were set.")
        assert committed() == {0: 0, 1: 0}
        page.until("the lag is shown", lambda: [row["Lag"] for row in page.rows("Lag")] == [str(ends[0]), str(ends[1])])
        page.click("Reset offsets")
        page.choose("To", "an offset")
        page.type("Offset, number or time", "7")
        page.click("Preview")
        page.until("the preview", lambda: page.rows("From"))
        page.click("Cancel")
        assert committed() == {0: 0, 1: 0}
        page.click("Delete")
        page.click("Delete")
        page.told("workers was deleted.")
        assert "workers" not in self.ringlog("group", "list")

    def members(self):
        page = self.page
        self.ringlog("topic", "create", "shared", "--partitions", "4")
        self.ringlog("produce", "shared", "--key-separator", ":", text="".join(f"k{n}:v\n" for n in range(50)))
        consumers = [subprocess.Popen([binary(), "consume", "shared", "--group", "team", "--from", "beginning", "--bootstrap",
                                       self.broker.address], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                     for _ in range(2)]
        try:
            page.go("groups")
            page.until("two members", lambda: page.row("Group", "team")["Members"] == "2")
            page.go("groups/team")
            rows = page.until("both have partitions", lambda: (lambda rows: len(rows) == 2 and all(row["Partitions"] for row in rows) and rows)(page.rows("Client")))
            held = sorted(place for row in rows for place in row["Partitions"].split(", "))
            assert held == [f"shared-{number}" for number in range(4)], rows
            page.until("all is read", lambda: page.rows("Committed") and {row["Lag"] for row in page.rows("Committed")} == {"0"})
            page.click("Reset offsets")
            page.choose("To", "the earliest record")
            page.click("Preview")
            page.until("the preview", lambda: page.rows("From"))
            page.click("Set")
            page.told("The group has members: stop them first.")
            page.complaints(refusals=True)
        finally:
            for consumer in consumers:
                consumer.terminate()
                consumer.wait(30)

    def newer_group(self):
        """A member that only joins (KIP-848): one heartbeat of the newer protocol, over the wire."""
        self.ringlog("topic", "create", "newer", "--partitions", "2")
        member = "AAAAAAAAAAAAAAAAAAAAAA"
        compact = lambda text: bytes([len(text) + 1]) + text.encode()
        body = (compact("modern") + compact(member) + struct.pack(">i", 0) + b"\0\0" + struct.pack(">i", 60000)
                + b"\x02" + compact("newer") + b"\0" + b"\0" + b"\x01" + b"\0")
        client = b"browser"
        request = struct.pack(">hhih", 68, 1, 7, len(client)) + client + b"\0" + body
        host, port = self.broker.address.split(":")
        with socket.create_connection((host, int(port)), 30) as wire:
            wire.sendall(struct.pack(">i", len(request)) + request)
            answer = wire.recv(4 + struct.unpack(">i", wire.recv(4))[0])
            # Correlation id, tagged fields, throttle time, error code.
            assert struct.unpack(">h", answer[9:11])[0] == 0, answer
            page = self.page
            page.go("groups")
            row = page.row("Group", "modern")
            assert row["Members"] == "1" and row["Type"].lower() == "consumer", row
            page.go("groups/modern")
            row = page.row("Member", member)
            assert row["Client"] == "browser", row

    def settings(self):
        page = self.page
        page.go("brokers")
        row = page.rows("Address")[0]
        assert row["Address"] == self.broker.address and row["Runs on"] in ("io_uring", "epoll"), row
        page.type("Find a setting", "log.retention.ms")
        page.click("log.retention.ms")
        page.click("Change log.retention.ms")
        page.type("Value", "86400000")
        page.click("Set")
        page.told("log.retention.ms was set.")
        said = self.ringlog("config", "describe", "--broker", "1")
        assert "86400000" in said, said
        page.click("Unset log.retention.ms")
        page.told("default again")

    def live(self):
        page = self.page
        self.ringlog("topic", "create", "busy", "--partitions", "2")
        page.go("live")
        done = threading.Event()

        def work():
            while not done.is_set():
                self.ringlog("produce", "busy", "--key-separator", ":", text="".join(f"k{n}:{'x' * 500}\n" for n in range(2000)))
        worker = threading.Thread(target=work)
        worker.start()
        try:
            page.until("records come in", lambda: page.run(CARD, "records in") not in (None, "0/s"))
            assert page.run("return document.querySelectorAll('svg.chart path').length") >= 8
            shards = page.rows("Shard")
            assert [row["Shard"] for row in shards] == ["0", "1"] and all("MiB of" in row["Memory"] for row in shards), shards
            assert int(page.row("Request", "Produce")["Number"].replace(",", "")) > 0
        finally:
            done.set()
            worker.join()

    def load(self):
        page = self.page
        page.go("load")
        page.shows("No runs yet.")
        page.type("Records a second", "500")
        page.type("Seconds", "2")
        page.choose("Acks", "1")
        page.click("Start")
        page.told("The load test began.")
        page.shows("Running for")
        status, text = page.fetch(f"{self.base}/api/load", method="POST", headers={"content-type": "application/json"}, body="{}")
        assert status == 409, text
        page.complaints(refusals=True)
        row = page.until("it has ended", lambda: (page.rows("Verdict") or [None])[0], 90)
        assert row["Asked"] == "500/s, 1.0 KiB records, acks=1, 2 s" and row["Verdict"] not in ("", "failed"), row
        assert float(row["MB/s"]) > 0, row
        assert page.run("return document.querySelectorAll('svg.chart path').length") == 6
        # One that is stopped says so.
        page.type("Seconds", "60")
        page.click("Start")
        page.click("Stop")
        page.until("it was stopped", lambda: page.rows("Verdict")[0]["Verdict"] == "stopped", 60)
        page.go("load")
        assert len(page.rows("Verdict")) == 2
        assert self.ringlog("topic", "list").find("ringlog-load") < 0, "its topic is left over"

    def tuning(self):
        page = self.page
        page.go("tuning")
        reports = json.loads(self.ringlog("tune", "check", "--json", "--dir", self.broker.data))
        status, text = page.fetch(f"{self.base}/api/tuning")
        told = json.loads(text)
        assert [sorted(report) for report in told] == [sorted(report) for report in reports]
        assert [report["item"] for report in told] == [report["item"] for report in reports]
        findings = sum(len(report["findings"]) for report in reports)
        rows = page.rows("Wanted")
        assert len(rows) == findings, (len(rows), findings)
        title = next(report["title"] for report in reports if report["findings"])
        page.click(title)
        page.shows("Measured effect.")

    def keyboard(self):
        page = self.page
        page.go("topics")
        page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        page.press(Keys.TAB)
        assert page.focus() == "Skip to content", page.focus()
        page.press(Keys.TAB, Keys.TAB)
        assert page.focus() == "Overview", page.focus()
        page.press(Keys.TAB, Keys.TAB, Keys.ENTER)
        page.until("Enter opens the page", lambda: page.rows("Group"))
        assert page.focus() == "main", page.focus()
        page.go("topics")
        page.run("document.getElementById('main').focus()")
        tab_to(page, "Create a topic")
        page.press(Keys.ENTER)
        page.until("the dialog has the focus", lambda: page.focus() == "name")
        page.press(Keys.ESCAPE)
        page.until("the focus is back", lambda: page.focus() == "Create a topic")
        page.press(Keys.ENTER)
        page.until("the dialog has the focus", lambda: page.focus() == "name")
        page.press("by-keyboard", Keys.ENTER)
        page.told("by-keyboard was created.")
        # A table that is drawn anew leaves the focus where it was.
        self.ringlog("produce", "by-keyboard", text="one\n")
        page.go("topics/by-keyboard")
        page.until("the button is there", lambda: page.has("Delete records of partition 0"))
        page.run("document.getElementById('main').focus()")
        tab_to(page, "Delete records of partition 0")
        self.ringlog("produce", "by-keyboard", text="two\n")
        page.until("the second record is shown", lambda: page.rows("End")[0]["End"] == "2")
        assert page.focus() == "Delete records of partition 0", page.focus()
        page.press(Keys.ENTER)
        page.until("the dialog is open", lambda: page.focus() == "before")
        page.press(Keys.ENTER)
        page.told("The records are gone.")

    def small(self):
        page = self.page
        page.size(390, 800)
        try:
            for path in PAGES:
                page.go(path)
                wide = page.run("return document.documentElement.scrollWidth")
                assert wide <= 390, (path, wide)
        finally:
            page.size(1280, 900)

    def foreign(self):
        """A page of another site (another port) calls ours with everything that a page can try."""
        page = self.page

        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(b"<!doctype html><title>other</title>")

            def log_message(self, *_):
                pass
        server = http.server.HTTPServer(("127.0.0.1", 0), Other)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            before = len(self.consumed("orders"))
            page.driver.get(f"http://127.0.0.1:{server.server_port}/")
            record = json.dumps({"records": [{"value": "stolen"}]})
            for options in [dict(method="POST", body=record, mode="no-cors"), dict(method="POST", body=record),
                            dict(method="POST", body=record, headers={"content-type": "application/vnd.kafka.json.v2+json"}),
                            dict(method="POST", body="records=1", headers={"content-type": "application/x-www-form-urlencoded"})]:
                status, _ = page.fetch(f"{self.base}/topics/orders", **options)
                assert status == 0, options
            assert page.fetch(f"{self.base}/api/overview") == [0, "TypeError"]
            page.run("""const form = document.createElement('form'); form.method = 'post'; form.enctype = 'text/plain';
                form.action = arguments[0]; const field = document.createElement('input'); field.name = arguments[1];
                form.append(field); document.body.append(form); form.submit();""", f"{self.base}/topics/orders", record)
            page.shows("refused")
            assert len(self.consumed("orders")) == before
            # Nor is our page shown inside theirs.
            page.driver.get(f"http://127.0.0.1:{server.server_port}/")
            page.run("const frame = document.createElement('iframe'); frame.src = arguments[0]; document.body.append(frame)", self.base)
            page.until("the frame is refused", lambda: any("frame" in line.lower() for line in page.complaints()))
        finally:
            server.shutdown()
            server.server_close()
            page.complaints()

    def read_only(self):
        broker, base = self.start("shown", self.broker.port + 10, "ringlog.http.read.only=true", "ringlog.io.driver=poll")
        self.others.append(broker)
        self.ringlog("topic", "create", "seen", "--partitions", "1", broker=broker)
        self.ringlog("produce", "seen", text="one\n", broker=broker)
        self.ringlog("consume", "seen", "--group", "readers", "--from", "beginning", "--max-messages", "1", broker=broker)
        page, own = self.page, self.page.base
        page.base = base
        try:
            for path in [*PAGES, "topics/seen", "topics/seen/messages", "topics/seen/settings", "groups/readers"]:
                path = path.replace("orders", "seen").replace("billing", "readers")
                page.go(path)
                offered = [word for word in ["Create a topic", "Add partitions", "Delete", "Produce a record", "Change", "Reset offsets", "Start",
                                             "Delete records of partition 0", "Change retention.ms"] if page.has(word)]
                assert not offered, (path, offered)
                assert path.endswith("messages") or "null" not in page.text().split(), (path, page.text())
            assert "epoll" in page.text() and "read-only" in page.text(), page.text()
            status, text = page.fetch(f"{base}/topics/seen", method="POST", body=json.dumps({"records": [{"value": 1}]}),
                                      headers={"content-type": "application/vnd.kafka.json.v2+json"})
            assert status == 403, text
            page.complaints(refusals=True)
        finally:
            page.base = own

    def away(self):
        page = self.page
        page.go("")
        address = self.base.removeprefix("http://")
        self.broker.stop()
        page.told("The broker does not answer.")
        # The same address for HTTP, so that the open page finds it again.
        self.broker.settings = [f"ringlog.http.listener=http://{address}" if word.startswith("ringlog.http.listener=") else word
                                for word in self.broker.settings]
        self.broker.start()
        page.run("document.getElementById('toasts').replaceChildren()")
        page.go("topics/orders")
        page.row("Partition", "2")
        page.complaints()

    def pictures(self):
        """For the README, when PICTURES names a directory."""
        folder = os.environ.get("PICTURES")
        if not folder:
            return
        page = self.page
        page.size(1200, 760)
        page.media(prefers_color_scheme="dark")
        page.go("load")
        page.type("Records a second", "20000")
        page.type("Seconds", "30")
        page.click("Start")
        page.go("live")
        time.sleep(25)
        page.picture(os.path.join(folder, "live.png"))
        page.media()
        page.go("topics/orders/messages")
        page.click(page.run("return document.querySelector('td button').getAttribute('aria-label')"))
        page.picture(os.path.join(folder, "messages.png"))


def tab_to(page, word):
    for _ in range(60):
        page.press(Keys.TAB)
        if page.focus() == word:
            return
    raise AssertionError(f"Tab does not come to “{word}”")


# A card's value by its name.
CARD = """const card = [...document.querySelectorAll('.card')].find((one) => one.querySelector('span').innerText === arguments[0]);
          return card ? card.querySelector('b').innerText : null;"""

# Texts that stand out too little from what is behind them (WCAG AA: 4.5 to 1).
CONTRAST = """
const parse = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => { const [r, g, b] = parse(color).map((part) => { part /= 255; return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (one) => { for (; one; one = one.parentElement) { const color = getComputedStyle(one).backgroundColor; const [, , , alpha = 1] = parse(color); if (alpha > 0) return color; } return 'rgb(255, 255, 255)'; };
const faint = [];
for (const one of document.querySelectorAll('main *, header *')) {
  if (!one.offsetParent || one.disabled || ![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) faint.push(`${one.innerText.slice(0, 30)} ${ratio.toFixed(2)}`);
}
return faint.slice(0, 5);
"""
