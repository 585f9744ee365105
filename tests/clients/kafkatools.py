"""Where Apache Kafka's jars are and how its tools are started: used by the test broker, the Java tool tests and perf/."""
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ringlog-tests")
LIBS = os.path.join(CACHE, "kafka-4.3.1", "libs")

_CLASSES = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "configs": "kafka.admin.ConfigCommand",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "groups": "org.apache.kafka.tools.GroupsCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "features": "org.apache.kafka.tools.FeatureCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "acls": "org.apache.kafka.tools.AclCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
    "client-metrics": "org.apache.kafka.tools.ClientMetricsCommand",
    "delegation-tokens": "org.apache.kafka.tools.DelegationTokenCommand",
    "cluster": "org.apache.kafka.tools.ClusterTool",
    "dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "storage": "kafka.tools.StorageTool",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
    "verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "producer-perf": "org.apache.kafka.tools.ProducerPerformance",
    "consumer-perf": "org.apache.kafka.tools.ConsumerPerformance",
    "e2e": "org.apache.kafka.tools.EndToEndLatency",
    "connect": "org.apache.kafka.connect.cli.ConnectStandalone",
    "broker": "kafka.Kafka",
}
# A tool lives for a second or two: the first compiler tier and the serial collector start it in half the CPU time.
_SHORT_LIVED = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512M"]
_LONG_LIVED = ["-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
               "-XX:+ExplicitGCInvokesConcurrent"]


def command(tool, *args, jvm=None):
    """The argument list that runs one of Kafka's tools; jvm replaces the options of a short-lived process."""
    java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
    log = os.path.join(HERE, "java", "log4j2.yaml")
    return [java, *(jvm or _SHORT_LIVED), "-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={log}",
            "-cp", os.path.join(LIBS, "*"), _CLASSES[tool], *map(str, args)]


def long_lived(heap="1g"):
    """JVM options as upstream's start script passes them, for brokers and load generators."""
    return [*_LONG_LIVED, f"-Xms{heap}", f"-Xmx{heap}"]


def run(tool, *args, stdin=None, timeout_s=90):
    """Runs a tool to its end: (exit code, standard output, standard error). A tool that hangs is killed: code 124."""
    try:
        p = subprocess.run(command(tool, *args), input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout_s)
        return p.returncode, p.stdout, p.stderr
    except subprocess.TimeoutExpired as e:
        text = [x.decode() if isinstance(x, bytes) else x or "" for x in (e.stdout, e.stderr)]
        return 124, text[0], text[1] + f"\ntimed out after {timeout_s} s"


def complaints(data_dir):
    """What kafka-dump-log says against the files of a stopped broker: every batch and record of every segment is read and
    every index is held against its segment. One pass a partition folder would start a JVM each: all files go into one."""
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(data_dir) for name in names
                   if name.endswith((".log", ".index", ".timeindex")) and is_partition(folder))
    if not any(f.endswith(".log") and os.path.getsize(f) for f in files):
        return [f"no segments under {data_dir}"]
    code, out, err = run("dump-log", "--deep-iteration", "--files", ",".join(files), timeout_s=300)
    found = [line for line in err.splitlines() if line.strip()] if code else []
    # " -1 is followed by 500" only says that a segment begins at 500.
    marks = ("Mismatches in", "isvalid: false", "isValid: false", "Found timestamp mismatch", "out of order",
             "found log offset", "invalid bytes at the end", "Could not", "corrupt", "Exception", "does not match")
    return found + [line for line in out.splitlines() + err.splitlines() if any(m in line for m in marks)
                    or " is followed by " in line and not line.strip().startswith("-1 ")]


def is_partition(folder):
    """Whether a folder is a live partition's: named topic-0, not the controller's log, not one that is being deleted."""
    name, dash, number = os.path.basename(folder).rpartition("-")
    return bool(name and dash and number.isdigit()) and not name.startswith("__cluster_metadata")
