#!/usr/bin/env python3
"""broker.py start DIR [PORT] | stop DIR | restart DIR | crash DIR: one broker under test, by its process id.

start    starts a broker on DIR and 127.0.0.1:PORT (else the port it had) and returns when it serves
stop     SIGTERM, and waits for the end
restart  stop, then start on the same directory and port
crash    SIGKILL, then start on the same directory and port

BROKER=kafka takes Apache Kafka (a KRaft node, its controller on PORT+1) in place of ours (with HTTP there); RINGLOG names our
binary.
DIR holds data/, pid, port, settings, broker.log (standard error) and broker.out (standard output) of every start.
"""
import os
import signal
import socket
import subprocess
import sys
import time

import kafkatools

ROOT = os.path.dirname(os.path.dirname(kafkatools.HERE))
READY_S, STOP_S = 60, 60


def binary():
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    return os.environ.get("RINGLOG") or os.path.join(target, "release", "ringlog")


class Broker:
    """A broker on a directory. The state lies in the directory, so that any process can stop or restart it."""

    def __init__(self, directory, port=None, settings=()):
        self.dir = os.path.abspath(directory)
        self.kind = os.environ.get("BROKER", "ringlog")
        if port is not None:
            os.makedirs(self.dir, exist_ok=True)
            self._write("port", port)
            self._write("settings", "\n".join(settings))
        self.port = int(self._read("port"))
        self.settings = self._read("settings").split()
        self.address = f"127.0.0.1:{self.port}"
        self.data = os.path.join(self.dir, "data")

    def start(self, poll_s=0.01):
        if answers(self.port):
            raise RuntimeError(f"something already listens on {self.address}")
        command = self._kafka_command() if self.kind == "kafka" else self._ringlog_command()
        with open(os.path.join(self.dir, "broker.log"), "ab") as log, open(os.path.join(self.dir, "broker.out"), "wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True)
        self._write("pid", process.pid)
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if process.poll() is not None:
                raise RuntimeError(f"the broker ended at its start with {process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"the broker was not ready within {READY_S} s:\n{self.log_tail()}")
            time.sleep(poll_s)
        return self

    def stop(self, sig=signal.SIGTERM):
        """Ends the broker. One that does not heed SIGTERM is killed, and that is an error."""
        pid = self.pid()
        if pid is None:
            return
        os.kill(pid, sig)
        deadline = time.monotonic() + STOP_S
        while self.pid() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise RuntimeError(f"the broker was still there {STOP_S} s after the signal")
            time.sleep(0.01)

    def restart(self):
        self.stop()
        return self.start()

    def crash(self):
        self.stop(signal.SIGKILL)
        return self.start()

    def pid(self):
        """The process id of the running broker, or None. An ended process that nobody has waited for is not running."""
        try:
            pid = int(self._read("pid"))
            with open(f"/proc/{pid}/cmdline") as f:
                ours = self.dir in f.read()
            with open(f"/proc/{pid}/stat") as f:
                state = f.read().rsplit(")", 1)[1].split()[0]
        except (OSError, ValueError, IndexError):
            return None
        if state in "ZX":
            try:
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass
            return None
        return pid if ours else None

    def log_tail(self, lines=15):
        with open(os.path.join(self.dir, "broker.log"), errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def _ready(self):
        if self.kind == "kafka":
            return answers(self.port)
        with open(os.path.join(self.dir, "broker.out")) as f:
            return f"ready {self.address}" in f.read()

    def _ringlog_command(self):
        # The next port is the second shard's with direct routing.
        http = 0 if os.environ.get("RINGLOG_ROUTING") == "direct" else self.port + 1
        settings = [f"log.dirs={self.data}", f"listeners=PLAINTEXT://{self.address}", "shards=2",
                    f"ringlog.http.listener=http://127.0.0.1:{http}", *self.settings]
        return [binary(), "serve", *(word for s in settings for word in ("--set", s))]

    def _kafka_command(self):
        controller = f"127.0.0.1:{self.port + 1}"
        listeners = f"PLAINTEXT://{self.address},CONTROLLER://{controller}"
        file = self._write("server.properties", "\n".join([
            "process.roles=broker,controller", "node.id=1", f"controller.quorum.bootstrap.servers={controller}",
            f"listeners={listeners}", f"advertised.listeners={listeners}", "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", f"log.dirs={self.data}",
            "offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1", *self.settings]) + "\n")
        if not os.path.exists(os.path.join(self.data, "meta.properties")):
            subprocess.run(kafkatools.command("storage", "format", "--standalone", "-t", "cmluZ2xvZy10ZXN0cw0000", "-c", file),
                           check=True, stdout=subprocess.DEVNULL, timeout=READY_S)
        jvm = kafkatools.long_lived(os.environ.get("KAFKA_HEAP", "1g"))
        return kafkatools.command("broker", file, jvm=[*jvm, "-Dkafka.log.level=INFO"])

    def _read(self, name):
        with open(os.path.join(self.dir, name)) as f:
            return f.read()

    def _write(self, name, value):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(str(value))
        return path


def answers(port):
    """Whether a broker on this port answers ApiVersions version 0 (key 18, correlation id 1, client id 'rdy')."""
    request = bytes.fromhex("0000000d" "0012" "0000" "00000001" "0003") + b"rdy"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
            s.settimeout(2)
            s.sendall(request)
            return len(s.recv(8, socket.MSG_WAITALL)) == 8
    except OSError:
        return False


def free_port(first):
    """Two free ports in a row from first on. Below the range that the kernel gives to outgoing connections: a client that
    reconnects to a broker that is down could otherwise be given the broker's own port."""
    for port in range(first, 32000, 2):
        try:
            for p in (port, port + 1):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", p))
            return port
        except OSError:
            continue
    raise RuntimeError("no free port")


def main(args):
    if len(args) == 3 and args[0] == "start":
        Broker(args[1], int(args[2])).start()
    elif len(args) == 2 and args[0] in ("start", "stop", "restart", "crash"):
        getattr(Broker(args[1]), args[0])()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
