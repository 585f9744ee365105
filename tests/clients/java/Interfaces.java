// What the usual web interfaces for Kafka ask, in their order and with their options, by the Java client that they use: AKHQ,
// Kafdrop, kafka-ui. Run from source: java -cp 'LIBS/*' Interfaces.java [WORD…]; prepare.py does.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;

@SuppressWarnings("removal") // they still use what is marked for it
public class Interfaces {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final Duration POLL = Duration.ofMillis(200);
    static final long CHECK_S = 120, WAIT_S = 60;
    static final String TOPIC = "interfaces", GROUP = "interfaces-readers";
    static final int RECORDS = 90, READ = 40;
    static Admin admin;

    interface Check {
        void run() throws Exception;
    }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static {
        CHECKS.put("AKHQ: topics, their sizes and offsets", Interfaces::akhqTopics);
        CHECKS.put("AKHQ: the newest records of a topic, and those since a time", Interfaces::akhqRecords);
        CHECKS.put("AKHQ: groups, their lag, their offsets set and deleted", Interfaces::akhqGroups);
        CHECKS.put("AKHQ: configs of nodes and topics, changed one by one", Interfaces::akhqConfigs);
        CHECKS.put("AKHQ: a topic made, emptied and deleted", Interfaces::akhqTopicLife);
        CHECKS.put("Kafdrop: the overview, a topic's records, its consumers", Interfaces::kafdrop);
        CHECKS.put("kafka-ui: what the cluster can do, and all of its statistics", Interfaces::kafkaUi);
        CHECKS.put("all of them: ACLs without an authorizer", Interfaces::acls);
    }

