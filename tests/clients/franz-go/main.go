// The franz-go client against a broker; see ../README.md for what each check means.
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	. "ringlog.test/gocheck"
)

var (
	admin  = kadm.NewClient(client())
	codecs = map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
)

func client(opts ...kgo.Opt) *kgo.Client {
	return Get(kgo.NewClient(append(opts, kgo.SeedBrokers(Bootstrap), kgo.MetadataMinAge(100*time.Millisecond))...))
}

func create(ctx context.Context, topic string, partitions int32, config map[string]*string) {
	Must(Get(admin.CreateTopic(ctx, partitions, 1, config, topic)).Err)
	Until("topic in metadata", func() bool { return len(Get(admin.Metadata(ctx)).Topics[topic].Partitions) == int(partitions) })
}

func record(topic string, i int) *kgo.Record {
	key, value, headers, timestamp := Record(i)
	r := &kgo.Record{Topic: topic, Key: key, Value: value, Timestamp: timestamp}
	for _, h := range headers {
		r.Headers = append(r.Headers, kgo.RecordHeader(h))
	}
	return r
}

// send produces records start to end; all are acknowledged when it returns. This client is idempotent unless told otherwise.
func send(ctx context.Context, topic string, start, end int, opts ...kgo.Opt) {
	producer := client(opts...)
	defer producer.Close()
	var records []*kgo.Record
	for i := start; i < end; i++ {
		records = append(records, record(topic, i))
	}
	Must(producer.ProduceSync(ctx, records...).FirstErr())
}

// member is a member of a group on a goroutine of its own. It commits after every poll.
type member struct {
	client *kgo.Client
	cancel context.CancelFunc
	ended  chan struct{}
	mu     sync.Mutex
	held   []int32
}

func join(ctx context.Context, group, topic string, take func(*kgo.Record), enough func() bool, opts ...kgo.Opt) *member {
	m := &member{ended: make(chan struct{})}
	ctx, m.cancel = context.WithCancel(ctx)
	m.client = client(append(opts, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { m.change(p[topic], nil) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { m.change(nil, p[topic]) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { m.change(nil, p[topic]) }))...)
	go func() {
		defer close(m.ended)
		for ctx.Err() == nil && !enough() {
			polled := m.client.PollRecords(ctx, 50)
			polled.EachRecord(take)
			if polled.NumRecords() > 0 {
				// One that fails while the broker restarts is covered by the next.
				_ = m.client.CommitUncommittedOffsets(ctx)
			}
			m.client.AllowRebalance()
		}
		m.client.CloseAllowingRebalance()
	}()
	return m
}

func (m *member) change(gained, lost []int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = slices.DeleteFunc(append(m.held, gained...), func(p int32) bool { return slices.Contains(lost, p) })
}

func (m *member) partitions() []int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.held)
}

func (m *member) stop() {
	m.cancel()
	<-m.ended
}

func never() bool { return false }

func into(t *Tally) func(*kgo.Record) {
	return func(r *kgo.Record) { t.Add(r.Partition, r.Offset, r.Key, r.Value, headers(r), r.Timestamp) }
}

func headers(r *kgo.Record) (all []Header) {
	for _, h := range r.Headers {
		all = append(all, Header(h))
	}
	return all
}

func main() {
	Check("create topic and metadata", createTopic)
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		Check("produce and consume by group, "+name, func(ctx context.Context) { codec(ctx, name) })
	}
	Check("committed offsets are where the group goes on", committed)
	Check("rebalance, range", func(ctx context.Context) { rebalance(ctx, "range", kgo.RangeBalancer()) })
	Check("rebalance, cooperative-sticky", func(ctx context.Context) { rebalance(ctx, "cooperative", kgo.CooperativeStickyBalancer()) })
	Check("transactions: commit, abort, read_committed, offsets in a transaction", transactions)
	Check("seek by timestamp", seek)
	Check("admin: describe and alter configs", configs)
	Check("admin: create partitions, delete records, delete topic", partitions)
	Check("admin: groups and log dirs", groups)
	Check("admin: quotas", quotas)
	Check("admin: ACLs, tokens, users", security)
	Check("admin: elections and reassignments", elections)
	Check("admin: features", features)
	Check("admin: what has a configuration, and the broker's", resources)
	Check("broker restart in the middle, idempotent producer", func(ctx context.Context) { backAgain(ctx, "RESTART") })
	Check("broker killed in the middle, idempotent producer", func(ctx context.Context) { backAgain(ctx, "CRASH") })
	Main()
}

