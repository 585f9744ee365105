//! Frames: a length of four bytes, a header, a message. Pure functions over bytes; sockets are elsewhere.

use super::api_key::{ApiKey, UnknownApiKey};
use super::error::{DecodeError, DecodeErrorKind as Kind};
use super::messages::{Message, Request};
use super::reader::{Reader, Result};
use super::writer::Writer;

/// The bytes of a frame's length, which do not count themselves.
pub const LENGTH_BYTES: usize = 4;

/// The header of a request, whatever its version. `decode` leaves the reader at the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api_key: ApiKey,
    /// May be one that is not served.
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<&'a str>,
}

impl<'a> RequestHeader<'a> {
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self> {
        let key = reader.i16("request_api_key")?;
        let version = reader.i16("request_api_version")?;
        let correlation_id = reader.i32("correlation_id")?;
        let api_key = ApiKey::try_from(key)
            .map_err(|UnknownApiKey(key)| DecodeError::new("request_api_key", Kind::UnknownApiKey(key)))?;
        // The client id keeps its two-byte length in every version, so that old brokers can read new headers.
        let client_id = match reader.i16("client_id")? {
            -1 => None,
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| DecodeError::new("client_id", Kind::NegativeLength(i64::from(length))))?;
                let text = reader.take("client_id", length)?;
                Some(
                    std::str::from_utf8(text)
                        .map_err(|_| DecodeError::new("client_id", Kind::InvalidUtf8))?,
                )
            }
        };
        if api_key.request_header_version(version) >= 2 {
            reader.skip_tags()?;
        }
        Ok(RequestHeader { api_key, version, correlation_id, client_id })
    }

    pub fn encode(&self, writer: &mut Writer) {
        writer.put_i16(self.api_key.code());
        writer.put_i16(self.version);
        writer.put_i32(self.correlation_id);
        writer.put_nullable_string(self.client_id, false);
        if self.api_key.request_header_version(self.version) >= 2 {
            writer.put_no_tags();
        }
    }
}

/// What stands in front of a record of Kafka's metadata log: which record it is, and in which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataRecordHeader {
    pub record_type: i16,
    pub version: i16,
}

/// The version of the header itself; there is only one.
const METADATA_FRAME_VERSION: u32 = 1;

impl MetadataRecordHeader {
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut next = |field| {
            let value = reader.unsigned_varint(field)?;
            i16::try_from(value).map_err(|_| DecodeError::new(field, Kind::InvalidVarint))
        };
        match next("frame_version")? {
            version if version as u32 == METADATA_FRAME_VERSION => {}
            version => return Err(DecodeError::new("frame_version", Kind::UnsupportedVersion(version))),
        }
        Ok(MetadataRecordHeader { record_type: next("record_type")?, version: next("record_version")? })
    }

    pub fn encode(&self, writer: &mut Writer) {
        writer.put_unsigned_varint(METADATA_FRAME_VERSION);
        writer.put_unsigned_varint(self.record_type as u32);
        writer.put_unsigned_varint(self.version as u32);
    }
}

/// The length of the frame that `received` begins with, its four bytes not counted, or none while they are not all there.
pub fn parse_length(received: &[u8], bytes_max: usize) -> Result<Option<usize>> {
    let Some(prefix) = received.first_chunk() else { return Ok(None) };
    let length = i32::from_be_bytes(*prefix);
    match usize::try_from(length) {
        Ok(length) if length <= bytes_max => Ok(Some(length)),
        _ => {
            Err(DecodeError::new("frame", Kind::FrameLength { length: i64::from(length), limit: bytes_max }))
        }
    }
}

/// A frame that is being written: give it back to [`finish_frame`].
#[derive(Debug)]
#[must_use]
pub struct OpenFrame {
    start: usize,
    splices: usize,
}

/// Begins a frame; what is written until [`finish_frame`] is its content.
pub fn begin_frame(writer: &mut Writer) -> OpenFrame {
    let splices = writer.splices.len();
    OpenFrame { start: writer.reserve_i32(), splices }
}

/// Begins a frame and writes the response header; the message of this version comes next.
pub fn begin_response(writer: &mut Writer, api_key: ApiKey, version: i16, correlation_id: i32) -> OpenFrame {
    let frame = begin_frame(writer);
    writer.put_i32(correlation_id);
    if api_key.response_header_version(version) >= 1 {
        writer.put_no_tags();
    }
    frame
}

/// Puts the length in, counting the records left out; answers the bytes the frame takes on the wire, all told.
pub fn finish_frame(writer: &mut Writer, frame: OpenFrame) -> usize {
    let spliced: usize = writer.splices[frame.splices..].iter().map(|splice| splice.len as usize).sum();
    let length = writer.len() - frame.start - LENGTH_BYTES + spliced;
    // Whoever answers keeps below 2 GB: the limits of a fetch are signed 32-bit numbers themselves.
    debug_assert!(i32::try_from(length).is_ok(), "a frame of {length} bytes");
    writer.patch_i32(frame.start, length as i32);
    LENGTH_BYTES + length
}

/// The same under the name that goes with [`begin_response`].
pub fn finish_response(writer: &mut Writer, frame: OpenFrame) -> usize {
    finish_frame(writer, frame)
}

/// A whole response frame.
pub fn write_response<'a, M: Message<'a>>(
    writer: &mut Writer,
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    message: &M,
) -> usize {
    let frame = begin_response(writer, api_key, version, correlation_id);
    message.write(writer, version);
    finish_frame(writer, frame)
}

/// A whole request frame, appended.
pub fn write_request<'a, R: Request<'a>>(
    writer: &mut Writer,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    message: &R,
) -> usize {
    let frame = begin_frame(writer);
    RequestHeader { api_key: R::API_KEY, version, correlation_id, client_id }.encode(writer);
    message.write(writer, version);
    finish_frame(writer, frame)
}

