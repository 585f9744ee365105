//! Snappy blocks in the framing of Java's snappy library, or one raw block.

use super::{Chunk, CompressionError};
use crate::record::batch::Codec;

/// Magic, then version and lowest compatible version, both 1.
const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const MAGIC_BYTES: usize = 8;
/// What Java's library packs at a time.
const BLOCK_BYTES: usize = 32 << 10;
/// The best a snappy element does: 64 bytes out of 3. A block claiming more is lying, so its claim may size a buffer.
const EXPANSION_MAX: usize = 22;

pub(super) struct Encoder {
    encoder: snap::raw::Encoder,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { encoder: snap::raw::Encoder::new() }
    }
}

impl Encoder {
    pub fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        out.extend_from_slice(&HEADER);
        for block in input.chunks(BLOCK_BYTES) {
            let start = out.len();
            out.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
            let size = self
                .encoder
                .compress(block, &mut out[start + 4..])
                .map_err(|_| CompressionError::Failed { codec: Codec::Snappy, what: "block" })?;
            out[start..start + 4].copy_from_slice(&(size as u32).to_be_bytes());
            out.truncate(start + 4 + size);
        }
        Ok(())
    }
}

pub(super) struct Decoder {
    decoder: snap::raw::Decoder,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { decoder: snap::raw::Decoder::new() }
    }
}

impl Decoder {
    pub fn start(&mut self) {}

    pub fn decode(
        &mut self,
        input: &[u8],
        position: &mut usize,
        buffer: &mut Vec<u8>,
        left: usize,
    ) -> Result<Chunk, CompressionError> {
        let framed = input.len() >= HEADER.len() && input[..MAGIC_BYTES] == HEADER[..MAGIC_BYTES];
        if input.is_empty() {
            return Err(corrupt("empty"));
        }
        if *position == input.len() {
            return Ok(Chunk::End);
        }
        let block = if framed {
            frame(input, position)?
        } else {
            *position = input.len();
            Some(input)
        };
        let Some(block) = block else { return Ok(Chunk::Buffer(0, 0)) };
        let length = snap::raw::decompress_len(block).map_err(|_| corrupt("length"))?;
        if length > block.len().saturating_mul(EXPANSION_MAX) {
            return Err(corrupt("length"));
        }
        if length > left {
            return Ok(Chunk::Buffer(0, length)); // refused by the caller, before anything is unpacked
        }
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let size = self.decoder.decompress(block, &mut buffer[..length]).map_err(|_| corrupt("block"))?;
        Ok(Chunk::Buffer(0, size))
    }
}

/// The next block of the framing, or `None` after a header: streams may follow one another.
fn frame<'i>(input: &'i [u8], position: &mut usize) -> Result<Option<&'i [u8]>, CompressionError> {
    let rest = &input[*position..];
    if rest.starts_with(&HEADER[..MAGIC_BYTES]) {
        if rest.len() < HEADER.len() {
            return Err(corrupt("header"));
        }
        *position += HEADER.len();
        return Ok(None);
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(corrupt("block length"))?;
    let length = u32::from_be_bytes(*length) as usize;
    let block = rest.get(..length).ok_or(corrupt("cut off"))?;
    *position += 4 + length;
    Ok(Some(block))
}

fn corrupt(what: &'static str) -> CompressionError {
    CompressionError::Corrupt { codec: Codec::Snappy, what }
}