func createTopic(ctx context.Context) {
	retention := "7200000"
	create(ctx, "fg-create", 4, map[string]*string{"retention.ms": &retention})
	_, err := admin.CreateTopic(ctx, 1, 1, nil, "fg-create")
	Equal("second creation", err, kerr.TopicAlreadyExists)
	Equal("brokers", len(Get(admin.Metadata(ctx)).Brokers), 1)
}

func codec(ctx context.Context, name string) {
	topic := "fg-" + name
	create(ctx, topic, 3, nil)
	send(ctx, topic, 0, 500, kgo.ProducerBatchCompression(codecs[name]))
	tally := NewTally()
	m := join(ctx, topic+"-g", topic, into(tally), never)
	tally.Wait(500)
	m.stop()
	tally.Expect(500)
}

func committed(ctx context.Context) {
	create(ctx, "fg-commit", 3, nil)
	send(ctx, "fg-commit", 0, 600)
	tally := NewTally()
	first := join(ctx, "fg-commit-g", "fg-commit", into(tally), func() bool { return tally.Len() >= 200 })
	<-first.ended
	read, sum := tally.Len(), 0
	Get(admin.FetchOffsets(ctx, "fg-commit-g")).Each(func(o kadm.OffsetResponse) { sum += int(o.At) })
	Equal("sum of the committed offsets", sum, read)
	second := join(ctx, "fg-commit-g", "fg-commit", into(tally), never)
	tally.Wait(600)
	second.stop()
	tally.Expect(600)
}

func rebalance(ctx context.Context, name string, balancer kgo.GroupBalancer) {
	topic, group := "fg-rebalance-"+name, "fg-rebalance-"+name+"-g"
	create(ctx, topic, 4, nil)
	tally := NewTally()
	a := join(ctx, group, topic, into(tally), never, kgo.Balancers(balancer))
	Until("the first has all", func() bool { return len(a.partitions()) == 4 })
	send(ctx, topic, 0, 200)
	tally.Wait(200)
	b := join(ctx, group, topic, into(tally), never, kgo.Balancers(balancer))
	Until("they share", func() bool {
		both := append(a.partitions(), b.partitions()...)
		slices.Sort(both)
		return len(a.partitions()) == 2 && slices.Equal(both, []int32{0, 1, 2, 3})
	})
	send(ctx, topic, 200, 400)
	tally.Wait(400)
	b.stop()
	Until("the one left has all", func() bool { return len(a.partitions()) == 4 })
	send(ctx, topic, 400, 600)
	tally.Wait(600)
	a.stop()
	tally.Expect(600)
}

// transaction sends records start to end and ends as told.
func transaction(ctx context.Context, producer *kgo.Client, topic string, start, end int, commit kgo.TransactionEndTry) error {
	Must(producer.BeginTransaction())
	var records []*kgo.Record
	for i := start; i < end; i++ {
		records = append(records, record(topic, i))
	}
	if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	return producer.EndTransaction(ctx, commit)
}

