//! The codecs of record batches, in the framing Kafka gives each, with memory and output bounded on the way in.
//!
//! [`Compressor`] and [`Decompressor`] keep their tables and contexts: one of each per shard, then no allocation a batch.
//! Decompression goes chunk by chunk ([`Decompressor::chunks`]), so validating a batch holds one chunk (at most
//! [`CHUNK_BYTES_MAX`], but a block of snappy's as large as the producer made it) and stops at a limit on the output:
//! a decompression bomb costs no more than an honest batch of that size.
//!
//! How the formats differ from the codec's own: snappy is written in the framing of Java's library (and read raw as well, as
//! librdkafka sends it); an lz4 frame must have independent blocks, and its content checksum is skipped over, not
//! checked; gzip may hold several members, and what follows them is ignored; zstd may hold several frames.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use thiserror::Error;

use super::batch::{BATCH_OVERHEAD, BatchError, Codec, RecordBatch, update_crc};
use super::records::RecordError;

/// The largest chunk buffer of gzip, lz4 and zstd: the largest block an lz4 frame may have.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Kafka's default of `socket.request.max.bytes`. As a limit of decompressed size it means that compression may carry no more
/// than a request could have carried without it.
pub const DECOMPRESSED_BYTES_MAX_DEFAULT: usize = 100 << 20;

/// The capacity a buffer of whole unpacked batches keeps from one batch to the next.
pub const SCRATCH_BYTES_KEPT: usize = 8 << 20;

