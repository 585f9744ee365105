// The sarama client against a broker; see ../README.md for what each check means.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	. "ringlog.test/gocheck"
)

var (
	admin  = Get(sarama.NewClusterAdmin([]string{Bootstrap}, config()))
	codecs = []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy,
		sarama.CompressionLZ4, sarama.CompressionZSTD}
)

// config is an idempotent producer and a group member that commits five times a second and when partitions are taken away.
func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Net.MaxOpenRequests = 1
	c.Metadata.Retry.Max, c.Metadata.Retry.Backoff = 100, 200*time.Millisecond
	c.Producer.Idempotent = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Producer.Retry.Max, c.Producer.Retry.Backoff = 300, 200*time.Millisecond
	c.Producer.Flush.Frequency = 5 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Interval = 200 * time.Millisecond
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	c.Consumer.Retry.Backoff = 200 * time.Millisecond
	return c
}

func create(topic string, partitions int32, entries map[string]*string) {
	Must(admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: entries}, false))
	Until("topic in metadata", func() bool { return partitionCount(topic) == int(partitions) })
}

func partitionCount(topic string) int {
	return len(Get(admin.DescribeTopics([]string{topic}))[0].Partitions)
}

func message(topic string, i int) *sarama.ProducerMessage {
	key, value, headers, timestamp := Record(i)
	m := &sarama.ProducerMessage{Topic: topic, Key: sarama.ByteEncoder(key), Timestamp: timestamp}
	if value != nil {
		m.Value = sarama.ByteEncoder(value)
	}
	for _, h := range headers {
		m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
	}
	return m
}

// send produces records start to end; all are acknowledged when it returns.
func send(topic string, start, end int, c *sarama.Config) {
	producer := Get(sarama.NewSyncProducer([]string{Bootstrap}, c))
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for i := start; i < end; i++ {
		messages = append(messages, message(topic, i))
	}
	Must(producer.SendMessages(messages))
}

type take func(partition int32, offset int64, key, value []byte, headers []Header, timestamp time.Time)

// member is a member of a group on a goroutine of its own.
type member struct {
	take   take
	enough func() bool
	topic  string
	cancel context.CancelFunc
	ended  chan struct{}
	mu     sync.Mutex
	held   []int32
}

func join(ctx context.Context, group, topic string, take take, enough func() bool, c *sarama.Config) *member {
	m := &member{take: take, enough: enough, topic: topic, ended: make(chan struct{})}
	ctx, m.cancel = context.WithCancel(ctx)
	g := Get(sarama.NewConsumerGroup([]string{Bootstrap}, group, c))
	go func() {
		defer close(m.ended)
		for ctx.Err() == nil && !enough() {
			// It ends with every rebalance, and with an error while the broker is away: the loop is the client's own advice.
			if g.Consume(ctx, []string{topic}, m) != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
		_ = g.Close()
	}()
	return m
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	m.hold(s.Claims()[m.topic])
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error {
	m.hold(nil)
	return nil
}

func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case <-s.Context().Done():
			return nil
		case r, open := <-claim.Messages():
			if !open || m.enough() {
				m.cancelIf(open)
				return nil
			}
			var headers []Header
			for _, h := range r.Headers {
				headers = append(headers, Header{Key: string(h.Key), Value: h.Value})
			}
			m.take(r.Partition, r.Offset, r.Key, r.Value, headers, r.Timestamp)
			s.MarkMessage(r, "")
		}
	}
}

func (m *member) cancelIf(enough bool) {
	if enough {
		m.cancel()
	}
}