    public static void main(String[] words) throws Exception {
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP, "client.id", "interfaces"));
        int failed = 0;
        ExecutorService pool = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        });
        fill();
        for (var check : CHECKS.entrySet()) {
            if (words.length > 0 && Arrays.stream(words).noneMatch(check.getKey()::contains)) continue;
            Future<?> done = pool.submit(() -> {
                check.getValue().run();
                return null;
            });
            try {
                done.get(CHECK_S, TimeUnit.SECONDS);
                System.out.println("ok    " + check.getKey());
            } catch (Exception e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                System.out.println("FAIL  " + check.getKey() + ": " + cause);
                cause.printStackTrace();
                failed++;
            }
        }
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    // What there is to see: three partitions with 30 records each, a group that has read some.
    static void fill() throws Exception {
        get(admin.createTopics(List.of(new NewTopic(TOPIC, 3, (short) 1))).all());
        try (var producer = new KafkaProducer<>(Map.of("bootstrap.servers", BOOTSTRAP), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < RECORDS; i++) {
                producer.send(new ProducerRecord<>(TOPIC, i % 3, 1000L * (i + 1), "k" + i, "v" + i));
            }
        }
        try (var consumer = consumer(Map.of("group.id", GROUP, "max.poll.records", "10"))) {
            consumer.subscribe(List.of(TOPIC));
            int read = 0;
            Map<TopicPartition, OffsetAndMetadata> done = new HashMap<>();
            for (long end = System.nanoTime() + WAIT_S * 1_000_000_000; read < READ && System.nanoTime() < end;) {
                for (var record : consumer.poll(POLL)) {
                    if (read++ < READ) done.put(new TopicPartition(TOPIC, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
            }
            consumer.commitSync(done);
        }
    }

    static void akhqTopics() throws Exception {
        var listed = get(admin.listTopics(new ListTopicsOptions().listInternal(true)).listings());
        var names = listed.stream().map(TopicListing::name).collect(Collectors.toSet());
        same(true, names.contains(TOPIC) && names.contains("__consumer_offsets"));
        same(true, listed.stream().anyMatch(one -> one.name().equals("__consumer_offsets") && one.isInternal()));
        var described = get(admin.describeTopics(names).allTopicNames());
        same(names, described.keySet());
        var nodes = get(admin.describeCluster().nodes());
        var dirs = get(admin.describeLogDirs(nodes.stream().map(Node::id).toList()).allDescriptions());
        long replicas = dirs.values().stream().flatMap(of -> of.values().stream()).flatMap(dir -> dir.replicaInfos().entrySet().stream())
                .filter(one -> one.getKey().topic().equals(TOPIC) && one.getValue().size() > 0).count();
        same(3L, replicas);
        var partitions = described.get(TOPIC).partitions().stream().map(one -> new TopicPartition(TOPIC, one.partition())).toList();
        for (var one : described.get(TOPIC).partitions()) {
            same(1, one.replicas().size());
            same(true, one.isr().contains(one.leader()));
        }
        try (var consumer = consumer(Map.of())) {
            // Its begins are what lies at or after the time 0.
            var begins = consumer.offsetsForTimes(partitions.stream().collect(Collectors.toMap(one -> one, one -> 0L)));
            var ends = consumer.endOffsets(partitions);
            for (var one : partitions) {
                same(0L, begins.get(one).offset());
                same(RECORDS / 3L, ends.get(one));
            }
        }
    }

    static void akhqRecords() throws Exception {
        var partitions = IntStream.range(0, 3).mapToObj(number -> new TopicPartition(TOPIC, number)).toList();
        try (var consumer = consumer(Map.of("max.poll.records", "50", "enable.auto.commit", "false"))) {
            consumer.assign(partitions);
            consumer.endOffsets(partitions).forEach((one, end) -> consumer.seek(one, end - 5));
            var values = read(consumer, 15);
            same(IntStream.range(RECORDS - 15, RECORDS).mapToObj(i -> "v" + i).collect(Collectors.toCollection(TreeSet::new)), values);
            var since = consumer.offsetsForTimes(partitions.stream().collect(Collectors.toMap(one -> one, one -> 80_001L)));
            since.forEach((one, at) -> consumer.seek(one, at.offset()));
            same(IntStream.range(80, RECORDS).mapToObj(i -> "v" + i).collect(Collectors.toCollection(TreeSet::new)), read(consumer, 10));
            // Nobody is behind the last record.
            same(3L, consumer.offsetsForTimes(partitions.stream().collect(Collectors.toMap(one -> one, one -> 1L << 50)))
                    .values().stream().filter(Objects::isNull).count());
        }
    }

    static void akhqGroups() throws Exception {
        var groups = get(admin.listGroups(ListGroupsOptions.forConsumerGroups()).all());
        same(true, groups.stream().anyMatch(one -> one.groupId().equals(GROUP)));
        var described = get(admin.describeConsumerGroups(List.of(GROUP)).all()).get(GROUP);
        same(GroupState.EMPTY, described.groupState());
        same(0, described.members().size());
        var offsets = get(admin.listConsumerGroupOffsets(GROUP).partitionsToOffsetAndMetadata());
        try (var consumer = consumer(Map.of())) {
            long lag = consumer.endOffsets(offsets.keySet()).entrySet().stream()
                    .mapToLong(one -> one.getValue() - offsets.get(one.getKey()).offset()).sum();
            lag += (3 - offsets.size()) * (RECORDS / 3L);
            same((long) RECORDS - READ, lag);
        }
        // It sets offsets as a member of nothing, by a commit of its own.
        String group = "interfaces-set";
        var at = Map.of(new TopicPartition(TOPIC, 1), new OffsetAndMetadata(7));
        try (var consumer = consumer(Map.of("group.id", group))) {
            consumer.commitSync(at);
        }
        same(at, get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()));
        get(admin.deleteConsumerGroupOffsets(group, at.keySet()).all());
        same(Map.of(), get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()));
        get(admin.alterConsumerGroupOffsets(group, at).all());
        get(admin.deleteConsumerGroups(List.of(group)).all());
        same(true, get(admin.listGroups().all()).stream().noneMatch(one -> one.groupId().equals(group)));
    }

    static void akhqConfigs() throws Exception {
        var node = get(admin.describeCluster().nodes()).iterator().next();
        var broker = new ConfigResource(ConfigResource.Type.BROKER, node.idString());
        var topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        var configs = get(admin.describeConfigs(List.of(broker, topic)).all());
        same(true, configs.get(broker).entries().size() > 150);
        for (var entry : configs.get(topic).entries()) {
            same(false, entry.name().isEmpty());
            same(true, entry.source() != ConfigEntry.ConfigSource.UNKNOWN);
        }
        set(topic, "retention.ms", "3600000");
        var changed = get(admin.describeConfigs(List.of(topic)).all()).get(topic).get("retention.ms");
        same("3600000", changed.value());
        same(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, changed.source());
        refused(InvalidConfigurationException.class, () -> set(topic, "retention.ms", "soon"));
    }

    static void akhqTopicLife() throws Exception {
        String name = "interfaces-made";
        get(admin.createTopics(List.of(new NewTopic(name, 2, (short) 1).configs(Map.of("cleanup.policy", "compact")))).all());
        refused(TopicExistsException.class, () -> get(admin.createTopics(List.of(new NewTopic(name, 2, (short) 1))).all()));
        get(admin.createPartitions(Map.of(name, NewPartitions.increaseTo(4))).all());
        // A broker of Kafka's hears of it a moment later.
        until(() -> get(admin.describeTopics(List.of(name)).allTopicNames()).get(name).partitions().size() == 4);
        // What is emptied is a copy of its own.
        String copy = "interfaces-copy";
        get(admin.createTopics(List.of(new NewTopic(copy, 3, (short) 1))).all());
        try (var producer = new KafkaProducer<>(Map.of("bootstrap.servers", BOOTSTRAP), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < 9; i++) producer.send(new ProducerRecord<>(copy, 2, null, "v" + i));
        }
        var emptied = new TopicPartition(copy, 2);
        var gone = get(admin.deleteRecords(Map.of(emptied, RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(emptied));
        same(9L, gone.lowWatermark());
        get(admin.deleteTopics(List.of(name, copy)).all());
        until(() -> !get(admin.listTopics().names()).contains(name));
        refused(UnknownTopicOrPartitionException.class, () -> get(admin.describeTopics(List.of(name)).allTopicNames()));
    }

    static void kafdrop() throws Exception {
        var cluster = admin.describeCluster();
        same(true, get(cluster.nodes()).stream().anyMatch(node -> node.id() == get(cluster.controller()).id()));
        try (var consumer = consumer(Map.of("enable.auto.commit", "false", "max.poll.records", "100", "auto.offset.reset", "earliest",
                "client.id", "kafdrop-consumer", "isolation.level", "read_committed"))) {
            var topics = consumer.listTopics();
            same(3, topics.get(TOPIC).size());
            var partitions = consumer.partitionsFor(TOPIC).stream().map(one -> new TopicPartition(TOPIC, one.partition())).toList();
            consumer.assign(partitions);
            same(0L, consumer.beginningOffsets(partitions).values().stream().mapToLong(one -> one).sum());
            same((long) RECORDS, consumer.endOffsets(partitions).values().stream().mapToLong(one -> one).sum());
            var one = List.of(partitions.get(0));
            consumer.assign(one);
            consumer.seek(one.get(0), consumer.endOffsets(one).get(one.get(0)) - 10);
            same(10, read(consumer, 10).size());
        }
        for (var group : get(admin.listConsumerGroups().valid())) {
            var offsets = get(admin.listConsumerGroupOffsets(group.groupId()).partitionsToOffsetAndMetadata());
            if (group.groupId().equals(GROUP)) same((long) READ, offsets.values().stream().mapToLong(OffsetAndMetadata::offset).sum());
        }
    }

    static void kafkaUi() throws Exception {
        var cluster = admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
        int controller = get(cluster.controller()).id();
        get(cluster.authorizedOperations());
        var broker = new ConfigResource(ConfigResource.Type.BROKER, String.valueOf(controller));
        var configs = get(admin.describeConfigs(List.of(broker), new DescribeConfigsOptions().includeSynonyms(true)).all()).get(broker);
        same(true, configs.entries().stream().anyMatch(one -> one.name().equals("delete.topic.enable")));
        same(true, get(admin.describeFeatures().featureMetadata()).finalizedFeatures().containsKey("metadata.version"));
        var quorum = get(admin.describeMetadataQuorum().quorumInfo());
        same(true, quorum.leaderId() >= 0);
        var topics = get(admin.listTopics(new ListTopicsOptions().listInternal(true)).names());
        var described = get(admin.describeTopics(topics).allTopicNames());
        get(admin.describeConfigs(topics.stream().map(name -> new ConfigResource(ConfigResource.Type.TOPIC, name)).toList(),
                new DescribeConfigsOptions().includeSynonyms(true)).all());
        var partitions = described.values().stream().flatMap(topic -> topic.partitions().stream()
                .map(one -> new TopicPartition(topic.name(), one.partition()))).toList();
        for (var spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest())) {
            var found = get(admin.listOffsets(partitions.stream().collect(Collectors.toMap(one -> one, one -> spec))).all());
            same(partitions.size(), found.size());
        }
        same(Map.of(), get(admin.listPartitionReassignments().reassignments()));
        var groups = get(admin.listGroups(ListGroupsOptions.forConsumerGroups()).valid()).stream().map(GroupListing::groupId).toList();
        same(new HashSet<>(groups), get(admin.describeConsumerGroups(groups).all()).keySet());
        var specs = groups.stream().collect(Collectors.toMap(group -> group, group -> new ListConsumerGroupOffsetsSpec()));
        same(new HashSet<>(groups), get(admin.listConsumerGroupOffsets(specs).all()).keySet());
        var producers = get(admin.describeProducers(List.of(new TopicPartition(TOPIC, 0))).all());
        same(1, producers.get(new TopicPartition(TOPIC, 0)).activeProducers().size());
        get(admin.describeClientQuotas(org.apache.kafka.common.quota.ClientQuotaFilter.all()).entities());
        get(admin.describeUserScramCredentials().all());
    }

    static void acls() throws Exception {
        var any = new AclBindingFilter(ResourcePatternFilter.ANY, AccessControlEntryFilter.ANY);
        refused(SecurityDisabledException.class, () -> get(admin.describeAcls(any).values()));
    }

    // ---- means ----

    static KafkaConsumer<String, String> consumer(Map<String, Object> further) {
        Map<String, Object> configs = new HashMap<>(Map.of("bootstrap.servers", BOOTSTRAP, "auto.offset.reset", "earliest",
                "enable.auto.commit", "false"));
        configs.putAll(further);
        return new KafkaConsumer<>(configs, new StringDeserializer(), new StringDeserializer());
    }

    static SortedSet<String> read(KafkaConsumer<String, String> consumer, int count) {
        var values = new TreeSet<String>();
        for (long end = System.nanoTime() + WAIT_S * 1_000_000_000; values.size() < count && System.nanoTime() < end;) {
            consumer.poll(POLL).forEach(record -> values.add(record.value()));
        }
        return values;
    }

    static void set(ConfigResource resource, String name, String value) {
        var op = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
        get(admin.incrementalAlterConfigs(Map.of(resource, List.of(op))).all());
    }

    static <T> T get(KafkaFuture<T> future) {
        try {
            return future.get(WAIT_S, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
            throw e.getCause() instanceof RuntimeException cause ? cause : new RuntimeException(e.getCause());
        } catch (InterruptedException | java.util.concurrent.TimeoutException e) {
            throw new RuntimeException(e);
        }
    }

    static void until(Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + WAIT_S * 1_000_000_000; !condition.call();) {
            if (System.nanoTime() > end) throw new AssertionError("it did not come about");
            Thread.sleep(50);
        }
    }

    static void refused(Class<? extends Exception> with, Check what) throws Exception {
        try {
            what.run();
        } catch (Exception e) {
            if (with.isInstance(e)) return;
            throw e;
        }
        throw new AssertionError("not refused with " + with.getSimpleName());
    }

    static void same(Object wanted, Object found) {
        if (!wanted.equals(found)) throw new AssertionError("wanted " + wanted + ", found " + found);
    }
}
