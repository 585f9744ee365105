// The KafkaJS client against a broker; see ../README.md for what each check means.
'use strict'
const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { setTimeout: pause } = require('node:timers/promises')
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, Partitioners, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const { ZstdCodec } = require('zstd-codec')

const BOOTSTRAP = process.env.BOOTSTRAP
const CHECK_MS = 120000
// An hour ago: retention leaves the records alone and no broker takes them for records from the future.
const BASE_MS = Date.now() - 3600000
const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD }

const retry = { retries: 200, initialRetryTime: 100, maxRetryTime: 500 }
// What the client says of itself, shown where a check fails.
const said = []
const logCreator = () => ({ namespace, label, log: { timestamp, message, ...more } }) => {
  if (said.push(`${timestamp} ${label} ${namespace}: ${message} ${JSON.stringify(more)}`.slice(0, 500)) > 200) said.shift()
}
const kafka = new Kafka({ brokers: [BOOTSTRAP], logLevel: logLevel.INFO, logCreator, retry })
const admin = kafka.admin()

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: encoder => lz4.compressFrame(encoder.buffer),
  decompress: buffer => lz4.decompressFrame(buffer),
})
const zstd = new Promise(resolve => ZstdCodec.run(z => resolve(new z.Simple())))
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from((await zstd).compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from((await zstd).decompress(buffer)),
})

// Record i of a topic.
function record(i) {
  const value = i % 50 === 1 ? null : i % 50 === 0 ? '' : `value-${i};`.repeat(1 + (i % 40))
  return { key: `key-${i % 17}`, value, timestamp: String(BASE_MS + i), headers: { n: String(i), bin: Buffer.from([0, i % 256, 255]) } }
}

// What came out of a topic against what went in: each record once, unchanged, in order within its partition.
class Tally {
  seen = new Map()
  last = new Map()

  // again: a consumer may see an offset again that it has not committed before the broker went away.
  add(partition, message, again = false) {
    const offset = Number(message.offset)
    const i = Number(message.headers.n)
    const [lastOffset, lastI] = this.last.get(partition) ?? [-1, -1]
    if (again && offset <= lastOffset) return
    const want = record(i)
    assert.deepEqual({ key: message.key.toString(), value: message.value && message.value.toString(), timestamp: message.timestamp,
      n: message.headers.n.toString(), bin: message.headers.bin }, { key: want.key, value: want.value, timestamp: want.timestamp,
      n: want.headers.n, bin: want.headers.bin }, `record ${i}`)
    assert(!this.seen.has(i), `record ${i} twice: at ${this.seen.get(i)} and at ${partition}/${offset}`)
    assert(offset > lastOffset && i > lastI, `partition ${partition}: record ${i} at ${offset} after ${lastI} at ${lastOffset}`)
    this.seen.set(i, `${partition}/${offset}`)
    this.last.set(partition, [offset, i])
  }

  expect(n) {
    for (let i = 0; i < n; i++) assert(this.seen.has(i), `record ${i} of ${n} is missing, ${this.seen.size} are there`)
    assert.equal(this.seen.size, n)
  }
}

async function until(what, condition) {
  for (const deadline = Date.now() + 60000; !(await condition()); await pause(20)) {
    assert(Date.now() < deadline, `${what}: not within a minute`)
  }
}

async function create(topic, numPartitions = 3, configEntries = []) {
  await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: 1, configEntries }], waitForLeaders: false })
  // A broker may answer for a moment that it does not know the topic it has just made.
  await until('topic in metadata', async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] }).catch(() => ({ topics: [] }))
    return topics.length === 1 && topics[0].partitions.length === numPartitions && topics[0].partitions.every(p => p.leader >= 0)
  })
}

function newProducer() {
  return kafka.producer({ idempotent: true, maxInFlightRequests: 1, retry, createPartitioner: Partitioners.DefaultPartitioner })
}

// Records start to end, acknowledged.
async function send(topic, start, end, compression = CompressionTypes.None) {
  const producer = newProducer()
  await producer.connect()
  for (let i = start; i < end; i += 50) {
    const messages = Array.from({ length: Math.min(50, end - i) }, (_, k) => record(i + k))
    await producer.send({ topic, acks: -1, compression, messages })
  }
  await producer.disconnect()
}

