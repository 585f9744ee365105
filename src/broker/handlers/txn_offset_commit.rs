//! TxnOffsetCommit, versions 0 to 5, up to the group coordinator: whether the transaction may have the offsets, or, from version 5 on,
//! the addition of the group's partition to it.

use std::sync::Arc;

use crate::broker::Broker;
use crate::broker::admissions::client_error;
use crate::broker::group::{OFFSETS_TOPIC, partition_for};
use crate::broker::request::Forwarded;
use crate::broker::transaction::Admission;
use crate::io::Io;
use crate::protocol::ErrorCode;
use crate::protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequest;

/// From this version on the partition is added by the broker: transaction version 2.
const ADDS_PARTITIONS: i16 = 5;
/// From this version on clients know that a transaction can be beyond repair.
const KNOWS_ABORTABLE: i16 = 4;

/// What is to be asked before the group coordinator sees the request.
enum Gate {
    Open,
    Ask(Admission),
    Refused(ErrorCode),
}

pub fn handle(broker: &mut Broker, io: &mut impl Io, request: Forwarded) {
    // What cannot be read the group coordinator refuses.
    let decoded = super::decode::<TxnOffsetCommitRequest>(&request.body, request.head.version);
    let gate = decoded.map_or(Gate::Open, |message| gate(broker, &message, request.head.version));
    match gate {
        Gate::Open => broker.group_request(io, request, Ok(())),
        Gate::Ask(admission) => broker.admit_offsets(io, admission, request),
        Gate::Refused(error) => broker.group_request(io, request, Err(error)),
    }
}

fn gate(broker: &mut Broker, message: &TxnOffsetCommitRequest<'_>, version: i16) -> Gate {
    let add = version >= ADDS_PARTITIONS;
    if message.group_id.is_empty() || !names_a_partition(broker, message) {
        return Gate::Open;
    }
    if !add && !broker.config.transactions.partition_verification {
        return Gate::Open;
    }
    let partition =
        partition_for(&message.group_id, crate::broker::offsets_partitions(&broker.image, &broker.config));
    let Some(topic) = broker.image.topic(OFFSETS_TOPIC) else { return Gate::Open };
    let (name, topic_id) = (topic.name.clone(), topic.id);
    let Some(log) = broker.partitions.find(topic_id, partition).map(|partition| partition.log) else {
        return Gate::Open;
    };
    let (producer_id, producer_epoch) = (message.producer_id, message.producer_epoch);
    let entry = broker.storage.producers(log).and_then(|producers| producers.entry(producer_id));
    match entry {
        Some(entry) if producer_epoch < entry.producer_epoch => {
            Gate::Refused(ErrorCode::InvalidProducerEpoch)
        }
        Some(entry) if entry.current_txn_first_offset.is_some() && entry.producer_epoch == producer_epoch => {
            Gate::Open
        }
        _ => Gate::Ask(Admission {
            transactional_id: Arc::from(&*message.transactional_id),
            producer_id,
            producer_epoch,
            partition: (name, partition),
            add,
        }),
    }
}

/// Whether there is anything to commit.
fn names_a_partition(broker: &Broker, message: &TxnOffsetCommitRequest<'_>) -> bool {
    message.topics.iter().any(|topic| {
        let known = broker.image.topic(&topic.name);
        let mut partitions = topic.partitions.iter();
        partitions
            .any(|partition| known.is_some_and(|known| known.partition(partition.partition_index).is_some()))
    })
}

/// The transaction coordinator has spoken.
pub fn admitted(broker: &mut Broker, io: &mut impl Io, request: Forwarded, result: Result<(), ErrorCode>) {
    let old = request.head.version < KNOWS_ABORTABLE;
    let result = result.map_err(|error| match client_error(error, old) {
        ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
        error => error,
    });
    broker.group_request(io, request, result);
}