func (m *member) hold(partitions []int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = slices.Clone(partitions)
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

func main() {
	Check("create topic and metadata", createTopic)
	for _, c := range codecs {
		Check("produce and consume by group, "+c.String(), func(ctx context.Context) { codec(ctx, c) })
	}
	Check("produce and consume as a client of Kafka 2.1, its default", oldVersion)
	Check("committed offsets are where the group goes on", committed)
	Check("rebalance, range", func(ctx context.Context) { rebalance(ctx, sarama.NewBalanceStrategyRange()) })
	Check("rebalance, sticky", func(ctx context.Context) { rebalance(ctx, sarama.NewBalanceStrategySticky()) })
	Check("transactions: commit, abort, read_committed, offsets in a transaction", transactions)
	Check("consume-transform-produce with kills is exactly once", exactlyOnce)
	Check("seek by timestamp", seek)
	Check("admin: describe and alter configs", configs)
	Check("admin: create partitions, delete records, delete topic", partitions)
	Check("admin: groups", groups)
	Check("broker restart in the middle, idempotent producer", restart)
	Main()
}

func createTopic(context.Context) {
	retention := "7200000"
	create("sa-create", 4, map[string]*string{"retention.ms": &retention})
	err := admin.CreateTopic("sa-create", &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false)
	Equal("second creation", errors.Is(err, sarama.ErrTopicAlreadyExists), true)
	brokers, _, err := admin.DescribeCluster()
	Must(err)
	Equal("brokers", brokers[0].Addr(), Bootstrap)
}

func codec(ctx context.Context, codec sarama.CompressionCodec) {
	c := config()
	c.Producer.Compression = codec
	throughGroup(ctx, "sa-"+codec.String(), c)
}

func oldVersion(ctx context.Context) {
	c := config()
	c.Version = sarama.DefaultVersion
	c.Producer.Compression = sarama.CompressionLZ4
	throughGroup(ctx, "sa-old", c)
}

func throughGroup(ctx context.Context, topic string, c *sarama.Config) {
	create(topic, 3, nil)
	send(topic, 0, 500, c)
	tally := NewTally()
	m := join(ctx, topic+"-g", topic, tally.Add, never, c)
	tally.Wait(500)
	m.stop()
	tally.Expect(500)
}

func committed(ctx context.Context) {
	create("sa-commit", 3, nil)
	send("sa-commit", 0, 600, config())
	tally := NewTally()
	first := join(ctx, "sa-commit-g", "sa-commit", tally.Add, func() bool { return tally.Len() >= 200 }, config())
	<-first.ended
	read, sum := tally.Len(), 0
	response := Get(admin.ListConsumerGroupOffsets("sa-commit-g", map[string][]int32{"sa-commit": {0, 1, 2}}))
	for p := range int32(3) {
		block := response.GetBlock("sa-commit", p)
		Equal("error of the block", block.Err, sarama.ErrNoError)
		sum += int(max(0, block.Offset))
	}
	Equal("sum of the committed offsets", sum, read)
	second := join(ctx, "sa-commit-g", "sa-commit", tally.Add, never, config())
	tally.Wait(600)
	second.stop()
	tally.Expect(600)
}

func rebalance(ctx context.Context, strategy sarama.BalanceStrategy) {
	topic := "sa-rebalance-" + strategy.Name()
	c := config()
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy}
	create(topic, 4, nil)
	tally := NewTally()
	a := join(ctx, topic+"-g", topic, tally.Add, never, c)
	Until("the first has all", func() bool { return len(a.partitions()) == 4 })
	send(topic, 0, 200, config())
	tally.Wait(200)
	b := join(ctx, topic+"-g", topic, tally.Add, never, c)
	Until("they share", func() bool {
		both := append(a.partitions(), b.partitions()...)
		slices.Sort(both)
		return len(a.partitions()) == 2 && slices.Equal(both, []int32{0, 1, 2, 3})
	})
	send(topic, 200, 400, config())
	tally.Wait(400)
	b.stop()
	Until("the one left has all", func() bool { return len(a.partitions()) == 4 })
	send(topic, 400, 600, config())
	tally.Wait(600)
	a.stop()
	tally.Expect(600)
}

