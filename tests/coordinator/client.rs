//! Requests and answers over a blocking socket, and what has to be asked beside transactions themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringlog::protocol::frame::{decode_response, encode_request};
use ringlog::protocol::messages::describe_producers_request::{DescribeProducersRequest, TopicRequest};
use ringlog::protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ringlog::protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ringlog::protocol::messages::list_transactions_request::ListTransactionsRequest;
use ringlog::protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ringlog::protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use ringlog::protocol::{ErrorCode, Request, Uuid};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Client {
    stream: TcpStream,
    next_id: i32,
}

/// Asks again and again until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Client {
    pub fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, next_id: 1 }
    }

    /// A request whose answer nobody may live to see.
    pub fn send<'q, R: Request<'q>>(&mut self, version: i16, request: &R) {
        self.next_id += 1;
        let frame = encode_request(version, self.next_id, Some("coordinator-test"), request);
        self.stream.write_all(&frame).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        frame
    }

    /// One request, and what `read` makes of its answer.
    pub fn ask<'q, R: Request<'q>, T>(
        &mut self,
        version: i16,
        request: &R,
        read: impl FnOnce(R::Response<'_>) -> T,
    ) -> T {
        self.send(version, request);
        let frame = self.receive();
        let (id, response) = decode_response::<R>(&frame, version).unwrap();
        assert_eq!(id, self.next_id);
        read(response)
    }

    /// Waits until the coordinator of an id (1) or a group (0) is there.
    pub fn find_coordinator(&mut self, key_type: i8, key: &str) {
        let request = FindCoordinatorRequest { key: key.into(), key_type, ..Default::default() };
        until("a coordinator", || {
            let code = self.ask(2, &request, |response| response.error_code);
            (code == 0).then_some(())
        });
    }

    pub fn topic_id(&mut self, topic: &str) -> Uuid {
        let topic = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
        let request = MetadataRequest { topics: Some([topic].into()), ..Default::default() };
        self.ask(12, &request, |response| response.topics.first().unwrap().topic_id)
    }

    /// The end of each partition for readers of all data or of committed data.
    pub fn ends(&mut self, topic: &str, partitions: i32, committed: bool) -> Vec<i64> {
        let at = |partition_index| ListOffsetsPartition {
            partition_index,
            timestamp: -1,
            ..ListOffsetsPartition::default()
        };
        let topic = ListOffsetsTopic { name: topic.into(), partitions: (0..partitions).map(at).collect() };
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level: i8::from(committed),
            topics: [topic].into(),
            ..Default::default()
        };
        self.ask(7, &request, |response| {
            let topic = response.topics.first().unwrap();
            let mut found = vec![-1; partitions as usize];
            for one in &topic.partitions {
                assert_eq!(one.error_code, ErrorCode::None.code());
                found[one.partition_index as usize] = one.offset;
            }
            found
        })
    }

    /// Producers with a transaction open on a partition, of all partitions.
    pub fn open_producers(&mut self, topic: &str, partitions: i32) -> Vec<(i32, i64)> {
        let topic = TopicRequest { name: topic.into(), partition_indexes: (0..partitions).collect() };
        let request = DescribeProducersRequest { topics: [topic].into() };
        self.ask(0, &request, |response| {
            let mut open = Vec::new();
            for found in &response.topics.first().unwrap().partitions {
                assert_eq!(found.error_code, 0);
                let producers = found.active_producers.iter().filter(|one| one.current_txn_start_offset >= 0);
                open.extend(producers.map(|one| (found.partition_index, one.producer_id)));
            }
            open
        })
    }

    /// Ids in one of these states; `None` while they are being loaded.
    pub fn transactions(&mut self, states: &[&str]) -> Option<Vec<String>> {
        let request = ListTransactionsRequest {
            state_filters: states.iter().map(|state| (*state).into()).collect(),
            duration_filter: -1,
            ..Default::default()
        };
        self.ask(1, &request, |response| {
            match ErrorCode::from_code(response.error_code).unwrap() {
                ErrorCode::None => {}
                ErrorCode::CoordinatorLoadInProgress => return None,
                other => panic!("ListTransactions: {other:?}"),
            }
            Some(response.transaction_states.iter().map(|one| one.transactional_id.to_string()).collect())
        })
    }

    /// What the group has committed; `None` while that is in a transaction still open.
    pub fn committed(&mut self, group: &str, topic: &str) -> Option<i64> {
        let topic = OffsetFetchRequestTopic { name: topic.into(), partition_indexes: [0].into() };
        let request = OffsetFetchRequest {
            group_id: group.into(),
            topics: Some([topic].into()),
            require_stable: true,
            ..Default::default()
        };
        self.ask(7, &request, |response| {
            let of_all = ErrorCode::from_code(response.error_code).unwrap();
            let topic = response.topics.first();
            let found = topic.and_then(|topic| topic.partitions.first());
            let code = found.as_ref().map_or(of_all, |found| ErrorCode::from_code(found.error_code).unwrap());
            match (code, found) {
                (ErrorCode::None, Some(found)) => Some(found.committed_offset),
                (ErrorCode::UnstableOffsetCommit | ErrorCode::CoordinatorLoadInProgress, _) => None,
                other => panic!("OffsetFetch: {other:?}"),
            }
        })
    }
}