func transactions(ctx context.Context) {
	create(ctx, "fg-txn-in", 3, nil)
	create(ctx, "fg-txn-out", 3, nil)
	producer := client(kgo.TransactionalID("fg-txn"))
	defer producer.Close()
	Must(transaction(ctx, producer, "fg-txn-in", 0, 100, kgo.TryCommit))
	Must(transaction(ctx, producer, "fg-txn-in", 100, 160, kgo.TryAbort))
	Must(transaction(ctx, producer, "fg-txn-in", 100, 200, kgo.TryCommit))
	everything := client(kgo.ConsumeTopics("fg-txn-in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for n := 0; n < 260; {
		polled := everything.PollFetches(ctx)
		Must(polled.Err())
		n += polled.NumRecords()
	}
	everything.Close()
	transform(ctx)
	tally := NewTally()
	m := join(ctx, "fg-txn-out-g", "fg-txn-out", into(tally), never, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	tally.Wait(200)
	m.stop()
	tally.Expect(200)
	second := client(kgo.TransactionalID("fg-txn"))
	defer second.Close()
	Must(transaction(ctx, second, "fg-txn-out", 200, 210, kgo.TryCommit))
	fenced := transaction(ctx, producer, "fg-txn-out", 210, 220, kgo.TryCommit)
	if !errors.Is(fenced, kerr.InvalidProducerEpoch) && !errors.Is(fenced, kerr.ProducerFenced) {
		Fail("whose id another has taken is told: %v", fenced)
	}
}

// transform moves what is committed on, with its offsets: in a transaction that is aborted, then in one that is not.
func transform(ctx context.Context) {
	session := Get(kgo.NewGroupTransactSession(kgo.SeedBrokers(Bootstrap), kgo.TransactionalID("fg-txn-move"),
		kgo.ConsumerGroup("fg-txn-g"), kgo.ConsumeTopics("fg-txn-in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets()))
	defer session.Close()
	for _, commit := range []bool{false, true} {
		Must(session.Begin())
		tally := NewTally()
		for tally.Len() < 200 {
			polled := session.PollFetches(ctx)
			Must(polled.Err())
			polled.EachRecord(func(r *kgo.Record) {
				into(tally)(r)
				session.Produce(ctx, &kgo.Record{Topic: "fg-txn-out", Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}, nil)
			})
		}
		tally.Expect(200)
		Equal("committed", Get(session.End(ctx, kgo.TransactionEndTry(commit))), commit)
		// The markers may be on their way still.
		Until("offsets as the transaction ended", func() bool {
			sum := 0
			Get(admin.FetchOffsets(ctx, "fg-txn-g")).Each(func(o kadm.OffsetResponse) { sum += int(max(o.At, 0)) })
			return (sum >= 200) == commit
		})
	}
}

func seek(ctx context.Context) {
	create(ctx, "fg-time", 1, nil)
	send(ctx, "fg-time", 0, 100)
	send(ctx, "fg-time", 100, 200, kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	for _, at := range []int64{-5, 37, 150, 199} {
		found, _ := Get(admin.ListOffsetsAfterMilli(ctx, BaseMs+at, "fg-time")).Lookup("fg-time", 0)
		Equal(fmt.Sprintf("offset at %d ms", at), found.Offset, max(0, at))
		c := client(kgo.ConsumeTopics("fg-time"), kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(BaseMs+at)))
		r := c.PollRecords(ctx, 1).Records()
		Equal("records", len(r), 1)
		Equal("the record", fmt.Sprint(r[0].Offset, r[0].Timestamp.UnixMilli()-BaseMs), fmt.Sprint(max(0, at), max(0, at)))
		c.Close()
	}
	largest, _ := Get(admin.ListMaxTimestampOffsets(ctx, "fg-time")).Lookup("fg-time", 0)
	Equal("offset of the largest timestamp", fmt.Sprint(largest.Offset, largest.Timestamp), fmt.Sprint(199, BaseMs+199))
}

func configs(ctx context.Context) {
	create(ctx, "fg-admin", 1, nil)
	retention := func() string {
		found := Get(Get(admin.DescribeTopicConfigs(ctx, "fg-admin")).On("fg-admin", nil))
		Must(found.Err)
		for _, c := range found.Configs {
			if c.Key == "retention.ms" {
				return c.MaybeValue()
			}
		}
		return ""
	}
	alter := func(value string) error {
		answer := Get(admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "retention.ms", Value: &value}}, "fg-admin"))
		return answer[0].Err
	}
	Equal("retention.ms", retention(), "604800000")
	Must(alter("123456789"))
	Until("the changed value", func() bool { return retention() == "123456789" })
	Equal("a wrong value", alter("a week"), kerr.InvalidConfig)
	broker := Get(admin.Metadata(ctx)).Controller
	Must(Get(Get(admin.DescribeBrokerConfigs(ctx, broker)).On(fmt.Sprint(broker), nil)).Err)
}

func partitions(ctx context.Context) {
	create(ctx, "fg-admin2", 3, nil)
	Must(Get(admin.UpdatePartitions(ctx, 5, "fg-admin2")).Error())
	Until("five partitions", func() bool { return len(Get(admin.Metadata(ctx)).Topics["fg-admin2"].Partitions) == 5 })
	send(ctx, "fg-admin2", 0, 100)
	before := Get(admin.ListEndOffsets(ctx, "fg-admin2"))
	offsets := kadm.Offsets{}
	before.Each(func(o kadm.ListedOffset) { offsets.AddOffset("fg-admin2", o.Partition, o.Offset/2, -1) })
	Get(admin.DeleteRecords(ctx, offsets)).Each(func(r kadm.DeleteRecordsResponse) {
		Must(r.Err)
		want, _ := before.Lookup("fg-admin2", r.Partition)
		Equal("low watermark", r.LowWatermark, want.Offset/2)
	})
	Get(admin.ListStartOffsets(ctx, "fg-admin2")).Each(func(o kadm.ListedOffset) {
		want, _ := before.Lookup("fg-admin2", o.Partition)
		Equal("the earliest offset", o.Offset, want.Offset/2)
	})
	Must(Get(admin.DeleteTopic(ctx, "fg-admin2")).Err)
	Until("the topic is gone", func() bool { return !Get(admin.ListTopics(ctx)).Has("fg-admin2") })
}

func groups(ctx context.Context) {
	create(ctx, "fg-groups", 1, nil)
	send(ctx, "fg-groups", 0, 50)
	tally := NewTally()
	m := join(ctx, "fg-groups-g", "fg-groups", into(tally), never)
	tally.Wait(50)
	described := Get(admin.DescribeGroups(ctx, "fg-groups-g"))["fg-groups-g"]
	Equal("state and members", fmt.Sprint(described.State, " ", len(described.Members)), "Stable 1")
	m.stop()
	Equal("listed", slices.Contains(Get(admin.ListGroups(ctx)).Groups(), "fg-groups-g"), true)
	lag := Get(admin.Lag(ctx, "fg-groups-g"))["fg-groups-g"]
	Equal("lag", lag.Lag.Total(), 0)
	to := kadm.Offsets{}
	to.AddOffset("fg-groups", 0, 10, -1)
	Must(Get(admin.CommitOffsets(ctx, "fg-groups-g", to)).Error())
	Equal("lag after the reset", Get(admin.Lag(ctx, "fg-groups-g"))["fg-groups-g"].Lag.Total(), 40)
	Must(Get(admin.DeleteGroup(ctx, "fg-groups-g")).Err)
	Equal("listed", slices.Contains(Get(admin.ListGroups(ctx)).Groups(), "fg-groups-g"), false)
	size := int64(0)
	Get(admin.DescribeAllLogDirs(ctx, nil)).Each(func(d kadm.DescribedLogDir) {
		Must(d.Err)
		size += d.Size()
	})
	Equal("log dirs hold something", size > 0, true)
}

func backAgain(ctx context.Context, how string) {
	topic := "fg-" + how
	create(ctx, topic, 3, nil)
	const n = 4000
	tally := NewTally()
	m := join(ctx, topic+"-g", topic, func(r *kgo.Record) {
		tally.AddAgain(r.Partition, r.Offset, r.Key, r.Value, headers(r), r.Timestamp)
	}, never)
	producer := client(kgo.MaxBufferedRecords(100), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	defer producer.Close()
	var failed []error
	var mu sync.Mutex
	restarted := func() {}
	for i := range n {
		producer.Produce(ctx, record(topic, i), func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
		})
		if i == n/4 {
			Until("some of them read", func() bool { return tally.Len() >= n/8 })
			restarted = RestartBroker(how)
		}
	}
	Must(producer.Flush(ctx))
	restarted()
	mu.Lock()
	Equal("failed deliveries", failed, []error{})
	mu.Unlock()
	tally.Wait(n)
	m.stop()
	tally.Expect(n)
	sum := int64(0)
	Get(admin.ListEndOffsets(ctx, topic)).Each(func(o kadm.ListedOffset) { sum += o.Offset })
	Equal("end offsets", sum, n)
}
