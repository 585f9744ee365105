// Transactions with Kafka's own Java client. Run from source: java -cp 'LIBS/*' Transactions.java [WORD…]; prepare.py does.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

public class Transactions {
    static final String BOOTSTRAP = System.getenv("BOOTSTRAP");
    static final Duration POLL = Duration.ofMillis(100);
    static final long CHECK_S = 240;
    static Admin admin;

    interface Check {
        void run() throws Exception;
    }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static {
        CHECKS.put("commit and abort", Transactions::commitAndAbort);
        CHECKS.put("several partitions at once", Transactions::severalPartitions);
        CHECKS.put("empty transactions", Transactions::emptyTransactions);
        CHECKS.put("offsets in a transaction", Transactions::offsetsInATransaction);
        CHECKS.put("offsets of a member", Transactions::offsetsOfAMember);
        CHECKS.put("a second producer fences the first", Transactions::fencing);
        CHECKS.put("a transaction that takes too long is aborted", Transactions::timeout);
        CHECKS.put("a timeout above the maximum is refused", Transactions::timeoutTooLarge);
        CHECKS.put("admin: list, describe, abort", Transactions::adminCalls);
        CHECKS.put("a transaction goes on over a restart", () -> overAnEnd("RESTART"));
        CHECKS.put("a transaction goes on over a kill", () -> overAnEnd("CRASH"));
        CHECKS.put("consume-transform-produce with kills is exactly once", Transactions::exactlyOnce);
    }