/// A whole request frame of its own.
pub fn encode_request<'a, R: Request<'a>>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    message: &R,
) -> Vec<u8> {
    let mut writer = Writer::with_capacity(256);
    write_request(&mut writer, version, correlation_id, client_id, message);
    writer.buf
}

/// Reads a response frame (without its length): the correlation id, and a reader at the message.
pub fn decode_response_header<'a>(
    frame: &'a [u8],
    api_key: ApiKey,
    version: i16,
) -> Result<(i32, Reader<'a>)> {
    let mut reader = Reader::new(frame);
    let correlation_id = reader.i32("correlation_id")?;
    if api_key.response_header_version(version) >= 1 {
        reader.skip_tags()?;
    }
    Ok((correlation_id, reader))
}

/// Reads a whole response frame (without its length): the correlation id and the message.
pub fn decode_response<'q, 'r, R: Request<'q>>(
    frame: &'r [u8],
    version: i16,
) -> Result<(i32, R::Response<'r>)> {
    let (correlation_id, reader) = decode_response_header(frame, R::API_KEY, version)?;
    Ok((correlation_id, R::Response::decode_exact(reader.rest(), version)?))
}

#[cfg(test)]
mod tests {
    use super::super::array::Array;
    use super::super::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
    use super::super::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
    use super::super::messages::metadata_response::MetadataResponse;
    use super::super::records::Records;
    use super::*;

    #[test]
    fn length_is_there_or_not_yet_or_wrong() {
        assert_eq!(parse_length(&[0, 0, 1], 100), Ok(None));
        assert_eq!(parse_length(&[0, 0, 0, 100, 9], 100), Ok(Some(100)));
        for wrong in [[0, 0, 0, 101], [0x80, 0, 0, 0], [0xff; 4], [0x7f, 0xff, 0xff, 0xff]] {
            let length = i64::from(i32::from_be_bytes(wrong));
            let error = DecodeError::new("frame", Kind::FrameLength { length, limit: 100 });
            assert_eq!(parse_length(&wrong, 100), Err(error));
        }
    }

    #[test]
    fn metadata_records_name_themselves() {
        let header = MetadataRecordHeader { record_type: 300, version: 2 };
        let mut writer = Writer::new();
        header.encode(&mut writer);
        assert_eq!(writer.buf, [1, 0xac, 2, 2]);
        assert_eq!(MetadataRecordHeader::decode(&mut Reader::new(&writer.buf)), Ok(header));
        for wrong in [&[0, 2, 0][..], &[1, 2], &[1, 0xff, 0xff, 7, 0]] {
            assert!(MetadataRecordHeader::decode(&mut Reader::new(wrong)).is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn a_request_goes_out_and_in() {
        let topic = MetadataRequestTopic { name: Some("t".into()), ..Default::default() };
        let request = MetadataRequest { topics: Some([topic].into()), ..Default::default() };
        for version in 0..=ApiKey::Metadata.versions().max {
            let frame = encode_request(version, 7, Some("me"), &request);
            assert_eq!(parse_length(&frame, 1000), Ok(Some(frame.len() - LENGTH_BYTES)));
            let mut reader = Reader::new(&frame[LENGTH_BYTES..]);
            let header = RequestHeader::decode(&mut reader).unwrap();
            let expected = (ApiKey::Metadata, version, 7, Some("me"));
            assert_eq!((header.api_key, header.version, header.correlation_id, header.client_id), expected);
            let received = MetadataRequest::decode_exact(reader.rest(), version).unwrap();
            assert_eq!(received.topics, request.topics);
        }
    }

    #[test]
    fn a_response_goes_out_and_in() {
        let response = MetadataResponse { controller_id: 3, ..Default::default() };
        for version in 1..=ApiKey::Metadata.versions().max {
            let mut writer = Writer::new();
            let length = write_response(&mut writer, ApiKey::Metadata, version, 9, &response);
            assert_eq!(length, writer.len());
            let frame = &writer.buf[LENGTH_BYTES..];
            assert_eq!(decode_response::<MetadataRequest>(frame, version), Ok((9, response.clone())));
        }
    }

    #[test]
    fn frames_follow_each_other_and_count_what_is_elsewhere() {
        let fetch = |slot, len| {
            let records = Some(Records::External { slot, len });
            let partitions = Array::from([PartitionData { records, ..Default::default() }]);
            let topic = FetchableTopicResponse { partitions, ..Default::default() };
            FetchResponse { responses: [topic].into(), ..Default::default() }
        };
        let mut writer = Writer::new();
        let first = write_response(&mut writer, ApiKey::Fetch, 12, 1, &fetch(0, 1000));
        let second_start = writer.len();
        assert_eq!(first, second_start + 1000);
        let second = write_response(&mut writer, ApiKey::Fetch, 12, 2, &fetch(1, 5));
        assert_eq!(second, writer.len() - second_start + 5);
        assert_eq!(parse_length(&writer.buf, 5000), Ok(Some(first - LENGTH_BYTES)));
        assert_eq!(parse_length(&writer.buf[second_start..], 5000), Ok(Some(second - LENGTH_BYTES)));
        // With its records put in, the answer is the same as one that has them inline.
        let at = writer.splices[1].position;
        writer.buf.splice(at..at, *b"12345");
        let frame = &writer.buf[second_start + LENGTH_BYTES..];
        let (_, response) =
            decode_response::<super::super::messages::fetch_request::FetchRequest>(frame, 12).unwrap();
        let partition = response.responses.first().and_then(|topic| topic.partitions.first()).unwrap();
        assert_eq!(partition.records, Some(Records::Bytes(b"12345")));
    }
}
