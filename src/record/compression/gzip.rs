//! gzip (RFC 1952) over raw deflate, members one after another.

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CHUNK_BYTES, Chunk, CompressionError, CompressionLevel};
use crate::record::batch::Codec;

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const HEADER_BYTES: usize = 10;
const TRAILER_BYTES: usize = 8;
const FLAG_HEADER_CRC: u8 = 2;
const FLAG_EXTRA: u8 = 4;
const FLAG_NAME: u8 = 8;
const FLAG_COMMENT: u8 = 16;
const LEVEL_DEFAULT: i32 = 6;

#[derive(Default)]
pub(super) struct Encoder {
    deflate: Option<(i32, Compress)>,
}

impl Encoder {
    pub fn encode(
        &mut self,
        level: CompressionLevel,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        // Kafka's -1 stands for the library's default too.
        let level = level.0.filter(|level| *level >= 1).unwrap_or(LEVEL_DEFAULT).min(9);
        if self.deflate.as_ref().is_none_or(|(kept, _)| *kept != level) {
            self.deflate = Some((level, Compress::new(Compression::new(level as u32), false)));
        }
        let Some((_, deflate)) = &mut self.deflate else { return Err(failed()) };
        deflate.reset();
        out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        loop {
            // Room for the worst case at once; the loop is for the flush.
            let rest = &input[deflate.total_in() as usize..];
            out.reserve(rest.len() + rest.len() / 1000 + 64);
            match deflate.compress_vec(rest, out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) => return Err(failed()),
            }
        }
        let mut crc = Crc::new();
        crc.update(input);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&(input.len() as u32).to_le_bytes());
        Ok(())
    }
}

fn failed() -> CompressionError {
    CompressionError::Failed { codec: Codec::Gzip, what: "deflate" }
}

#[derive(Default)]
pub(super) struct Decoder {
    inflate: Option<Box<Decompress>>,
    crc: Crc,
    members: usize,
    in_member: bool,
}

impl Decoder {
    pub fn start(&mut self) {
        self.members = 0;
        self.in_member = false;
    }

    pub fn decode(
        &mut self,
        input: &[u8],
        position: &mut usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Chunk, CompressionError> {
        if buffer.len() < CHUNK_BYTES {
            buffer.resize(CHUNK_BYTES, 0);
        }
        if !self.in_member {
            match header_size(&input[*position..]) {
                Some(size) => *position += size,
                None if self.members > 0 => return Ok(Chunk::End), // what follows the members is ignored
                None => return Err(corrupt("header")),
            }
            self.inflate.get_or_insert_with(|| Box::new(Decompress::new(false))).reset(false);
            self.crc.reset();
            self.members += 1;
            self.in_member = true;
        }
        let Some(inflate) = &mut self.inflate else { return Err(corrupt("state")) };
        let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(&input[*position..], &mut buffer[..CHUNK_BYTES], FlushDecompress::None)
            .map_err(|_| corrupt("deflate data"))?;
        let consumed = (inflate.total_in() - in_before) as usize;
        let produced = (inflate.total_out() - out_before) as usize;
        *position += consumed;
        self.crc.update(&buffer[..produced]);
        if status == Status::StreamEnd {
            self.in_member = false;
            let trailer = input.get(*position..*position + TRAILER_BYTES).ok_or(corrupt("trailer"))?;
            let total = inflate.total_out() as u32;
            if trailer[..4] != self.crc.sum().to_le_bytes() || trailer[4..] != total.to_le_bytes() {
                return Err(corrupt("checksum"));
            }
            *position += TRAILER_BYTES;
        } else if consumed == 0 && produced == 0 {
            return Err(corrupt("cut off"));
        }
        Ok(Chunk::Buffer(0, produced))
    }
}

fn corrupt(what: &'static str) -> CompressionError {
    CompressionError::Corrupt { codec: Codec::Gzip, what }
}

/// The size of a member's header, or `None` when there is none.
fn header_size(input: &[u8]) -> Option<usize> {
    let fixed = input.get(..HEADER_BYTES)?;
    if fixed[..3] != MAGIC {
        return None;
    }
    let flags = fixed[3];
    let mut at = HEADER_BYTES;
    if flags & FLAG_EXTRA != 0 {
        let length = input.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for flag in [FLAG_NAME, FLAG_COMMENT] {
        if flags & flag != 0 {
            at += input.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        at += 2;
    }
    (at <= input.len()).then_some(at)
}
