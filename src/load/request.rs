//! Produce requests, written by hand: the batches stay where they are and are sent by reference, and nothing is allocated a
//! request. A test holds every version against the generated encoding.

use crate::protocol::frame::{RequestHeader, begin_frame, finish_frame};
use crate::protocol::{ApiKey, Records, Uuid, Writer};

pub const CLIENT_ID: &str = "ringlog-load";

/// What all produce requests of a run share.
#[derive(Clone, Debug)]
pub struct ProduceShape {
    pub version: i16,
    pub topic: String,
    pub topic_id: Uuid,
    pub acks: i16,
    pub timeout_ms: i32,
}

impl ProduceShape {
    /// Appends a request of one topic; `batches` are partition, and where its batch is.
    pub fn write<'b>(
        &self,
        writer: &mut Writer,
        correlation_id: i32,
        batches: impl ExactSizeIterator<Item = (u32, Records<'b>)>,
    ) {
        let version = self.version;
        let flexible = ApiKey::Produce.is_flexible(version);
        let frame = begin_frame(writer);
        let header =
            RequestHeader { api_key: ApiKey::Produce, version, correlation_id, client_id: Some(CLIENT_ID) };
        header.encode(writer);
        writer.put_nullable_string(None, flexible);
        writer.put_i16(self.acks);
        writer.put_i32(self.timeout_ms);
        writer.put_array_len(1, flexible);
        if version >= 13 {
            writer.put_uuid(self.topic_id);
        } else {
            writer.put_string(&self.topic, flexible);
        }
        let end = |writer: &mut Writer| {
            if flexible {
                writer.put_no_tags();
            }
        };
        writer.put_array_len(batches.len(), flexible);
        for (partition, records) in batches {
            writer.put_i32(partition as i32);
            writer.put_nullable_records(Some(&records), flexible);
            end(writer);
        }
        end(writer); // of the topic
        end(writer); // of the request
        finish_frame(writer, frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::encode_request;
    use crate::protocol::messages::produce_request::{
        PartitionProduceData, ProduceRequest, TopicProduceData,
    };

    #[test]
    fn every_version_is_as_the_generated_one() {
        for version in 3..=ApiKey::Produce.versions().max {
            let shape = ProduceShape {
                version,
                topic: "a-topic".into(),
                topic_id: Uuid([7; 16]),
                acks: -1,
                timeout_ms: 12_345,
            };
            let batches = [(3, Records::Bytes(b"first")), (70_000, Records::Bytes(&[5; 300]))];
            let mut writer = Writer::new();
            shape.write(&mut writer, 99, batches.iter().copied());
            let partition = |&(index, records): &(u32, Records<'static>)| PartitionProduceData {
                index: index as i32,
                records: Some(records),
            };
            let topic = TopicProduceData {
                name: "a-topic".into(),
                topic_id: Uuid([7; 16]),
                partition_data: batches.iter().map(partition).collect(),
            };
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 12_345,
                topic_data: [topic].into(),
                ..ProduceRequest::default()
            };
            assert_eq!(
                writer.buf,
                encode_request(version, 99, Some(CLIENT_ID), &request),
                "version {version}"
            );
        }
    }
}