    public static void main(String[] words) throws Exception {
        admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));
        int failed = 0;
        ExecutorService pool = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        });
        for (var check : CHECKS.entrySet()) {
            if (words.length > 0 && Arrays.stream(words).noneMatch(check.getKey()::contains)) continue;
            long began = System.nanoTime();
            Future<?> done = pool.submit(() -> {
                check.getValue().run();
                return null;
            });
            try {
                done.get(CHECK_S, TimeUnit.SECONDS);
                System.out.println("ok    " + check.getKey());
                System.err.println(check.getKey() + ": " + (System.nanoTime() - began) / 1_000_000 + " ms");
            } catch (Exception e) {
                Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
                System.out.println("FAIL  " + check.getKey() + ": " + cause);
                cause.printStackTrace();
                failed++;
            }
            System.out.flush();
        }
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    // ---- checks ----

    static void commitAndAbort() throws Exception {
        String topic = topic(1);
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            transaction(producer, topic, 0, 100, true);
            transaction(producer, topic, 100, 150, false);
            transaction(producer, topic, 150, 250, true);
            producer.beginTransaction();
            send(producer, topic, 250, 260);
            producer.flush();
            var partition = new TopicPartition(topic, 0);
            // 100, a marker, 50, a marker, 100, a marker.
            equal("end for readers of committed data", end(partition, "read_committed"), 253L);
            equal("end for all", end(partition, "read_uncommitted"), 263L);
            var committed = IntStream.concat(IntStream.range(0, 100), IntStream.range(150, 250)).boxed().toList();
            equal("committed", read(topic, "read_committed", 200), committed);
            equal("all", read(topic, "read_uncommitted", 260), IntStream.range(0, 260).boxed().toList());
            producer.abortTransaction();
            until("the end moves behind the marker", () -> end(partition, "read_committed") == 264L);
            equal("committed after the end", read(topic, "read_committed", 200), committed);
        }
    }

    static void severalPartitions() throws Exception {
        String topic = topic(8);
        try (var producer = producer(topic, Map.of("batch.size", 400))) {
            producer.initTransactions();
            int next = 0;
            Set<Integer> committed = new TreeSet<>();
            for (int round = 0; round < 40; round++) {
                boolean commit = round % 3 != 1;
                transaction(producer, topic, next, next + 60, commit);
                for (int i = next; commit && i < next + 60; i++) committed.add(i);
                next += 60;
            }
            equal("committed", new TreeSet<>(read(topic, "read_committed", committed.size())), committed);
            equal("all", read(topic, "read_uncommitted", next).size(), next);
        }
    }

    static void emptyTransactions() throws Exception {
        String topic = topic(1);
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            for (int i = 0; i < 5; i++) {
                producer.beginTransaction();
                producer.commitTransaction();
                producer.beginTransaction();
                producer.abortTransaction();
            }
            transaction(producer, topic, 0, 10, true);
        }
        equal("committed", read(topic, "read_committed", 10).size(), 10);
    }

    static void offsetsInATransaction() throws Exception {
        String topic = topic(2), group = topic + "-group";
        var partition = new TopicPartition(topic, 0);
        var metadata = new ConsumerGroupMetadata(group);
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, 0, 10);
            producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(5, "five")), metadata);
            equal("before the commit", committed(group).get(partition), null);
            producer.commitTransaction();
            until("the commit counts", () -> at(committed(group).get(partition)) == 5);
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(7)), metadata);
            producer.abortTransaction();
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition(topic, 1), new OffsetAndMetadata(9)), metadata);
            producer.commitTransaction();
            until("the next commit counts", () -> at(committed(group).get(new TopicPartition(topic, 1))) == 9);
            equal("the aborted one does not", at(committed(group).get(partition)), 5L);
            equal("metadata", committed(group).get(partition).metadata(), "five");
        }
    }

    /** A member's commits are checked against its generation, and wait for nobody's transaction but its own. */
    static void offsetsOfAMember() throws Exception {
        String topic = topic(1), group = topic + "-group";
        try (var producer = producer(topic, Map.of()); var consumer = consumer("read_committed", group)) {
            producer.initTransactions();
            transaction(producer, topic, 0, 10, true);
            consumer.subscribe(List.of(topic));
            until("records come", () -> consumer.poll(POLL).count() > 0);
            var partition = new TopicPartition(topic, 0);
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(3)), consumer.groupMetadata());
            producer.commitTransaction();
            equal("as the member sees it", consumer.committed(Set.of(partition)).get(partition).offset(), 3L);
            var old = new ConsumerGroupMetadata(group, consumer.groupMetadata().generationId() - 1,
                    consumer.groupMetadata().memberId(), Optional.empty());
            producer.beginTransaction();
            fails(CommitFailedException.class, () -> {
                producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(4)), old);
                producer.commitTransaction();
            });
            producer.abortTransaction();
            equal("a generation that has gone commits nothing", at(committed(group).get(partition)), 3L);
        }
    }

    static void fencing() throws Exception {
        String topic = topic(1);
        try (var first = producer(topic, Map.of()); var second = producer(topic, Map.of())) {
            first.initTransactions();
            first.beginTransaction();
            send(first, topic, 0, 10);
            first.flush();
            second.initTransactions();
            // By the epoch of a batch, or by the coordinator's word.
            fails(ApiException.class, () -> {
                send(first, topic, 10, 20);
                first.commitTransaction();
            });
            transaction(second, topic, 20, 30, true);
        }
        equal("committed", read(topic, "read_committed", 10), IntStream.range(20, 30).boxed().toList());
    }

    static void timeout() throws Exception {
        String topic = topic(1);
        try (var producer = producer(topic, Map.of("transaction.timeout.ms", 1000, "delivery.timeout.ms", 10000,
                "request.timeout.ms", 5000))) {
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, 0, 10);
            producer.flush();
            until("it is aborted", () -> state(topic) == TransactionState.COMPLETE_ABORT);
            try {
                producer.commitTransaction();
                throw new AssertionError("the commit went through");
            } catch (KafkaException e) {
                // Which one depends on where the client hears of it.
            }
        }
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            transaction(producer, topic, 10, 20, true);
        }
        equal("committed", read(topic, "read_committed", 10), IntStream.range(10, 20).boxed().toList());
    }

    static void timeoutTooLarge() throws Exception {
        try (var producer = producer(topic(1), Map.of("transaction.timeout.ms", 2_000_000_000))) {
            fails(KafkaException.class, producer::initTransactions);
        }
    }

    static void adminCalls() throws Exception {
        String topic = topic(2);
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, null, 0)).get();
            producer.send(new ProducerRecord<>(topic, 1, null, 1)).get();
            var listed = admin.listTransactions().all().get().stream()
                    .filter(one -> one.transactionalId().equals(topic)).toList();
            equal("listed", listed.size(), 1);
            equal("its state", listed.get(0).state(), TransactionState.ONGOING);
            var pattern = new ListTransactionsOptions().filterOnTransactionalIdPattern(topic + ".*");
            equal("by pattern", admin.listTransactions(pattern).all().get().size(), 1);
            var duration = new ListTransactionsOptions().filterOnDuration(3_600_000);
            equal("by duration", admin.listTransactions(duration).all().get().stream()
                    .filter(one -> one.transactionalId().equals(topic)).count(), 0L);
            var described = admin.describeTransactions(List.of(topic)).all().get().get(topic);
            equal("its partitions", described.topicPartitions().size(), 2);
            equal("its producer", described.producerId(), listed.get(0).producerId());
            var partition = new TopicPartition(topic, 0);
            var producers = admin.describeProducers(List.of(partition)).all().get().get(partition).activeProducers();
            equal("producers", producers.size(), 1);
            var open = producers.get(0);
            equal("where it began", open.currentTransactionStartOffset(), OptionalLong.of(0));
            var spec = new AbortTransactionSpec(partition, open.producerId(), (short) open.producerEpoch(),
                    open.coordinatorEpoch().orElse(0));
            admin.abortTransaction(spec).all().get();
            equal("the aborted partition is free", end(partition, "read_committed"), 2L);
            equal("the other is not", end(new TopicPartition(topic, 1), "read_committed"), 0L);
            admin.forceTerminateTransaction(topic).result().get();
            until("the other is free", () -> end(new TopicPartition(topic, 1), "read_committed") == 2L);
            fails(KafkaException.class, producer::commitTransaction);
        }
        fails(ExecutionException.class, () -> admin.describeTransactions(List.of("nobody")).all().get());
        admin.fenceProducers(List.of("nobody-yet-" + topic)).all().get();
    }

    /** The broker ends between what a transaction sends. */
    static void overAnEnd(String how) throws Exception {
        String topic = topic(4), group = topic + "-group";
        var partition = new TopicPartition(topic, 0);
        try (var producer = producer(topic, Map.of())) {
            producer.initTransactions();
            for (int round = 0; round < 3; round++) {
                producer.beginTransaction();
                send(producer, topic, 100 * round, 100 * round + 50);
                producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(round + 1)),
                        new ConsumerGroupMetadata(group));
                producer.flush();
                shell(how);
                send(producer, topic, 100 * round + 50, 100 * round + 100);
                if (round == 1) producer.abortTransaction(); else producer.commitTransaction();
                shell(how);
            }
        }
        var committed = IntStream.concat(IntStream.range(0, 100), IntStream.range(200, 300)).boxed().toList();
        equal("committed", new TreeSet<>(read(topic, "read_committed", 200)), new TreeSet<>(committed));
        until("offsets", () -> at(committed(group).get(partition)) == 3);
    }

    /** Workers that come and go, each with what it was given, and a broker that is killed now and then. */
    static void exactlyOnce() throws Exception {
        String in = topic(4), out = topic(4), group = in + "-group";
        int records = 4000, workers = 2;
        try (var producer = producer(in, Map.of())) {
            producer.initTransactions();
            transaction(producer, in, 0, records, true);
        }
        var done = new AtomicBoolean();
        var threads = new ArrayList<Thread>();
        for (int worker = 0; worker < workers; worker++) {
            String id = out + "-" + worker;
            Thread thread = new Thread(() -> {
                for (int life = 0; !done.get(); life++) work(in, out, group, id, life, done);
            });
            thread.setDaemon(true);
            thread.start();
            threads.add(thread);
        }
        for (int kill = 1; kill <= 3; kill++) {
            long some = kill * records / 5;
            until("some are through", () -> through(group) >= some);
            shell("CRASH");
        }
        var all = IntStream.range(0, records).boxed().collect(Collectors.toList());
        try {
            until("all are through", () -> through(group) >= records, 180);
        } finally {
            done.set(true);
            for (Thread thread : threads) thread.join(30_000);
        }
        var seen = new ArrayList<>(read(out, "read_committed", records));
        Collections.sort(seen);
        equal("each once", seen, all);
        System.err.println("read uncommitted: " + end(out, 4, "read_uncommitted") + " offsets for " + records + " records");
    }

    /** One life of a worker: it ends with an error, or by leaving everything as it is. */
    static void work(String in, String out, String group, String id, int life, AtomicBoolean done) {
        var producer = producer(id, Map.of("transaction.timeout.ms", 20_000));
        var consumer = consumer("read_committed", group);
        try {
            producer.initTransactions();
            consumer.subscribe(List.of(in));
            for (int round = 0; !done.get(); round++) {
                var records = consumer.poll(POLL);
                if (records.isEmpty()) continue;
                producer.beginTransaction();
                var offsets = new HashMap<TopicPartition, OffsetAndMetadata>();
                for (var record : records) {
                    producer.send(new ProducerRecord<>(out, record.partition(), null, record.value()));
                    offsets.put(new TopicPartition(in, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                if (round % 7 == 6) { // It dies: nothing is told to anybody.
                    producer.flush();
                    producer.close(Duration.ZERO);
                    return;
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                producer.commitTransaction();
            }
        } catch (KafkaException e) {
            System.err.println(id + " life " + life + ": " + e);
        } finally {
            producer.close(Duration.ZERO);
            consumer.close(CloseOptions.timeout(Duration.ofSeconds(5)));
        }
    }

    // ---- what they are made of ----

    static int topics = 0;

    static synchronized String topic(int partitions) throws Exception {
        String name = "transactions-" + topics++;
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
        return name;
    }

    static KafkaProducer<byte[], Integer> producer(String id, Map<String, Object> more) {
        var config = new HashMap<String, Object>(Map.of("bootstrap.servers", BOOTSTRAP, "transactional.id", id));
        config.putAll(more);
        return new KafkaProducer<>(config, new ByteArraySerializer(), new IntegerSerializer());
    }

    static KafkaConsumer<byte[], Integer> consumer(String isolation, String group) {
        var config = new HashMap<String, Object>(Map.of("bootstrap.servers", BOOTSTRAP, "isolation.level", isolation,
                "auto.offset.reset", "earliest", "enable.auto.commit", false, "max.poll.records", 97,
                "session.timeout.ms", 6000, "heartbeat.interval.ms", 1000));
        if (group != null) config.put("group.id", group);
        return new KafkaConsumer<>(config, new ByteArrayDeserializer(), new IntegerDeserializer());
    }

    static void send(Producer<byte[], Integer> producer, String topic, int from, int to) {
        for (int i = from; i < to; i++) producer.send(new ProducerRecord<>(topic, i));
    }

    static void transaction(Producer<byte[], Integer> producer, String topic, int from, int to, boolean commit) {
        producer.beginTransaction();
        send(producer, topic, from, to);
        producer.flush();
        if (commit) producer.commitTransaction(); else producer.abortTransaction();
    }

    /** What is in a topic, in the order it comes: at least this many, and up to the end of each partition. */
    static List<Integer> read(String topic, String isolation, int count) throws Exception {
        try (var consumer = consumer(isolation, null)) {
            var partitions = consumer.partitionsFor(topic).stream()
                    .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            var ends = consumer.endOffsets(partitions);
            var values = new ArrayList<Integer>();
            long before = System.nanoTime();
            while (values.size() < count || partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                consumer.poll(POLL).forEach(record -> values.add(record.value()));
                if (System.nanoTime() - before > 60_000_000_000L)
                    throw new AssertionError(values.size() + " of " + count + " records came, ends " + ends);
            }
            return values;
        }
    }

    static long end(TopicPartition partition, String isolation) throws Exception {
        try (var consumer = consumer(isolation, null)) {
            return consumer.endOffsets(Set.of(partition)).get(partition);
        }
    }

    static long end(String topic, int partitions, String isolation) throws Exception {
        long sum = 0;
        for (int i = 0; i < partitions; i++) sum += end(new TopicPartition(topic, i), isolation);
        return sum;
    }

    static Map<TopicPartition, OffsetAndMetadata> committed(String group) throws Exception {
        return admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
    }

    static long through(String group) throws Exception {
        return committed(group).values().stream().mapToLong(o -> o.offset()).sum();
    }

    static long at(OffsetAndMetadata offset) {
        return offset == null ? -1 : offset.offset();
    }

    static TransactionState state(String id) throws Exception {
        return admin.describeTransactions(List.of(id)).all().get().get(id).state();
    }

    static void shell(String variable) throws Exception {
        int code = new ProcessBuilder("sh", "-c", System.getenv(variable)).redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .redirectError(ProcessBuilder.Redirect.INHERIT).start().waitFor();
        equal(variable, code, 0);
    }

    static void until(String what, Callable<Boolean> condition) throws Exception {
        until(what, condition, 60);
    }

    static void until(String what, Callable<Boolean> condition, int seconds) throws Exception {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (true) {
            try {
                if (condition.call()) return;
            } catch (ExecutionException | RetriableException e) {
                // The broker may just be away.
            }
            if (System.nanoTime() > end) throw new AssertionError("not within " + seconds + " s: " + what);
            Thread.sleep(50);
        }
    }

    static void equal(String what, Object got, Object wanted) {
        if (!Objects.equals(got, wanted)) throw new AssertionError(what + ": " + got + ", not " + wanted);
    }

    static void fails(Class<? extends Throwable> with, Check check) throws Exception {
        try {
            check.run();
        } catch (Throwable e) {
            if (with.isInstance(e) || with.isInstance(e.getCause())) return;
            throw new AssertionError("it failed with " + e + ", not " + with.getSimpleName(), e);
        }
        throw new AssertionError("it went through, and ought to fail with " + with.getSimpleName());
    }
}
