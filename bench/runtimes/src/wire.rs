//! As much of Kafka's protocol as the client needs, for both ends: Produce 7, Fetch 4, CreateTopics 2, DeleteTopics 1 and
//! ApiVersions 0, with one topic a request and one partition a produce request. Nothing here trusts a count or a length.

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const API_VERSIONS: i16 = 18;
pub const CREATE_TOPICS: i16 = 19;
pub const DELETE_TOPICS: i16 = 20;

/// Partitions a fetch may name.
const FETCH_PARTITIONS_MAX: usize = 100_000;

/// What ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends numbers as they go over the wire.
pub trait Put {
    fn i8(&mut self, value: i8);
    fn i16(&mut self, value: i16);
    fn i32(&mut self, value: i32);
    fn i64(&mut self, value: i64);
    fn text(&mut self, value: &[u8]);

    fn i16s<const N: usize>(&mut self, values: [i16; N]) {
        values.into_iter().for_each(|value| self.i16(value));
    }

    fn i32s<const N: usize>(&mut self, values: [i32; N]) {
        values.into_iter().for_each(|value| self.i32(value));
    }

    fn i64s<const N: usize>(&mut self, values: [i64; N]) {
        values.into_iter().for_each(|value| self.i64(value));
    }
}

impl Put for Vec<u8> {
    fn i8(&mut self, value: i8) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn i16(&mut self, value: i16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn text(&mut self, value: &[u8]) {
        self.i16(i16::try_from(value.len()).expect("names are short"));
        self.extend_from_slice(value);
    }
}

/// Takes fields off the front of a message.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn i8(&mut self) -> Result<i8, Malformed> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length or count of four bytes.
    pub fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.i32()?).map_err(|_| Malformed)
    }

    /// A string; a null one is empty.
    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        match self.i16()? {
            -1 => Ok(&[]),
            len => self.bytes(usize::try_from(len).map_err(|_| Malformed)?),
        }
    }
}

/// A request behind its length.
pub struct Request<'a> {
    pub key: i16,
    pub correlation: i32,
    pub body: Fields<'a>,
}

impl<'a> Request<'a> {
    pub fn parse(frame: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut fields = Fields(frame);
        let (key, version, correlation) = (fields.i16()?, fields.i16()?, fields.i32()?);
        fields.text()?;
        match (key, version) {
            (PRODUCE, 7) | (FETCH, 4) | (API_VERSIONS, 0) | (CREATE_TOPICS, 2) | (DELETE_TOPICS, 1) => {
                Ok(Request { key, correlation, body: fields })
            }
            _ => Err(Malformed),
        }
    }
}

/// A produce request of one partition.
pub struct Produce<'a> {
    pub topic: &'a [u8],
    pub partition: i32,
    pub acks: i16,
    pub batch: &'a [u8],
}

impl<'a> Produce<'a> {
    pub fn parse(mut body: Fields<'a>) -> Result<Produce<'a>, Malformed> {
        body.text()?;
        let acks = body.i16()?;
        body.i32()?;
        if body.i32()? != 1 {
            return Err(Malformed);
        }
        let topic = body.text()?;
        if body.i32()? != 1 {
            return Err(Malformed);
        }
        let partition = body.i32()?;
        let len = body.size()?;
        Ok(Produce { topic, partition, acks, batch: body.bytes(len)? })
    }
}

/// A partition of a fetch request.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub partition: i32,
    pub offset: i64,
    pub bytes_max: usize,
}

/// The topic and the partitions that a fetch names.
pub fn parse_fetch<'a>(mut body: Fields<'a>) -> Result<(&'a [u8], Vec<Wanted>), Malformed> {
    body.bytes(16)?;
    body.i8()?;
    if body.i32()? != 1 {
        return Err(Malformed);
    }
    let topic = body.text()?;
    let count = body.size()?;
    // Sixteen bytes each: the count is bounded by what has come.
    if count > FETCH_PARTITIONS_MAX || count > body.0.len() / 16 {
        return Err(Malformed);
    }
    let wanted = (0..count).map(|_| {
        let (partition, offset) = (body.i32()?, body.i64()?);
        Ok(Wanted { partition, offset, bytes_max: body.size()? })
    });
    Ok((topic, wanted.collect::<Result<_, _>>()?))
}