func transactional(id string) sarama.SyncProducer {
	c := config()
	c.Producer.Transaction.ID = id
	// It sends again even when another has taken its id; the other tests' 300 times are for a broker that restarts.
	c.Producer.Retry.Max = 10
	return Get(sarama.NewSyncProducer([]string{Bootstrap}, c))
}

func committedOnly() *sarama.Config {
	c := config()
	c.Consumer.IsolationLevel = sarama.ReadCommitted
	return c
}

func offsetsOf(group, topic string) map[int32]int64 {
	response := Get(admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0, 1, 2}}))
	found := map[int32]int64{}
	for p := range int32(3) {
		found[p] = response.GetBlock(topic, p).Offset
	}
	return found
}

// transaction sends records start to end, commits offsets with them if there are any, and ends as told.
func transaction(producer sarama.SyncProducer, topic string, start, end int, offsets map[int32]int64, commit bool) error {
	if err := producer.BeginTxn(); err != nil {
		return err
	}
	var messages []*sarama.ProducerMessage
	for i := start; i < end; i++ {
		messages = append(messages, message(topic, i))
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	if offsets != nil {
		var all []*sarama.PartitionOffsetMetadata
		for p, offset := range offsets {
			all = append(all, &sarama.PartitionOffsetMetadata{Partition: p, Offset: offset})
		}
		if err := producer.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{"sa-txn-in": all}, "sa-txn-g"); err != nil {
			return err
		}
	}
	if !commit {
		return producer.AbortTxn()
	}
	return producer.CommitTxn()
}

func transactions(ctx context.Context) {
	create("sa-txn-in", 3, nil)
	create("sa-txn-out", 3, nil)
	producer := transactional("sa-txn")
	Must(transaction(producer, "sa-txn-in", 0, 100, nil, true))
	Must(transaction(producer, "sa-txn-in", 100, 160, nil, false))
	Must(transaction(producer, "sa-txn-in", 100, 200, nil, true))
	var all atomic.Int32
	count := func(int32, int64, []byte, []byte, []Header, time.Time) { all.Add(1) }
	uncommitted := join(ctx, "sa-txn-all", "sa-txn-in", count, never, config())
	Until("all that was sent", func() bool { return all.Load() >= 260 })
	uncommitted.stop()
	tally := NewTally()
	m := join(ctx, "sa-txn-in-g", "sa-txn-in", tally.Add, never, committedOnly())
	tally.Wait(200)
	m.stop()
	tally.Expect(200)
	none, some := map[int32]int64{0: -1, 1: -1, 2: -1}, map[int32]int64{0: 3, 1: 5, 2: 8}
	Must(transaction(producer, "sa-txn-out", 0, 200, some, false))
	Equal("offsets of an aborted transaction", offsetsOf("sa-txn-g", "sa-txn-in"), none)
	Must(transaction(producer, "sa-txn-out", 0, 200, some, true))
	Until("the offsets of the next", func() bool { return maps.Equal(offsetsOf("sa-txn-g", "sa-txn-in"), some) })
	tally = NewTally()
	m = join(ctx, "sa-txn-out-g", "sa-txn-out", tally.Add, never, committedOnly())
	tally.Wait(200)
	m.stop()
	tally.Expect(200)
	second := transactional("sa-txn")
	Equal("whose id another has taken is refused", transaction(producer, "sa-txn-out", 200, 210, nil, true) != nil, true)
	Must(second.Close())
}

// worker moves records in transactions; it ends after some of them, in the middle of one, or with an error.
type worker struct {
	producer sarama.SyncProducer
	left     int
	mu       sync.Mutex
	end      context.CancelFunc
}

func (w *worker) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (w *worker) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (w *worker) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		var batch []*sarama.ConsumerMessage
		pause := time.After(time.Second)
		for len(batch) < 25 && pause != nil {
			select {
			case <-s.Context().Done():
				return nil
			case r, open := <-claim.Messages():
				if !open {
					return nil
				}
				batch = append(batch, r)
			case <-pause:
				pause = nil
			}
		}
		if len(batch) == 0 {
			return nil
		}
		if err := w.move(batch); err != nil {
			w.end()
			return err
		}
	}
}