// A member of a group, at work until stop(). What its tally finds wrong comes out of wait() and stop().
class Member {
  held = []

  static async join(group, topic, take, enough = () => false) {
    const m = new Member()
    m.consumer = kafka.consumer({ groupId: group, sessionTimeout: 10000, heartbeatInterval: 300, maxWaitTimeInMs: 200, retry })
    m.consumer.on(m.consumer.events.GROUP_JOIN, e => { m.held = e.payload.memberAssignment[topic] ?? [] })
    await m.consumer.connect()
    await m.consumer.subscribe({ topics: [topic], fromBeginning: true })
    await m.consumer.run({
      eachMessage: async ({ partition, message }) => {
        // Thrown out of here an error would only be tried again.
        try { if (!enough()) take(partition, message); else throw new Error('enough') } catch (e) {
          if (e.message === 'enough') throw e
          m.wrong ??= e
        }
      },
    })
    return m
  }

  async wait(tally, n) {
    await until(`${n} records`, () => this.wrong || tally.seen.size >= n)
    if (this.wrong) throw this.wrong
    tally.expect(n)
  }

  async stop() {
    await this.consumer.disconnect()
    if (this.wrong) throw this.wrong
  }
}

const checks = []
const check = (name, run) => checks.push({ name, run })

check('create topic and metadata', async () => {
  await create('kj-create', 4, [{ name: 'retention.ms', value: '7200000' }])
  const { topics } = await admin.fetchTopicMetadata({ topics: ['kj-create'] })
  assert.equal(topics[0].partitions.length, 4)
  assert.equal(await admin.createTopics({ topics: [{ topic: 'kj-create' }] }), false)
  assert.deepEqual((await admin.describeCluster()).brokers.map(b => `${b.host}:${b.port}`), [BOOTSTRAP])
})

for (const [name, codec] of Object.entries(CODECS)) {
  check(`produce and consume by group, ${name}`, async () => {
    const topic = `kj-${name}`
    await create(topic)
    await send(topic, 0, 500, codec)
    const tally = new Tally()
    const m = await Member.join(`${topic}-g`, topic, (p, r) => tally.add(p, r))
    await m.wait(tally, 500)
    await m.stop()
    tally.expect(500)
  })
}

check('committed offsets are where the group goes on', async () => {
  await create('kj-commit')
  await send('kj-commit', 0, 600)
  const tally = new Tally()
  const consumer = kafka.consumer({ groupId: 'kj-commit-g', maxWaitTimeInMs: 200 })
  await consumer.connect()
  await consumer.subscribe({ topics: ['kj-commit'], fromBeginning: true })
  // Stops in the middle of a batch: what is resolved is committed, and no more is taken.
  await consumer.run({
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, commitOffsetsIfNecessary, uncommittedOffsets }) => {
      for (const message of batch.messages) {
        if (tally.seen.size >= 250) break
        tally.add(batch.partition, message)
        resolveOffset(message.offset)
      }
      await commitOffsetsIfNecessary(uncommittedOffsets())
    },
  })
  await until('250 records', () => tally.seen.size >= 250)
  await consumer.disconnect()
  const [{ partitions }] = await admin.fetchOffsets({ groupId: 'kj-commit-g', topics: ['kj-commit'] })
  assert.equal(partitions.reduce((sum, p) => sum + Math.max(0, Number(p.offset)), 0), 250, 'sum of the committed offsets')
  const m = await Member.join('kj-commit-g', 'kj-commit', (p, r) => tally.add(p, r))
  await m.wait(tally, 600)
  await m.stop()
  tally.expect(600)
})

check('rebalance', async () => {
  await create('kj-rebalance', 4)
  const tally = new Tally()
  const join = () => Member.join('kj-rebalance-g', 'kj-rebalance', (p, r) => tally.add(p, r))
  const a = await join()
  await until('the first has all', () => a.held.length === 4)
  await send('kj-rebalance', 0, 200)
  await a.wait(tally, 200)
  const b = await join()
  await until('they share', () => a.held.length === 2 && [...a.held, ...b.held].sort().join() === '0,1,2,3')
  await send('kj-rebalance', 200, 400)
  await a.wait(tally, 400)
  await b.stop()
  await until('the one left has all', () => a.held.length === 4)
  await send('kj-rebalance', 400, 600)
  await a.wait(tally, 600)
  await a.stop()
  tally.expect(600)
})

