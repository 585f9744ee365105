//! Record batches from templates: all batches of a run have the same shape, so they are encoded once and each record changes
//! only what differs.
//!
//! A buffer goes round: filled record by record ([`Batch::push`]), sealed when first sent, moved into the send and back,
//! kept until the answer (a retry sends the same bytes), recycled. A recycled buffer still holds the shape of the
//! records it had, so only the identities are written again. All records of a batch have the batch's timestamp, as those of a
//! burst have.

use super::payload::{self, Filler, Identity};
use crate::record::batch::increment_sequence;
use crate::record::varint::{varint_size, write_varint};
use crate::record::{
    Attributes, BATCH_OVERHEAD, BatchHeader, Codec, CompressionError, CompressionLevel, Compressor,
    LOG_OVERHEAD, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, crc32c,
};

/// The CRC covers the batch from here on.
const CRC_FROM: usize = 21;
const CRC_AT: usize = 17;
/// More records than this in a batch are of no use, and a slot has 16 bits.
const RECORDS_MAX: usize = 65_535;

/// The shape of every batch of a run.
pub struct Template {
    /// Encoded records of all slots.
    bytes: Vec<u8>,
    /// Where the record of each slot ends in the batch, header counted.
    ends: Vec<u32>,
    key_bytes: Option<usize>,
    value_bytes: usize,
    run: u32,
    codec: Codec,
}

impl Template {
    /// As many records as fit into `batch_bytes`, one at least.
    pub fn new(
        run: u32,
        value_bytes: usize,
        key_bytes: Option<usize>,
        batch_bytes: usize,
        codec: Codec,
    ) -> Template {
        let filler = Filler::new(run, value_bytes);
        let mut template =
            Template { bytes: Vec::new(), ends: Vec::new(), key_bytes, value_bytes, run, codec };
        for slot in 0..RECORDS_MAX {
            let size = template.encoded_size(slot as i32);
            if slot > 0 && BATCH_OVERHEAD + template.bytes.len() + size > batch_bytes {
                break;
            }
            template.append_record(slot, filler.piece(slot as u16));
        }
        template
    }

    pub fn records_max(&self) -> usize {
        self.ends.len()
    }

    /// The encoded size of a full batch.
    pub fn batch_bytes_max(&self) -> usize {
        BATCH_OVERHEAD + self.bytes.len()
    }

    fn body_size(&self, slot: i32) -> usize {
        let key = self.key_bytes.map_or(1, |bytes| varint_size(bytes as i32) + bytes);
        let value = varint_size(self.value_bytes as i32) + self.value_bytes;
        // Attributes, timestamp delta, offset delta, key, value, no headers.
        1 + 1 + varint_size(slot) + key + value + 1
    }

    fn encoded_size(&self, slot: i32) -> usize {
        let body = self.body_size(slot);
        varint_size(body as i32) + body
    }

    fn append_record(&mut self, slot: usize, filler: &[u8]) {
        let body = self.body_size(slot as i32);
        let out = &mut self.bytes;
        write_varint(out, body as i32);
        out.extend_from_slice(&[0, 0]);
        write_varint(out, slot as i32);
        match self.key_bytes {
            None => write_varint(out, -1),
            Some(bytes) => {
                write_varint(out, bytes as i32);
                out.resize(out.len() + bytes, 0);
            }
        }
        write_varint(out, self.value_bytes as i32);
        out.resize(out.len() + payload::IDENTITY_BYTES, 0);
        out.extend_from_slice(filler);
        out.push(0);
        self.ends.push((BATCH_OVERHEAD + self.bytes.len()) as u32);
    }

    /// The value of a slot in a batch: before the header count, which ends the record.
    #[inline]
    fn value_at(&self, slot: usize) -> usize {
        self.ends[slot] as usize - 1 - self.value_bytes
    }

    #[inline]
    fn key_at(&self, slot: usize, key_bytes: usize) -> usize {
        self.value_at(slot) - varint_size(self.value_bytes as i32) - key_bytes
    }
}

/// Who produces, as the batch header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerId {
    pub id: i64,
    pub epoch: i16,
}

impl ProducerId {
    pub const NONE: ProducerId = ProducerId { id: NO_PRODUCER_ID, epoch: NO_PRODUCER_EPOCH };
}

