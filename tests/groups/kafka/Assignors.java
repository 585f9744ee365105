// Prints what Apache Kafka's own assignors do with groups drawn at random: `java -cp 'LIBS/*' Assignors.java` with the jars
// of a Kafka 4.3 distribution. Its output is `src/broker/group/consumer/assignor/golden.txt`, which the tests there read.
//
//     group uniform homogeneous|heterogeneous
//     topic NAME ID PARTITIONS
//     member ID INSTANCE|- NAME,… BEFORE AFTER      (in the order of Kafka's map of members; - for nothing)

import java.util.*;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.common.runtime.*;
import org.apache.kafka.coordinator.group.api.assignor.*;
import org.apache.kafka.coordinator.group.assignor.*;
import org.apache.kafka.coordinator.group.modern.*;

public class Assignors {
    record Topic(String name, Uuid id, int partitionCount) implements CoordinatorMetadataImage.TopicMetadata {
        public List<String> partitionRacks(int partition) { return List.of(); }
    }

    record Image(TreeMap<String, Topic> topics) implements CoordinatorMetadataImage {
        public Set<Uuid> topicIds() { throw new UnsupportedOperationException(); }
        public Set<String> topicNames() { return topics.keySet(); }
        public Optional<TopicMetadata> topicMetadata(String name) { return Optional.ofNullable(topics.get(name)); }
        public Optional<TopicMetadata> topicMetadata(Uuid id) {
            return topics.values().stream().filter(t -> t.id.equals(id)).map(t -> (TopicMetadata) t).findAny();
        }
        public CoordinatorMetadataDelta emptyDelta() { return CoordinatorMetadataDelta.EMPTY; }
        public long version() { return 1; }
        public boolean isEmpty() { return false; }
    }

    static class Member {
        String id, instance;
        List<String> names;
        Map<Uuid, Set<Integer>> target = Map.of();
    }

    static final Random random = new Random(4302);

    static Uuid uuid() { return new Uuid(random.nextLong(), random.nextLong()); }

    static String show(Image image, Map<Uuid, Set<Integer>> partitions) {
        TreeMap<String, String> byName = new TreeMap<>();
        partitions.forEach((id, set) -> {
            StringJoiner joiner = new StringJoiner(".");
            new TreeSet<>(set).forEach(p -> joiner.add(p.toString()));
            if (!set.isEmpty()) byName.put(image.topicMetadata(id).get().name(), joiner.toString());
        });
        StringJoiner all = new StringJoiner(";");
        byName.forEach((name, list) -> all.add(name + ":" + list));
        return all.length() == 0 ? "-" : all.toString();
    }

    static void play(boolean homogeneous, ConsumerGroupPartitionAssignor assignor) {
        TreeMap<String, Topic> topics = new TreeMap<>();
        int topicCount = 1 + random.nextInt(homogeneous ? 4 : 6);
        for (int i = 0; i < topicCount; i++)
            topics.put("t" + i, new Topic("t" + i, uuid(), 1 + random.nextInt(random.nextInt(8) == 0 ? 40 : 9)));
        List<Member> members = new ArrayList<>();
        for (int round = 0, rounds = 2 + random.nextInt(3); round < rounds; round++) {
            change(homogeneous, topics, members);
            step(homogeneous, assignor, new Image(topics), members);
        }
    }

    static void change(boolean homogeneous, TreeMap<String, Topic> topics, List<Member> members) {
        if (!members.isEmpty() && random.nextInt(3) == 0) members.remove(random.nextInt(members.size()));
        if (members.isEmpty() || random.nextInt(2) == 0)
            for (int i = random.nextInt(4); i >= 0; i--) members.add(new Member());
        for (Topic topic : new ArrayList<>(topics.values()))
            if (random.nextInt(5) == 0) topics.put(topic.name, new Topic(topic.name, topic.id, topic.partitionCount + 1 + random.nextInt(3)));
        List<String> all = new ArrayList<>(topics.keySet());
        all.add("missing");
        Collections.shuffle(all, random);
        List<String> common = all.subList(0, 1 + random.nextInt(all.size()));
        for (Member member : members) {
            if (member.id == null) {
                member.id = uuid().toString();
                member.instance = random.nextInt(4) == 0 ? "i-" + random.nextInt(1000) : null;
            }
            if (homogeneous) {
                member.names = common;
            } else if (member.names == null || random.nextInt(4) == 0) {
                Collections.shuffle(all, random);
                member.names = new ArrayList<>(all.subList(0, random.nextInt(all.size() + 1)));
            }
        }
    }

    static void step(boolean homogeneous, ConsumerGroupPartitionAssignor assignor, Image image, List<Member> members) {
        Map<String, MemberSubscriptionAndAssignmentImpl> specs = new HashMap<>();
        Map<Uuid, Map<Integer, String>> inverted = new HashMap<>();
        Map<String, Member> byId = new HashMap<>();
        for (Member member : members) {
            byId.put(member.id, member);
            specs.put(member.id, new MemberSubscriptionAndAssignmentImpl(Optional.empty(), Optional.ofNullable(member.instance),
                new TopicIds(new HashSet<>(member.names), image), new Assignment(member.target)));
            member.target.forEach((id, set) -> set.forEach(p -> inverted.computeIfAbsent(id, __ -> new HashMap<>()).put(p, member.id)));
        }
        GroupAssignment result = assignor.assign(
            new GroupSpecImpl(specs, homogeneous ? SubscriptionType.HOMOGENEOUS : SubscriptionType.HETEROGENEOUS, inverted),
            new SubscribedTopicDescriberImpl(image));
        System.out.println("group " + assignor.name() + (homogeneous ? " homogeneous" : " heterogeneous"));
        image.topics.values().forEach(t -> System.out.println("topic " + t.name + " " + t.id + " " + t.partitionCount));
        for (String id : specs.keySet()) {
            Member member = byId.get(id);
            MemberAssignment got = result.members().get(id);
            Map<Uuid, Set<Integer>> after = got == null ? Map.of() : got.partitions();
            String names = member.names.isEmpty() ? "-" : String.join(",", member.names);
            System.out.println("member " + id + " " + (member.instance == null ? "-" : member.instance) + " " + names + " "
                + show(image, member.target) + " " + show(image, after));
            // As it is read back from the log: by topic, partitions ascending.
            TreeMap<Uuid, Set<Integer>> ordered = new TreeMap<>();
            after.forEach((topic, set) -> { if (!set.isEmpty()) ordered.put(topic, new HashSet<>(new TreeSet<>(set))); });
            Map<Uuid, Set<Integer>> target = new HashMap<>();
            bytes(ordered).forEach(topic -> target.put(topic, ordered.get(topic)));
            member.target = target;
        }
    }

    // In the order of the ids' bytes.
    static List<Uuid> bytes(TreeMap<Uuid, Set<Integer>> map) {
        List<Uuid> ids = new ArrayList<>(map.keySet());
        ids.sort((a, b) -> {
            int high = Long.compareUnsigned(a.getMostSignificantBits(), b.getMostSignificantBits());
            return high != 0 ? high : Long.compareUnsigned(a.getLeastSignificantBits(), b.getLeastSignificantBits());
        });
        return ids;
    }

    public static void main(String[] args) {
        for (int i = 0; i < 25; i++) {
            play(true, new UniformAssignor());
            play(false, new UniformAssignor());
            play(i % 2 == 0, new RangeAssignor());
        }
    }
}