check('transactions: commit, abort, read_committed, offsets in a transaction', async () => {
  await create('kj-txn-in')
  await create('kj-txn-out')
  const transactional = async () => {
    const producer = kafka.producer({ transactionalId: 'kj-txn', idempotent: true, maxInFlightRequests: 1, retry,
      createPartitioner: Partitioners.DefaultPartitioner })
    await producer.connect()
    return producer
  }
  const transaction = async (producer, topic, start, end, commit, offsets) => {
    const t = await producer.transaction()
    for (let i = start; i < end; i += 20) {
      await t.send({ topic, acks: -1, messages: Array.from({ length: 20 }, (_, k) => record(i + k)) })
    }
    if (offsets) await t.sendOffsets(offsets)
    await (commit ? t.commit() : t.abort())
  }
  const producer = await transactional()
  await transaction(producer, 'kj-txn-in', 0, 100, true)
  await transaction(producer, 'kj-txn-in', 100, 160, false)
  await transaction(producer, 'kj-txn-in', 100, 200, true)
  let all = 0
  const everything = kafka.consumer({ groupId: 'kj-txn-all', readUncommitted: true, maxWaitTimeInMs: 200, retry })
  await everything.connect()
  await everything.subscribe({ topics: ['kj-txn-in'], fromBeginning: true })
  await everything.run({ eachMessage: async () => { all++ } })
  await until('all that was sent', () => all >= 260)
  await everything.disconnect()
  // Members read what is committed unless told otherwise.
  const committed = async (group, topic) => {
    const tally = new Tally()
    const m = await Member.join(group, topic, (p, r) => tally.add(p, r))
    await m.wait(tally, 200)
    await m.stop()
    tally.expect(200)
  }
  await committed('kj-txn-in-g', 'kj-txn-in')
  const offsets = { consumerGroupId: 'kj-txn-g', topics: [{ topic: 'kj-txn-in', partitions: [{ partition: 0, offset: '7' }] }] }
  const offset = async () => (await admin.fetchOffsets({ groupId: 'kj-txn-g', topics: ['kj-txn-in'] }))[0].partitions
    .find(p => p.partition === 0).offset
  await transaction(producer, 'kj-txn-out', 0, 200, false, offsets)
  assert.equal(await offset(), '-1')
  await transaction(producer, 'kj-txn-out', 0, 200, true, offsets)
  await until('the offsets of the second transaction', async () => (await offset()) === '7')
  await committed('kj-txn-out-g', 'kj-txn-out')
  const second = await transactional()
  await transaction(second, 'kj-txn-out', 200, 220, true)
  await assert.rejects(transaction(producer, 'kj-txn-out', 220, 240, true))
  await second.disconnect()
  await producer.disconnect()
})

check('seek by timestamp', async () => {
  await create('kj-time', 1)
  await send('kj-time', 0, 100)
  await send('kj-time', 100, 200, CompressionTypes.ZSTD)
  for (const [at, want] of [[-5, 0], [37, 37], [150, 150], [199, 199], [200, 200]]) {
    const [{ offset }] = await admin.fetchTopicOffsetsByTimestamp('kj-time', BASE_MS + at)
    assert.equal(Number(offset), want, `offset at ${at} ms`)
  }
  const got = []
  const m = await Member.join('kj-time-g', 'kj-time', (_, r) => got.push(Number(r.offset)))
  m.consumer.seek({ topic: 'kj-time', partition: 0, offset: '150' })
  await until('the last record', () => got.includes(199))
  await m.stop()
  assert.deepEqual(got.slice(-50), Array.from({ length: 50 }, (_, i) => 150 + i))
})

check('admin: describe and alter configs', async () => {
  await create('kj-admin')
  const resource = { type: ConfigResourceTypes.TOPIC, name: 'kj-admin' }
  const retention = async () => {
    const { resources } = await admin.describeConfigs({ resources: [resource], includeSynonyms: false })
    return resources[0].configEntries.find(e => e.configName === 'retention.ms').configValue
  }
  assert.equal(await retention(), '604800000')
  await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: 'retention.ms', value: '123456789' }] }] })
  await until('the changed value', async () => (await retention()) === '123456789')
})

