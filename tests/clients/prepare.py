"""Installs or builds what a client test needs, by package name and into the cache outside the repository, and gives the
command that runs the test. What is there already is not fetched again: its folder is named after what it was made of."""
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys

from kafkatools import CACHE, HERE, LIBS


def _step(command, cwd=HERE, **env):
    """One command, its output on our standard error."""
    print(f"+ {' '.join(command)}", file=sys.stderr, flush=True)
    subprocess.run(command, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True,
                   timeout=1200)


def _made_of(name, *files):
    """A cache folder for what is made from these files (paths under tests/clients)."""
    digest = hashlib.sha256()
    for file in files:
        with open(os.path.join(HERE, file), "rb") as f:
            digest.update(f.read())
    return os.path.join(CACHE, f"{name}-{digest.hexdigest()[:12]}")


@contextlib.contextmanager
def _alone(what):
    """Two runs at a time do not make the same thing."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, f"{what}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _once(folder, make):
    """Calls make on an empty folder, unless an earlier call has come to its end."""
    done = os.path.join(folder, ".complete")
    with _alone(os.path.basename(folder)):
        if not os.path.exists(done):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            make(folder)
            open(done, "w").close()
    return folder


def apt(package, missing):
    """A Debian package, where what it brings is missing."""
    if not missing:
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    _step([*sudo, "apt-get", "-q", "update"])
    _step([*sudo, "apt-get", "-q", "install", "-y", "--no-install-recommends", package], DEBIAN_FRONTEND="noninteractive")


def kafka_jars():
    """Apache Kafka's broker and tools."""
    apt("maven", not shutil.which("mvn"))
    folder = _made_of("kafka-4.3.1", "java/pom.xml")
    _once(folder, lambda d: _step(["mvn", "-B", "-ntp", "-q", "-f", os.path.join(HERE, "java", "pom.xml"),
                                   "dependency:copy-dependencies", "-DincludeScope=runtime",
                                   f"-DoutputDirectory={os.path.join(d, 'libs')}"]))
    link = os.path.dirname(LIBS)
    if os.path.realpath(link) != os.path.realpath(folder):
        if not os.path.islink(link):
            shutil.rmtree(link, ignore_errors=True)
        # In one step: another run may be reading through it.
        new = f"{link}.{os.getpid()}"
        os.symlink(folder, new)
        os.replace(new, link)


def _python(test, *args):
    return [sys.executable, os.path.join(HERE, test, "test.py"), *args]


def java_tools():
    kafka_jars()
    return _python("java-tools")


def _java(program):
    kafka_jars()
    return ["java", "-XX:+UseSerialGC", "-Xmx512M", f"-Dlog4j2.configurationFile={os.path.join(HERE, 'java', 'log4j2.yaml')}",
            "-cp", os.path.join(LIBS, "*"), os.path.join(HERE, "java", program)]


def java_transactions():
    return _java("Transactions.java")


def java_interfaces():
    return _java("Interfaces.java")


def connect():
    kafka_jars()
    return _python("connect")


def kcat():
    apt("kcat", not shutil.which("kcat"))
    kafka_jars()  # kcat cannot create a topic
    return _python("kcat")


def _venv(client, requirements):
    def make(folder):
        apt("python3-venv", subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode)
        _step([sys.executable, "-m", "venv", folder])
        _step([os.path.join(folder, "bin", "pip"), "install", "-q", "--disable-pip-version-check", "-r",
               os.path.join(HERE, client, requirements)])
    folder = _once(_made_of(f"venv-{client}", f"{client}/{requirements}"), make)
    return [os.path.join(folder, "bin", "python"), os.path.join(HERE, client, "test.py")]


def confluent_kafka():
    return _venv("confluent-kafka", "requirements.txt")


def kafka_python_3():
    return _venv("kafka-python", "requirements-3.txt")


def kafka_python_2():
    return _venv("kafka-python", "requirements-2.0.2.txt")


def _go(client):
    """Built anew each time: go's own build cache makes that a matter of a second. Moved into place, for the one before may be
    running."""
    program = os.path.join(CACHE, "bin", client)
    new = f"{program}.{os.getpid()}"
    _step(["go", "build", "-o", new, "."], cwd=os.path.join(HERE, client), GOFLAGS="-mod=readonly", GOTOOLCHAIN="local")
    os.replace(new, program)
    return [program]


def franz_go():
    return _go("franz-go")


def kgo():
    program = os.path.join(CACHE, "bin", "kgo.test")
    _step(["go", "test", "-c", "-o", program, "github.com/twmb/franz-go/pkg/kgo"], cwd=os.path.join(HERE, "franz-go"),
          GOFLAGS="-mod=readonly", GOTOOLCHAIN="local")
    return [sys.executable, os.path.join(HERE, "franz-go", "kgo.py"), program]


def sarama():
    return _go("sarama")


def kafkajs():
    def make(folder):
        for file in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(HERE, "kafkajs", file), folder)
        _step(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder)
    folder = _once(_made_of("kafkajs", "kafkajs/package.json", "kafkajs/package-lock.json"), make)
    return ["env", f"NODE_PATH={os.path.join(folder, 'node_modules')}", "node", os.path.join(HERE, "kafkajs", "test.js")]


def rust_rdkafka():
    target = os.path.join(CACHE, "rust-rdkafka")
    _step(["cargo", "build", "--release", "--locked", "--target-dir", target], cwd=os.path.join(HERE, "rust-rdkafka"))
    return [os.path.join(target, "release", "rust-rdkafka-check")]


# In the order they run. Each function prepares a client and gives its command.
CLIENTS = {
    "java-tools": java_tools,
    "java-transactions": java_transactions,
    "java-interfaces": java_interfaces,
    "connect": connect,
    "kcat": kcat,
    "confluent-kafka": confluent_kafka,
    "kafka-python-3": kafka_python_3,
    "kafka-python-2.0.2": kafka_python_2,
    "franz-go": franz_go,
    "kgo": kgo,
    "sarama": sarama,
    "kafkajs": kafkajs,
    "rust-rdkafka": rust_rdkafka,
}
