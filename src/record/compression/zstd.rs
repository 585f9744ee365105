//! zstd frames, with the contexts of the library kept between batches.

use ::zstd::zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective, compress_bound};

use super::{CHUNK_BYTES, Chunk, CompressionError, CompressionLevel};
use crate::record::batch::Codec;

const LEVEL_DEFAULT: i32 = 3;
const LEVEL_MIN: i32 = -131_072;
const LEVEL_MAX: i32 = 22;
/// A context that grew past this (a frame with a large window) is not kept.
const CONTEXT_BYTES_KEPT: usize = 9 << 20;

#[derive(Default)]
pub(super) struct Encoder {
    context: Option<CCtx<'static>>,
}

impl Encoder {
    pub fn encode(
        &mut self,
        level: CompressionLevel,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let level = level.0.unwrap_or(LEVEL_DEFAULT).clamp(LEVEL_MIN, LEVEL_MAX);
        if self.context.is_none() {
            self.context = Some(CCtx::try_create().ok_or(failed())?);
        }
        let Some(context) = &mut self.context else { return Err(failed()) };
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(|_| failed())?;
        let start = out.len();
        out.resize(start + compress_bound(input.len()), 0);
        let size = context.compress2(&mut out[start..], input).map_err(|_| failed())?;
        out.truncate(start + size);
        if context.sizeof() > CONTEXT_BYTES_KEPT {
            self.context = None;
        }
        Ok(())
    }
}

fn failed() -> CompressionError {
    CompressionError::Failed { codec: Codec::Zstd, what: "library" }
}

#[derive(Default)]
pub(super) struct Decoder {
    context: Option<DCtx<'static>>,
    /// No frame is open: the input may end here.
    frame_ended: bool,
}

impl Decoder {
    pub fn start(&mut self) -> Result<(), CompressionError> {
        if self.context.as_ref().is_some_and(|context| context.sizeof() > CONTEXT_BYTES_KEPT) {
            self.context = None;
        }
        self.frame_ended = false;
        match &mut self.context {
            Some(context) => context.reset(ResetDirective::SessionOnly).map(|_| ()).map_err(|_| failed()),
            None => {
                self.context = Some(DCtx::try_create().ok_or(failed())?);
                Ok(())
            }
        }
    }

    pub fn decode(
        &mut self,
        input: &[u8],
        position: &mut usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Chunk, CompressionError> {
        if *position == input.len() && self.frame_ended {
            return Ok(Chunk::End);
        }
        if buffer.len() < CHUNK_BYTES {
            buffer.resize(CHUNK_BYTES, 0);
        }
        let Some(context) = &mut self.context else { return Err(failed()) };
        let mut from = InBuffer::around(&input[*position..]);
        let mut to = OutBuffer::around(&mut buffer[..CHUNK_BYTES]);
        let hint = context.decompress_stream(&mut to, &mut from).map_err(|_| corrupt("frame"))?;
        let (consumed, produced) = (from.pos(), to.pos());
        if consumed == 0 && produced == 0 {
            return Err(corrupt("cut off"));
        }
        *position += consumed;
        self.frame_ended = hint == 0;
        Ok(Chunk::Buffer(0, produced))
    }
}

fn corrupt(what: &'static str) -> CompressionError {
    CompressionError::Corrupt { codec: Codec::Zstd, what }
}
