"""Kafka Connect standalone, with Kafka's own connectors from and to files; see ../README.md. A worker reads lines from one file into
a topic, and from there into another file. It is stopped, killed, and loses its broker in between."""
import collections
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import kafkatools  # noqa: E402
from kit import BOOTSTRAP, check, equal, main, restart_broker, restarted, until  # noqa: E402

# In the broker's, which the runner removes or, where a check failed, keeps.
DIRECTORY = os.path.join(os.path.dirname(os.environ["DATA_DIR"]), "connect")
os.makedirs(DIRECTORY)
FLUSH_MS = 500


def properties(file, /, **values):
    path = os.path.join(DIRECTORY, file)
    with open(path, "w") as f:
        f.writelines(f"{key.replace('__', '-').replace('_', '.')}={value}\n" for key, value in values.items())
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Worker:
    """A standalone worker with a source from NAME.in and a sink to NAME.out."""

    def __init__(self, name, topic):
        self.name, self.topic, self.port, self.process = name, topic, free_port(), None
        self.source, self.sink = (os.path.join(DIRECTORY, f"{name}.{end}") for end in ("in", "out"))
        for file in (self.source, self.sink):
            open(file, "w").close()
        text = "org.apache.kafka.connect.storage.StringConverter"
        self.files = [
            properties(f"{name}.worker", bootstrap_servers=BOOTSTRAP, key_converter=text, value_converter=text,
                       offset_storage_file_filename=os.path.join(DIRECTORY, f"{name}.offsets"),
                       offset_flush_interval_ms=FLUSH_MS, listeners=f"HTTP://127.0.0.1:{self.port}",
                       plugin_discovery="only_scan", plugin_path=DIRECTORY),
            properties(f"{name}.source", name=f"{name}-source", connector_class="FileStreamSource", tasks_max=1,
                       file=self.source, topic=topic, batch_size=100,
                       # Made by Connect through the admin API, not by the broker.
                       topic_creation_default_partitions=3, topic_creation_default_replication_factor=1),
            properties(f"{name}.sink", name=f"{name}-sink", connector_class="FileStreamSink", tasks_max=2,
                       file=self.sink, topics=topic, consumer_override_metadata_max_age_ms=1000,
                       # So that a worker that was killed is not waited for long.
                       consumer_override_session_timeout_ms=6000, consumer_override_heartbeat_interval_ms=1000),
        ]

    def start(self):
        with open(os.path.join(DIRECTORY, f"{self.name}.log"), "ab") as log:
            self.process = subprocess.Popen(kafkatools.command("connect", *self.files), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        until("the connectors run", lambda: self.states() == {"source": ["RUNNING"] * 2, "sink": ["RUNNING"] * 3})

    def states(self):
        """The state of each connector and its tasks, as its REST interface tells it."""
        assert self.process.poll() is None, f"the worker ended: {self.log()}"
        found = {}
        for kind in ("source", "sink"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/connectors/{self.name}-{kind}/status", timeout=10) as answer:
                    status = json.load(answer)
            except OSError:
                return None
            found[kind] = [part["state"] for part in [status["connector"], *status["tasks"]]]
        return found

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    def write(self, start, end):
        with open(self.source, "a") as f:
            f.writelines(f"line {i}\n" for i in range(start, end))

    def read(self):
        with open(self.sink) as f:
            return [int(line.split()[1]) for line in f.read().splitlines() if line.startswith("line ")]

    def has_all(self, n):
        return set(self.read()) == set(range(n))

    def log(self):
        with open(os.path.join(DIRECTORY, f"{self.name}.log"), errors="replace") as f:
            return f.read()[-800:]


def committed(group):
    """How many records a group has committed, over all partitions; all of them begin at 0. One without records has no offset."""
    _, out, _ = kafkatools.run("consumer-groups", "--bootstrap-server", BOOTSTRAP, "--describe", "--group", group)
    rows = [line.split() for line in out.splitlines() if line.startswith(group)]
    return sum(int(row[3]) for row in rows if row[3] != "-")


@check("lines pass from file to file")
def _():
    worker = Worker("pass", "cn-pass")
    worker.write(0, 1000)
    worker.start()
    try:
        until("all lines", lambda: worker.has_all(1000))
        equal(len(worker.read()), 1000, "lines")
        worker.write(1000, 1500)
        until("the later lines", lambda: worker.has_all(1500))
        until("the sink has committed all", lambda: committed("connect-pass-sink") == 1500)
        equal(worker.states(), {"source": ["RUNNING"] * 2, "sink": ["RUNNING"] * 3}, "states")
    finally:
        worker.stop()
    equal(collections.Counter(worker.read()).most_common(1)[0][1], 1, "a line's times")


@check("a worker that stops goes on where it was")
def _():
    worker = Worker("again", "cn-again")
    worker.write(0, 500)
    worker.start()
    until("the first lines", lambda: worker.has_all(500))
    worker.stop()
    worker.write(500, 900)
    worker.start()
    try:
        until("all lines", lambda: worker.has_all(900))
        equal(len(worker.read()), 900, "lines, each once")
    finally:
        worker.stop()


@check("a worker that is killed loses no line")
def _():
    worker = Worker("killed", "cn-killed")
    worker.write(0, 500)
    worker.start()
    until("some lines", lambda: len(worker.read()) >= 100)
    worker.stop(signal.SIGKILL)
    worker.write(500, 900)
    worker.start()
    try:
        # Connect promises this much: a line may come twice, as its offset is written after it.
        until("all lines", lambda: worker.has_all(900))
    finally:
        worker.stop()


@check("a broker that is killed takes no line with it")
def _():
    worker = Worker("crash", "cn-crash")
    worker.write(0, 300)
    worker.start()
    try:
        until("the first lines", lambda: worker.has_all(300))
        restart = restart_broker("CRASH")
        worker.write(300, 800)
        restarted(restart)
        worker.write(800, 1000)
        until("all lines", lambda: worker.has_all(1000))
        until("both still run", lambda: worker.states() == {"source": ["RUNNING"] * 2, "sink": ["RUNNING"] * 3})
    finally:
        worker.stop()


main()
