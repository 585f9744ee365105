//! The lz4 frame format as Kafka's own reader and writer have it: independent blocks of 64 KiB written, of up to 4 MiB read.

use lz4_flex::block::{self, CompressTable};

use super::{Chunk, CompressionError};
use crate::record::batch::Codec;

const MAGIC: u32 = 0x184d_2204;
/// Magic; flags: version 1, independent blocks; block size 64 KiB; header checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK_BYTES: usize = 64 << 10;
const STORED: u32 = 0x8000_0000;

const FLAG_RESERVED: u8 = 0x03;
const FLAG_CONTENT_CHECKSUM: u8 = 0x04;
const FLAG_CONTENT_SIZE: u8 = 0x08;
const FLAG_BLOCK_CHECKSUM: u8 = 0x10;
const FLAG_INDEPENDENT: u8 = 0x20;

pub(super) struct Encoder {
    table: CompressTable,
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { table: CompressTable::large() }
    }
}

impl Encoder {
    pub fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
        out.extend_from_slice(&HEADER);
        for block in input.chunks(BLOCK_BYTES) {
            let start = out.len();
            out.resize(start + 4 + block::get_maximum_output_size(block.len()), 0);
            let size = block::compress_into_with_table(block, &mut out[start + 4..], &mut self.table)
                .map_err(|_| CompressionError::Failed { codec: Codec::Lz4, what: "block" })?;
            let (size, mark) = if size < block.len() {
                (size, size as u32)
            } else {
                out[start + 4..start + 4 + block.len()].copy_from_slice(block);
                (block.len(), block.len() as u32 | STORED)
            };
            out[start..start + 4].copy_from_slice(&mark.to_le_bytes());
            out.truncate(start + 4 + size);
        }
        out.extend_from_slice(&[0; 4]);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Decoder {
    frame: Option<Frame>,
}

#[derive(Clone, Copy)]
struct Frame {
    block_bytes_max: usize,
    block_checksum: bool,
    content_checksum: bool,
    ended: bool,
}

impl Decoder {
    pub fn start(&mut self) {
        self.frame = None;
    }

    pub fn decode(
        &mut self,
        input: &[u8],
        position: &mut usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Chunk, CompressionError> {
        let frame = match &mut self.frame {
            Some(frame) => frame,
            None => self.frame.insert(read_header(input, position)?),
        };
        if frame.ended {
            return Ok(Chunk::End);
        }
        let mark = read_u32(input, position).ok_or(corrupt("cut off"))?;
        if mark & !STORED == 0 {
            frame.ended = true;
            if frame.content_checksum {
                read_u32(input, position).ok_or(corrupt("cut off"))?;
            }
            return Ok(Chunk::End);
        }
        let size = (mark & !STORED) as usize;
        if size > frame.block_bytes_max {
            return Err(corrupt("block size"));
        }
        let from = *position;
        let block = input.get(from..from + size).ok_or(corrupt("cut off"))?;
        *position += size;
        if frame.block_checksum && read_u32(input, position) != Some(xxh32(block)) {
            return Err(corrupt("block checksum"));
        }
        if mark & STORED != 0 {
            return Ok(Chunk::Input(from, from + size));
        }
        // Blocks unpack to no more than 255 times their size, so a small block need not get the largest buffer.
        let room = frame.block_bytes_max.min(size.saturating_mul(255));
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let size = block::decompress_into(block, &mut buffer[..room]).map_err(|_| corrupt("block"))?;
        Ok(Chunk::Buffer(0, size))
    }
}

fn read_header(input: &[u8], position: &mut usize) -> Result<Frame, CompressionError> {
    if read_u32(input, position) != Some(MAGIC) {
        return Err(corrupt("magic"));
    }
    let start = *position;
    let &[flags, sizes] = input.get(start..start + 2).ok_or(corrupt("header"))? else {
        return Err(corrupt("header"));
    };
    if flags >> 6 != 1 || flags & FLAG_RESERVED != 0 || flags & FLAG_INDEPENDENT == 0 {
        return Err(corrupt("unsupported flags"));
    }
    let block_size = sizes >> 4;
    if sizes & 0x0f != 0 || !(4..=7).contains(&block_size) {
        return Err(corrupt("unsupported block size"));
    }
    let descriptor_bytes = if flags & FLAG_CONTENT_SIZE != 0 { 10 } else { 2 };
    let descriptor = input.get(start..start + descriptor_bytes).ok_or(corrupt("header"))?;
    if input.get(start + descriptor_bytes) != Some(&((xxh32(descriptor) >> 8) as u8)) {
        return Err(corrupt("header checksum"));
    }
    *position = start + descriptor_bytes + 1;
    Ok(Frame {
        block_bytes_max: 1 << (2 * block_size + 8),
        block_checksum: flags & FLAG_BLOCK_CHECKSUM != 0,
        content_checksum: flags & FLAG_CONTENT_CHECKSUM != 0,
        ended: false,
    })
}

fn read_u32(input: &[u8], position: &mut usize) -> Option<u32> {
    let bytes = input.get(*position..)?.first_chunk::<4>()?;
    *position += 4;
    Some(u32::from_le_bytes(*bytes))
}

fn corrupt(what: &'static str) -> CompressionError {
    CompressionError::Corrupt { codec: Codec::Lz4, what }
}

/// xxHash32 with seed 0: the checksum of the frame format.
fn xxh32(input: &[u8]) -> u32 {
    const P: [u32; 5] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f, 0x1656_67b1];
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (stripes, tail) = input.as_chunks::<16>();
    let mut hash = if stripes.is_empty() {
        P[4]
    } else {
        let mut lanes = [P[0].wrapping_add(P[1]), P[1], 0, 0u32.wrapping_sub(P[0])];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks(4)) {
                let mixed = lane.wrapping_add(word(bytes).wrapping_mul(P[1]));
                *lane = mixed.rotate_left(13).wrapping_mul(P[0]);
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7));
        sum.wrapping_add(c.rotate_left(12)).wrapping_add(d.rotate_left(18))
    };
    hash = hash.wrapping_add(input.len() as u32);
    let (words, bytes) = tail.as_chunks::<4>();
    for bytes in words {
        hash = hash.wrapping_add(word(bytes).wrapping_mul(P[2])).rotate_left(17).wrapping_mul(P[3]);
    }
    for &byte in bytes {
        hash = hash.wrapping_add(u32::from(byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P[1]);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P[2]);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh32_known_values() {
        assert_eq!(xxh32(b""), 0x02cc_5d05);
        assert_eq!(xxh32(b"a"), 0x550d_7456);
        assert_eq!(xxh32(b"abc"), 0x32d1_53ff);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xe229_3b2f);
        assert_eq!((xxh32(&HEADER[4..6]) >> 8) as u8, HEADER[6]);
    }
}