/// What gzip and zstd unpack at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Why bytes could not be packed or unpacked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CompressionError {
    #[error("compression codec {0} does not exist")]
    UnknownCodec(u8),
    #[error("invalid {codec} data: {what}")]
    Corrupt { codec: Codec, what: &'static str },
    #[error("the records unpack to more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("{codec} failed: {what}")]
    Failed { codec: Codec, what: &'static str },
}

/// `compression.<codec>.level`; `None` is Kafka's default. Out of the codec's range it counts as the nearest level.
/// lz4 has one level here: the setting is taken and has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionLevel(pub Option<i32>);

/// Packs the records of batches.
#[derive(Default)]
pub struct Compressor {
    gzip: gzip::Encoder,
    snappy: snappy::Encoder,
    lz4: lz4::Encoder,
    zstd: zstd::Encoder,
}

impl Compressor {
    pub fn new() -> Compressor {
        Compressor::default()
    }

    /// Appends `input`, packed, to `out`.
    pub fn compress(
        &mut self,
        codec: Codec,
        level: CompressionLevel,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        match codec {
            Codec::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            Codec::Gzip => self.gzip.encode(level, input, out),
            Codec::Snappy => self.snappy.encode(input, out),
            Codec::Lz4 => self.lz4.encode(input, out),
            Codec::Zstd => self.zstd.encode(level, input, out),
        }
    }
}

/// Unpacks the records of batches.
#[derive(Default)]
pub struct Decompressor {
    chunk: Vec<u8>,
    gzip: gzip::Decoder,
    snappy: snappy::Decoder,
    lz4: lz4::Decoder,
    zstd: zstd::Decoder,
}

impl Decompressor {
    pub fn new() -> Decompressor {
        Decompressor::default()
    }

    /// Unpacks `input` a chunk at a time, `bytes_max` bytes at most.
    pub fn chunks<'d, 'i>(
        &'d mut self,
        codec: Codec,
        input: &'i [u8],
        bytes_max: usize,
    ) -> Result<Chunks<'d, 'i>, CompressionError> {
        // One batch with a huge block does not keep the memory for good.
        if self.chunk.len() > CHUNK_BYTES_MAX {
            self.chunk = Vec::new();
        }
        match codec {
            Codec::None => {}
            Codec::Gzip => self.gzip.start(),
            Codec::Snappy => self.snappy.start(),
            Codec::Lz4 => self.lz4.start(),
            Codec::Zstd => self.zstd.start()?,
        }
        Ok(Chunks {
            decompressor: self,
            codec,
            input,
            position: 0,
            produced: 0,
            bytes_max,
            chunk: Chunk::Buffer(0, 0),
        })
    }

    /// Unpacks all of `input` into `out`, replacing what was there.
    pub fn decompress(
        &mut self,
        codec: Codec,
        input: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<(), CompressionError> {
        out.clear();
        let mut chunks = self.chunks(codec, input, bytes_max)?;
        loop {
            let chunk = chunks.fill()?;
            if chunk.is_empty() {
                return Ok(());
            }
            out.extend_from_slice(chunk);
            let size = chunk.len();
            chunks.consume(size);
        }
    }

    /// The records' bytes of `batch`: its own when they are not compressed, else `scratch`.
    pub fn payload<'s, 'a: 's>(
        &mut self,
        batch: &RecordBatch<'a>,
        scratch: &'s mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<&'s [u8], CompressionError> {
        match codec_of(batch)? {
            Codec::None => Ok(batch.payload()),
            codec => {
                self.decompress(codec, batch.payload(), scratch, bytes_max)?;
                Ok(scratch)
            }
        }
    }
}

/// A stream being unpacked, read as one reads a buffered file: look at [`Chunks::fill`], then [`Chunks::consume`].
pub struct Chunks<'d, 'i> {
    decompressor: &'d mut Decompressor,
    codec: Codec,
    input: &'i [u8],
    position: usize,
    produced: usize,
    bytes_max: usize,
    chunk: Chunk,
}

/// Where a codec put the bytes it unpacked.
#[derive(Clone, Copy)]
enum Chunk {
    /// This range of the chunk buffer.
    Buffer(usize, usize),
    /// Stored as it is: this range of the input.
    Input(usize, usize),
    End,
}

impl Chunk {
    fn len(self) -> usize {
        match self {
            Chunk::Buffer(from, to) | Chunk::Input(from, to) => to - from,
            Chunk::End => 0,
        }
    }
}

impl Chunks<'_, '_> {
    /// The bytes unpacked and not yet consumed, unpacking more when there are none; empty only at the end.
    pub fn fill(&mut self) -> Result<&[u8], CompressionError> {
        while self.chunk.len() == 0 {
            self.chunk = self.unpack()?;
            if let Chunk::End = self.chunk {
                return Ok(&[]);
            }
            if self.chunk.len() > self.bytes_max - self.produced {
                return Err(CompressionError::TooLarge { limit: self.bytes_max });
            }
            self.produced += self.chunk.len();
        }
        Ok(match self.chunk {
            Chunk::Buffer(from, to) => &self.decompressor.chunk[from..to],
            Chunk::Input(from, to) => &self.input[from..to],
            Chunk::End => &[],
        })
    }

    /// Takes `count` of the bytes [`Chunks::fill`] showed.
    pub fn consume(&mut self, count: usize) {
        if let Chunk::Buffer(from, to) | Chunk::Input(from, to) = &mut self.chunk {
            *from = (*from + count).min(*to);
        }
    }

    /// One step of the codec. An empty chunk is not the end; each has used up input, so they come to one.
    fn unpack(&mut self) -> Result<Chunk, CompressionError> {
        let left = self.bytes_max - self.produced;
        let Decompressor { chunk: buffer, gzip, snappy, lz4, zstd } = &mut *self.decompressor;
        let (input, position) = (self.input, &mut self.position);
        match self.codec {
            Codec::None => {
                let from = std::mem::replace(position, input.len());
                Ok(if from == input.len() { Chunk::End } else { Chunk::Input(from, input.len()) })
            }
            Codec::Gzip => gzip.decode(input, position, buffer),
            Codec::Snappy => snappy.decode(input, position, buffer, left),
            Codec::Lz4 => lz4.decode(input, position, buffer),
            Codec::Zstd => zstd.decode(input, position, buffer),
        }
    }
}

fn codec_of(batch: &RecordBatch<'_>) -> Result<Codec, CompressionError> {
    let header = batch.header();
    header.codec().ok_or(CompressionError::UnknownCodec((header.attributes.0 & 7) as u8))
}

/// Why [`recompress`] gave up.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecompressError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the batch would be larger than a batch can be")]
    TooLarge,
}

impl From<CompressionError> for RecompressError {
    fn from(error: CompressionError) -> Self {
        RecompressError::Record(RecordError::Compression(error))
    }
}

/// Rewrites `batch` with another codec: the records and the rest of the header stay byte for byte. Appends it to `out`.
/// `scratch` holds the unpacked records and never grows past `bytes_max`.
pub fn recompress(
    batch: &RecordBatch<'_>,
    target: (Codec, CompressionLevel),
    compressor: &mut Compressor,
    decompressor: &mut Decompressor,
    scratch: &mut Vec<u8>,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), RecompressError> {
    let records = decompressor.payload(batch, scratch, bytes_max)?;
    write_batch(*batch.header(), records, target, compressor, out)
}

/// Appends a batch with this header (length, codec and checksum are filled in) around these records.
pub(super) fn write_batch(
    mut header: super::batch::BatchHeader,
    records: &[u8],
    (codec, level): (Codec, CompressionLevel),
    compressor: &mut Compressor,
    out: &mut Vec<u8>,
) -> Result<(), RecompressError> {
    let start = out.len();
    out.resize(start + BATCH_OVERHEAD, 0);
    compressor.compress(codec, level, records, out)?;
    let length = out.len() - start - super::batch::LOG_OVERHEAD;
    header.batch_length = i32::try_from(length).map_err(|_| RecompressError::TooLarge)?;
    header.attributes = header.attributes.with_codec(codec);
    header.write(&mut out[start..]);
    update_crc(&mut out[start..]);
    Ok(())
}