// move is one transaction. A producer has one at a time, while every partition is read on a goroutine of its own.
func (w *worker) move(batch []*sarama.ConsumerMessage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left--
	if w.left < 0 {
		return errors.New("its life is over")
	}
	if err := w.producer.BeginTxn(); err != nil {
		return err
	}
	for _, r := range batch {
		m := &sarama.ProducerMessage{Topic: "sa-eos-out", Partition: r.Partition, Key: sarama.ByteEncoder(r.Key), Timestamp: r.Timestamp}
		if r.Value != nil {
			m.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, *h)
		}
		if _, _, err := w.producer.SendMessage(m); err != nil {
			return err
		}
	}
	if err := w.producer.AddMessageToTxn(batch[len(batch)-1], "sa-eos-g", nil); err != nil {
		return err
	}
	if w.left == 0 {
		return errors.New("it ends in the middle of a transaction")
	}
	return w.producer.CommitTxn()
}

func exactlyOnce(ctx context.Context) {
	create("sa-eos-in", 3, nil)
	create("sa-eos-out", 3, nil)
	const n = 1500
	send("sa-eos-in", 0, n, config())
	tally := NewTally()
	m := join(ctx, "sa-eos-out-g", "sa-eos-out", tally.AddAgain, never, committedOnly())
	for life := 0; tally.Len() < n; life++ {
		restarted := func() {}
		if life%3 == 1 && life < 10 {
			restarted = RestartBroker("CRASH")
		}
		liveOnce(ctx, 4+life)
		restarted()
	}
	m.stop()
	tally.Expect(n)
}

// liveOnce is a life of a worker. Whatever ends it, the next begins where the last transaction that was committed ended.
func liveOnce(ctx context.Context, transactions int) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := committedOnly()
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Producer.Transaction.ID = "sa-eos"
	c.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewSyncProducer([]string{Bootstrap}, c)
	if err != nil {
		return
	}
	group, err := sarama.NewConsumerGroup([]string{Bootstrap}, "sa-eos-g", c)
	if err != nil {
		return
	}
	w := &worker{producer: producer, left: transactions, end: cancel}
	_ = group.Consume(ctx, []string{"sa-eos-in"}, w)
	_ = group.Close()
}

func seek(context.Context) {
	create("sa-time", 1, nil)
	zstd := config()
	zstd.Producer.Compression = sarama.CompressionZSTD
	send("sa-time", 0, 100, config())
	send("sa-time", 100, 200, zstd)
	client := Get(sarama.NewClient([]string{Bootstrap}, config()))
	consumer := Get(sarama.NewConsumerFromClient(client))
	for _, at := range []int64{-5, 37, 150, 199} {
		offset := Get(client.GetOffset("sa-time", 0, BaseMs+at))
		Equal(fmt.Sprintf("offset at %d ms", at), offset, max(0, at))
		from := Get(consumer.ConsumePartition("sa-time", 0, offset))
		select {
		case r := <-from.Messages():
			Equal("offset and time", []int64{r.Offset, r.Timestamp.UnixMilli()}, []int64{offset, BaseMs + offset})
		case <-time.After(time.Minute):
			Fail("nothing at offset %d", offset)
		}
		Must(from.Close())
	}
	Must(consumer.Close())
	Must(client.Close())
}