/// Writes the answer to a request, framed, behind what `out` holds; a produce with acks=0 has none. A fetch is told of empty partitions.
pub fn answer(frame: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let request = Request::parse(frame)?;
    let start = begin(out, request.correlation);
    let mut body = request.body;
    match request.key {
        PRODUCE => {
            let produce = Produce::parse(body)?;
            if produce.acks == 0 {
                out.truncate(start);
                return Ok(());
            }
            out.i32(1);
            out.text(produce.topic);
            out.i32(1);
            out.i32(produce.partition);
            out.i16(0);
            out.i64s([0, -1, 0]);
            out.i32(0);
        }
        FETCH => {
            let (topic, wanted) = parse_fetch(body)?;
            begin_fetched(out, topic, wanted.len());
            for partition in wanted {
                fetched(out, partition.partition, 0, 0);
            }
        }
        API_VERSIONS => {
            out.i16(0);
            out.i32(5);
            for (key, version) in
                [(PRODUCE, 7), (FETCH, 4), (API_VERSIONS, 0), (CREATE_TOPICS, 2), (DELETE_TOPICS, 1)]
            {
                out.i16s([key, version, version]);
            }
        }
        _ => {
            if body.i32()? != 1 {
                return Err(Malformed);
            }
            out.i32(0);
            out.i32(1);
            out.text(body.text()?);
            out.i16(0);
            if request.key == CREATE_TOPICS {
                out.i16(-1);
            }
        }
    }
    seal(out, start);
    Ok(())
}

/// Begins an answer; `seal` ends it.
pub fn begin(out: &mut Vec<u8>, correlation: i32) -> usize {
    let start = out.len();
    out.i32(0);
    out.i32(correlation);
    start
}

/// Begins a request; `seal` ends it.
pub fn begin_request(out: &mut Vec<u8>, key: i16, version: i16, correlation: i32) -> usize {
    let start = out.len();
    out.i32(0);
    out.i16(key);
    out.i16(version);
    out.i32(correlation);
    out.text(b"raw");
    start
}

/// Writes the length of the message that began at `start`.
pub fn seal(out: &mut [u8], start: usize) {
    let len = i32::try_from(out.len() - start - 4).expect("messages are far below 2 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// The head of a fetch answer with one topic.
pub fn begin_fetched(out: &mut Vec<u8>, topic: &[u8], partitions: usize) {
    out.i32(0);
    out.i32(1);
    out.text(topic);
    out.i32(partitions as i32);
}

/// The head of a partition's part of a fetch answer; `len` bytes of batches follow.
pub fn fetched(out: &mut Vec<u8>, partition: i32, high_watermark: i64, len: usize) {
    out.i32(partition);
    out.i16(0);
    out.i64(high_watermark);
    out.i64(high_watermark);
    out.i32(-1);
    out.i32(len as i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn produce(acks: i16) -> Vec<u8> {
        let mut out = Vec::new();
        let start = begin_request(&mut out, PRODUCE, 7, 9);
        out.i16(-1);
        out.i16(acks);
        out.i32s([30_000, 1]);
        out.text(b"t");
        out.i32s([1, 3, 2]);
        out.extend_from_slice(b"ab");
        seal(&mut out, start);
        out
    }

    #[test]
    fn a_produce_is_answered_with_its_topic_and_partition() {
        let mut out = Vec::new();
        answer(&produce(1)[4..], &mut out).expect("well formed");
        let mut fields = Fields(&out);
        assert_eq!(fields.size(), Ok(out.len() - 4));
        assert_eq!((fields.i32(), fields.i32()), (Ok(9), Ok(1)));
        assert_eq!(
            (fields.text(), fields.i32(), fields.i32(), fields.i16()),
            (Ok(&b"t"[..]), Ok(1), Ok(3), Ok(0))
        );
    }

    #[test]
    fn without_acks_there_is_no_answer() {
        let mut out = vec![7];
        answer(&produce(0)[4..], &mut out).expect("well formed");
        assert_eq!(out, [7]);
    }

    #[test]
    fn a_request_cut_anywhere_is_malformed() {
        let whole = produce(1);
        for end in 4..whole.len() {
            assert_eq!(answer(&whole[4..end], &mut Vec::new()), Err(Malformed), "cut at {end}");
        }
    }

    #[test]
    fn a_fetch_names_no_more_partitions_than_it_holds() {
        let mut out = Vec::new();
        begin_request(&mut out, FETCH, 4, 1);
        out.extend_from_slice(&[0; 17]);
        out.i32(1);
        out.text(b"t");
        out.i32(i32::MAX);
        assert_eq!(answer(&out[4..], &mut Vec::new()), Err(Malformed));
    }
}