check('admin: create partitions, delete records, delete topic', async () => {
  await create('kj-admin2')
  await admin.createPartitions({ topicPartitions: [{ topic: 'kj-admin2', count: 5 }] })
  const partitions = async () => (await admin.fetchTopicMetadata({ topics: ['kj-admin2'] })).topics[0].partitions.length
  await until('five partitions', async () => (await partitions()) === 5)
  await send('kj-admin2', 0, 100)
  const { partition, high } = (await admin.fetchTopicOffsets('kj-admin2')).find(p => Number(p.high) > 1)
  const half = String(Math.floor(Number(high) / 2))
  await admin.deleteTopicRecords({ topic: 'kj-admin2', partitions: [{ partition, offset: half }] })
  const after = (await admin.fetchTopicOffsets('kj-admin2')).find(p => p.partition === partition)
  assert.equal(after.low, half)
  await admin.deleteTopics({ topics: ['kj-admin2'] })
  await until('the topic is gone', async () => !(await admin.listTopics()).includes('kj-admin2'))
})

check('admin: groups', async () => {
  await create('kj-groups', 1)
  await send('kj-groups', 0, 50)
  const tally = new Tally()
  const m = await Member.join('kj-groups-g', 'kj-groups', (p, r) => tally.add(p, r))
  await m.wait(tally, 50)
  const { groups: [described] } = await admin.describeGroups(['kj-groups-g'])
  assert.deepEqual([described.state, described.members.length], ['Stable', 1])
  await m.stop()
  const listed = async () => (await admin.listGroups()).groups.some(g => g.groupId === 'kj-groups-g')
  assert(await listed())
  await admin.setOffsets({ groupId: 'kj-groups-g', topic: 'kj-groups', partitions: [{ partition: 0, offset: '10' }] })
  const [{ partitions: [committed] }] = await admin.fetchOffsets({ groupId: 'kj-groups-g', topics: ['kj-groups'] })
  assert.equal(committed.offset, '10')
  await admin.deleteGroups(['kj-groups-g'])
  assert(!(await listed()))
})

check('broker restart in the middle, idempotent producer', async () => {
  await create('kj-restart')
  const n = 4000
  const tally = new Tally()
  const m = await Member.join('kj-restart-g', 'kj-restart', (p, r) => tally.add(p, r, true))
  const producer = newProducer()
  await producer.connect()
  let restarted
  for (let i = 0; i < n; i += 20) {
    const messages = Array.from({ length: 20 }, (_, k) => record(i + k))
    await producer.send({ topic: 'kj-restart', acks: -1, compression: CompressionTypes.GZIP, messages })
    if (i === n / 4) {
      await until('some of them read', () => m.wrong || tally.seen.size >= n / 8)
      const restart = spawn('sh', ['-c', process.env.RESTART], { stdio: 'ignore' })
      restarted = new Promise(resolve => restart.on('exit', resolve))
    }
  }
  assert.equal(await restarted, 0, 'exit code of the restart')
  await producer.disconnect()
  await m.wait(tally, n)
  await m.stop()
  tally.expect(n)
  const ends = await admin.fetchTopicOffsets('kj-restart')
  assert.equal(ends.reduce((sum, p) => sum + Number(p.high), 0), n, 'end offsets')
})

async function main() {
  const wanted = process.argv.slice(2)
  let failed = 0
  await admin.connect()
  for (const { name, run } of checks) {
    if (wanted.length && !wanted.some(w => name.includes(w))) continue
    const began = Date.now()
    said.length = 0
    try {
      await Promise.race([run(), pause(CHECK_MS, null, { ref: false }).then(() => { throw new Error('not done in time') })])
      console.log(`ok    ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
    } catch (e) {
      failed++
      console.error(e)
      console.error(said.join('\n'))
      console.log(`FAIL  ${name}: ${String(e.message ?? e).replace(/\s+/g, ' ').slice(0, 800)}`)
    }
  }
  process.exit(failed ? 1 : 0)
}

main()
