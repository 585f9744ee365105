//! Look-ups by timestamp, exact to the record, for ListOffsets.
//!
//! A segment is passed over by its largest timestamp, the rest of it by its time index; then batch headers are walked
//! and the first batch with a late enough record is decoded. Like reads, a look-up that misses memory starts a read and
//! is called again.

use super::names::FileKind;
use super::read::{Stop, Walk};
use super::segment::Largest;
use super::store::Storage;
use super::time_index;
use super::types::*;
use crate::io::Io;
use crate::record::{BatchHeader, Decompressor, RecordBatch, TimestampType};

/// What a batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 256 << 20;
const READ_BYTES: u32 = 512 << 10;

/// What is being looked for.
#[derive(Clone, Copy, Debug)]
struct Search {
    timestamp: i64,
    start_offset: i64,
    end_offset: i64,
}

impl Storage {
    /// The first record below `end_offset` whose timestamp is at least `timestamp`.
    pub fn offset_for_timestamp(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        timestamp: i64,
        end_offset: i64,
    ) -> Result<Lookup, ReadError> {
        let state = self.readable(log)?;
        let search = Search {
            timestamp,
            start_offset: state.log_start_offset,
            end_offset: end_offset.min(state.log_end_offset),
        };
        let bases: Vec<i64> = state.segments.iter().map(|segment| segment.base_offset).collect();
        for base_offset in bases {
            let Some(largest) = self.largest(io, log, base_offset)? else { return Ok(Lookup::Pending) };
            if largest.timestamp < timestamp {
                continue;
            }
            match self.search_segment(io, log, base_offset, &search)? {
                Lookup::None => {}
                found => return Ok(found),
            }
        }
        self.search_tail(log, &search)
    }

    /// The first record that carries the largest timestamp below `end_offset`.
    pub fn max_timestamp_offset(
        &mut self,
        io: &mut impl Io,
        log: LogId,
        end_offset: i64,
    ) -> Result<Lookup, ReadError> {
        let state = self.readable(log)?;
        let bases: Vec<i64> = state.segments.iter().map(|segment| segment.base_offset).collect();
        let mut max = -1;
        for base_offset in bases {
            let Some(largest) = self.largest(io, log, base_offset)? else { return Ok(Lookup::Pending) };
            max = max.max(largest.timestamp);
        }
        if max < 0 {
            return Ok(Lookup::None);
        }
        self.offset_for_timestamp(io, log, max, end_offset)
    }

    /// The largest timestamp of a segment, from its time index where it is not known; `None` while that is read.
    pub(super) fn largest(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        base_offset: i64,
    ) -> Result<Option<Largest>, ReadError> {
        let log = self.logs.get(id).ok_or(ReadError::UnknownLog)?;
        let index = log.segment_index(base_offset).ok_or(ReadError::OutOfRange)?;
        let segment = &log.segments[index];
        if let Some(largest) = segment.largest {
            return Ok(Some(largest));
        }
        // Without an entry the segment must be looked into.
        let mut largest = Largest { timestamp: i64::MAX, offset: base_offset };
        if segment.flushed_entries.times > 0 {
            let Some(bytes) = self.index(io, id, base_offset, FileKind::TimeIndex)? else { return Ok(None) };
            if let Some(last) = time_index::entries(&bytes, base_offset).last() {
                largest = Largest { timestamp: last.timestamp, offset: last.offset };
            }
        }
        if let Some(segment) = self.logs.get_mut(id).and_then(|log| log.segment_mut(base_offset)) {
            segment.largest = Some(largest);
        }
        Ok(Some(largest))
    }

    fn search_segment(
        &mut self,
        io: &mut impl Io,
        id: LogId,
        base_offset: i64,
        search: &Search,
    ) -> Result<Lookup, ReadError> {
        let Some(mut walk) = self.walk_from_start(id, base_offset) else { return Ok(Lookup::None) };
        if walk.is_done() {
            return Ok(Lookup::None);
        }
        let mut from = search.start_offset.max(base_offset);
        let log = self.logs.get(id).ok_or(ReadError::UnknownLog)?;
        let entries =
            log.segment_index(base_offset).map_or(0, |index| log.segments[index].flushed_entries.times);
        if entries > 0 {
            let Some(bytes) = self.index(io, id, base_offset, FileKind::TimeIndex)? else {
                return Ok(Lookup::Pending);
            };
            // Everything up to the entry's offset is earlier than `timestamp`, its own batch maybe not wholly.
            from =
                from.max(time_index::lookup(&bytes, base_offset, search.timestamp.saturating_sub(1)).offset);
        }
        if from >= walk.end_offset {
            return Ok(Lookup::None);
        }
        match self.start_walk(io, id, from)? {
            Some(started) => walk = started,
            None => return Ok(Lookup::Pending),
        }
        match self.search_walk(&mut walk, search) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Ok(Lookup::None),
            Err(Stop::Corrupt) => Err(self.corrupt(&walk)),
            Err(Stop::Missing(position)) => {
                self.read_chunk(io, &walk, position, READ_BYTES)?;
                Ok(Lookup::Pending)
            }
        }
    }

    fn search_walk(&mut self, walk: &mut Walk, search: &Search) -> Result<Option<Lookup>, Stop> {
        while !walk.is_done() {
            let header = self.walk_header(walk)?;
            if header.base_offset >= search.end_offset {
                return Ok(None);
            }
            if header.max_timestamp >= search.timestamp && header.next_offset() > search.start_offset {
                let mut batch = vec![0; header.size()];
                self.copy_bytes(walk, walk.position, &mut batch)?;
                if let Some(found) = search_batch(&batch, &header, search).map_err(|()| Stop::Corrupt)? {
                    return Ok(Some(found));
                }
            }
            walk.skip(&header);
        }
        Ok(None)
    }

    fn search_tail(&mut self, id: LogId, search: &Search) -> Result<Lookup, ReadError> {
        let log = self.logs.get(id).ok_or(ReadError::UnknownLog)?;
        for run in &log.tail {
            let mut position = 0;
            while position < run.slice.len() && run.base_offset < search.end_offset {
                let bytes = &run.slice[position..];
                let Ok(header) = BatchHeader::parse(bytes) else { return Err(ReadError::Storage) };
                if header.base_offset >= search.end_offset {
                    return Ok(Lookup::None);
                }
                if header.max_timestamp >= search.timestamp
                    && header.next_offset() > search.start_offset
                    && let Some(found) =
                        search_batch(bytes, &header, search).map_err(|()| ReadError::Storage)?
                {
                    return Ok(found);
                }
                position += header.size();
            }
        }
        Ok(Lookup::None)
    }
}

/// The first record of a batch that is late enough and within the offsets.
fn search_batch(bytes: &[u8], header: &BatchHeader, search: &Search) -> Result<Option<Lookup>, ()> {
    let leader_epoch = header.partition_leader_epoch;
    let batch = RecordBatch::parse(bytes).map_err(|_| ())?;
    batch.check_crc().map_err(|_| ())?;
    let mut decompressor = Decompressor::default();
    let mut scratch = Vec::new();
    let records = batch.records(&mut decompressor, &mut scratch, UNPACKED_BYTES_MAX).map_err(|_| ())?;
    let log_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
    for record in records {
        let record = record.map_err(|_| ())?;
        let offset = record.offset(header);
        let timestamp = if log_append_time { header.max_timestamp } else { record.timestamp(header) };
        if timestamp >= search.timestamp && (search.start_offset..search.end_offset).contains(&offset) {
            return Ok(Some(Lookup::Found { offset, timestamp, leader_epoch }));
        }
    }
    Ok(None)
}