/// A batch from its first record to its answer.
#[derive(Debug)]
pub struct Batch {
    /// The template's shape, at least up to the batch's last record. Empty while the send has it.
    pub bytes: Vec<u8>,
    /// What is sent when records are compressed.
    pub packed: Vec<u8>,
    pub partition: u32,
    pub first_sequence: u64,
    pub count: u32,
    pub first_intended_ns: u64,
    pub last_intended_ns: u64,
    /// When it was first sent; 0 before.
    pub sent_ns: u64,
    pub attempts: u32,
}

impl Batch {
    /// An empty batch in a recycled or new buffer.
    pub fn new(bytes: Vec<u8>, packed: Vec<u8>, partition: u32, first_sequence: u64) -> Batch {
        Batch {
            bytes,
            packed,
            partition,
            first_sequence,
            count: 0,
            first_intended_ns: 0,
            last_intended_ns: 0,
            sent_ns: 0,
            attempts: 0,
        }
    }

    pub fn is_full(&self, template: &Template) -> bool {
        self.count as usize == template.records_max()
    }

    /// The sequence behind its last record.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.count)
    }

    /// Adds the next record. The batch is not full.
    #[inline]
    pub fn push(&mut self, template: &Template, producer: u16, intended_ns: u64, key: u64) {
        let slot = self.count as usize;
        let end = template.ends[slot] as usize;
        if self.bytes.len() < end {
            let from = self.bytes.len().max(BATCH_OVERHEAD);
            self.bytes.resize(from, 0);
            self.bytes.extend_from_slice(&template.bytes[from - BATCH_OVERHEAD..end - BATCH_OVERHEAD]);
        }
        let identity = Identity {
            run: template.run,
            producer,
            slot: slot as u16,
            partition: self.partition,
            sequence: self.end_sequence(),
            intended_ns,
            sent_ns: 0,
        };
        let at = template.value_at(slot);
        identity.write(&mut self.bytes[at..]);
        if let Some(key_bytes) = template.key_bytes {
            let at = template.key_at(slot, key_bytes);
            self.bytes[at..at + 8].copy_from_slice(&key.to_be_bytes());
        }
        if self.count == 0 {
            self.first_intended_ns = intended_ns;
        }
        self.last_intended_ns = intended_ns;
        self.count += 1;
    }

    /// The size of the records so far, header and all.
    pub fn raw_len(&self, template: &Template) -> usize {
        match self.count {
            0 => BATCH_OVERHEAD,
            count => template.ends[count as usize - 1] as usize,
        }
    }

    /// Completes a batch that is sent for the first time: send times, checksums, header, compression.
    pub fn seal(
        &mut self,
        template: &Template,
        producer: ProducerId,
        now: (u64, i64),
        compressor: &mut Compressor,
    ) -> Result<(), CompressionError> {
        let (now_ns, wall_ms) = now;
        self.sent_ns = now_ns;
        for slot in 0..self.count as usize {
            let at = template.value_at(slot);
            payload::seal(&mut self.bytes[at..at + payload::IDENTITY_BYTES], now_ns);
        }
        let len = self.raw_len(template);
        self.packed.clear();
        if template.codec == Codec::None {
            let header = self.header(template.codec, producer, wall_ms, len);
            finish(header, &mut self.bytes[..len]);
            return Ok(());
        }
        self.packed.resize(BATCH_OVERHEAD, 0);
        let records = &self.bytes[BATCH_OVERHEAD..len];
        compressor.compress(template.codec, CompressionLevel::default(), records, &mut self.packed)?;
        let header = self.header(template.codec, producer, wall_ms, self.packed.len());
        finish(header, &mut self.packed);
        Ok(())
    }

    fn header(&self, codec: Codec, producer: ProducerId, wall_ms: i64, len: usize) -> BatchHeader {
        // Kafka's sequences are 31 bits and wrap to 0.
        let wrapped = (self.first_sequence & 0x7fff_ffff) as i32;
        let base_sequence =
            if producer == ProducerId::NONE { NO_SEQUENCE } else { increment_sequence(wrapped, 0) };
        BatchHeader {
            base_offset: 0,
            batch_length: (len - LOG_OVERHEAD) as i32,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            crc: 0,
            attributes: Attributes::default().with_codec(codec),
            last_offset_delta: self.count as i32 - 1,
            base_timestamp: wall_ms,
            max_timestamp: wall_ms,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence,
            records_count: self.count as i32,
        }
    }

    /// The intended time of each record.
    pub fn intended_times(&self, template: &Template) -> impl Iterator<Item = u64> {
        (0..self.count as usize).map(|slot| payload::intended_ns(&self.bytes[template.value_at(slot)..]))
    }
}