func configs(context.Context) {
	create("sa-admin", 1, nil)
	retention := func() string {
		for _, e := range Get(admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "sa-admin"})) {
			if e.Name == "retention.ms" {
				return e.Value
			}
		}
		return ""
	}
	alter := func(value string) error {
		return admin.IncrementalAlterConfig(sarama.TopicResource, "sa-admin", map[string]sarama.IncrementalAlterConfigsEntry{
			"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}}, false)
	}
	Equal("retention.ms", retention(), "604800000")
	Must(alter("123456789"))
	Until("the changed value", func() bool { return retention() == "123456789" })
	Equal("a wrong value is refused", alter("a week") != nil, true)
	all := "987654321"
	Must(admin.AlterConfig(sarama.TopicResource, "sa-admin", map[string]*string{"retention.ms": &all}, false))
	Until("the value set by AlterConfigs", func() bool { return retention() == all })
}

func partitions(context.Context) {
	create("sa-admin2", 3, nil)
	Must(admin.CreatePartitions("sa-admin2", 5, nil, false))
	Until("five partitions", func() bool { return partitionCount("sa-admin2") == 5 })
	send("sa-admin2", 0, 100, config())
	client := Get(sarama.NewClient([]string{Bootstrap}, config()))
	defer client.Close()
	half := map[int32]int64{}
	for p := range int32(5) {
		half[p] = Get(client.GetOffset("sa-admin2", p, sarama.OffsetNewest)) / 2
	}
	Must(admin.DeleteRecords("sa-admin2", half))
	for p := range int32(5) {
		Equal("the earliest offset", Get(client.GetOffset("sa-admin2", p, sarama.OffsetOldest)), half[p])
	}
	Must(admin.DeleteTopic("sa-admin2"))
	Until("the topic is gone", func() bool { _, there := Get(admin.ListTopics())["sa-admin2"]; return !there })
}

func groups(ctx context.Context) {
	create("sa-groups", 1, nil)
	send("sa-groups", 0, 50, config())
	tally := NewTally()
	m := join(ctx, "sa-groups-g", "sa-groups", tally.Add, never, config())
	tally.Wait(50)
	described := Get(admin.DescribeConsumerGroups([]string{"sa-groups-g"}))[0]
	Equal("state and members", fmt.Sprint(described.State, " ", len(described.Members)), "Stable 1")
	m.stop()
	_, listed := Get(admin.ListConsumerGroups())["sa-groups-g"]
	Equal("listed", listed, true)
	Must(admin.DeleteConsumerGroup("sa-groups-g"))
	_, listed = Get(admin.ListConsumerGroups())["sa-groups-g"]
	Equal("listed after its deletion", listed, false)
}

func restart(ctx context.Context) {
	create("sa-restart", 3, nil)
	const n = 4000
	tally := NewTally()
	m := join(ctx, "sa-restart-g", "sa-restart", tally.AddAgain, never, config())
	c := config()
	c.Producer.Compression = sarama.CompressionLZ4
	producer := Get(sarama.NewAsyncProducer([]string{Bootstrap}, c))
	answered := make(chan error, n)
	go func() {
		for range producer.Successes() {
			answered <- nil
		}
	}()
	go func() {
		for e := range producer.Errors() {
			answered <- e
		}
	}()
	restarted := func() {}
	for i := range n {
		producer.Input() <- message("sa-restart", i)
		if i == n/4 {
			Until("some of them read", func() bool { return tally.Len() >= n/8 })
			restarted = RestartBroker("RESTART")
		}
	}
	for range n {
		select {
		case err := <-answered:
			Must(err)
		case <-ctx.Done():
			Fail("not all sent in time")
		}
	}
	producer.AsyncClose()
	restarted()
	tally.Wait(n)
	m.stop()
	tally.Expect(n)
	client := Get(sarama.NewClient([]string{Bootstrap}, config()))
	defer client.Close()
	Equal("end offsets", endOffset(client, 0)+endOffset(client, 1)+endOffset(client, 2), n)
}

// endOffset asks again on an error: right after a restart a broker may not have taken its partitions yet.
func endOffset(client sarama.Client, partition int32) (end int64) {
	Until("the end offset", func() bool {
		var err error
		end, err = client.GetOffset("sa-restart", partition, sarama.OffsetNewest)
		return err == nil
	})
	return end
}