/// Writes the header with its checksum.
fn finish(header: BatchHeader, batch: &mut [u8]) {
    header.write(batch);
    let crc = crc32c::checksum(&batch[CRC_FROM..]);
    batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Decompressor, RecordBatch};

    fn filled(template: &Template, batch: &mut Batch, count: u32) {
        for index in 0..count {
            batch.push(template, 3, 1000 + u64::from(index), 0xabcd + u64::from(index));
        }
        batch.seal(template, ProducerId { id: 9, epoch: 1 }, (5000, 77), &mut Compressor::new()).unwrap();
    }

    #[test]
    fn a_batch_is_one_that_the_format_knows() {
        for (key, codec) in [(None, Codec::None), (Some(8), Codec::None), (Some(8), Codec::Lz4)] {
            let template = Template::new(5, 100, key, 20_000, codec);
            assert!(template.batch_bytes_max() <= 20_000 && template.batch_bytes_max() > 19_800);
            let mut batch = Batch::new(Vec::new(), Vec::new(), 4, 500);
            filled(&template, &mut batch, 150);
            let wire = if codec == Codec::None { &batch.bytes } else { &batch.packed };
            let parsed = RecordBatch::parse(wire).unwrap();
            parsed.check_crc().unwrap();
            assert_eq!(parsed.bytes().len(), wire.len());
            let header = *parsed.header();
            assert_eq!(
                (header.records_count, header.last_offset_delta, header.base_sequence),
                (150, 149, 500)
            );
            assert_eq!((header.producer_id, header.producer_epoch, header.base_timestamp), (9, 1, 77));
            let (mut decompressor, mut scratch) = (Decompressor::new(), Vec::new());
            let filler = Filler::new(5, 100);
            let records = parsed.records(&mut decompressor, &mut scratch, 1 << 20).unwrap();
            for (index, record) in records.enumerate() {
                let record = record.unwrap();
                let identity = Identity::read(record.value.unwrap()).unwrap();
                assert_eq!((identity.sequence, identity.partition), (500 + index as u64, 4));
                assert_eq!((identity.intended_ns, identity.sent_ns), (1000 + index as u64, 5000));
                assert_eq!(&record.value.unwrap()[40..], filler.piece(identity.slot));
                let expected = (0xabcd + index as u64).to_be_bytes();
                assert_eq!(record.key, key.map(|_| &expected[..]));
            }
            let times: Vec<u64> = batch.intended_times(&template).collect();
            assert_eq!((times.len(), times[149]), (150, 1149));
        }
    }

    #[test]
    fn a_recycled_buffer_gives_the_same_bytes_whatever_it_held() {
        let template = Template::new(5, 64, None, 4000, Codec::None);
        let mut fresh = Batch::new(Vec::new(), Vec::new(), 1, 10);
        filled(&template, &mut fresh, 7);
        let mut used = Batch::new(Vec::new(), Vec::new(), 2, 99);
        filled(&template, &mut used, 20);
        used.bytes.truncate(used.raw_len(&template) - 500);
        let mut again = Batch::new(used.bytes, used.packed, 1, 10);
        filled(&template, &mut again, 7);
        let len = fresh.raw_len(&template);
        assert_eq!(fresh.bytes[..len], again.bytes[..len]);
    }

    #[test]
    fn a_record_larger_than_a_batch_goes_alone() {
        let template = Template::new(5, 10_000, None, 100, Codec::None);
        assert_eq!(template.records_max(), 1);
    }

    #[test]
    fn sequences_wrap_as_kafkas_do() {
        let template = Template::new(5, 64, None, 4000, Codec::None);
        let mut batch = Batch::new(Vec::new(), Vec::new(), 1, (1 << 31) + 5);
        filled(&template, &mut batch, 1);
        assert_eq!(RecordBatch::parse(&batch.bytes).unwrap().header().base_sequence, 5);
    }
}
