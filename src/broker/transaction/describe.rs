//! DescribeTransactions, version 0, and ListTransactions, versions 0 to 2: with a filter for how long a transaction has been running from
//! version 1 on (KIP-994), for ids from version 2 on (KIP-1152).
//!
//! Ids are listed in order. A pattern is a regular expression of the `regex` crate, which has no look-around and no back
//! references; one that needs them is INVALID_REGULAR_EXPRESSION.

use std::borrow::Cow;

use super::coordinator::{Transaction, TransactionCoordinator, reply};
use super::metadata::{Metadata, State};
use super::records::by_topic;
use super::*;
use crate::protocol::messages::describe_transactions_request::DescribeTransactionsRequest;
use crate::protocol::messages::describe_transactions_response::{
    DescribeTransactionsResponse, TopicData, TransactionState,
};
use crate::protocol::messages::list_transactions_request::ListTransactionsRequest;
use crate::protocol::messages::list_transactions_response::{
    ListTransactionsResponse, TransactionState as ListedTransaction,
};
use crate::protocol::{DecodeError, ErrorCode, Message, Reader};

/// A state that Kafka has and that nothing is ever listed in.
const EPOCH_FENCE: &str = "PrepareEpochFence";
/// What a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl TransactionCoordinator {
    pub(super) fn describe_transactions(
        &mut self,
        request: &TransactionRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let message =
            DescribeTransactionsRequest::decode_prefix(&mut Reader::new(request.body), request.version)?;
        let states = message.transactional_ids.iter().map(|id| match self.described(&id) {
            Ok(transaction) => described(&id, transaction),
            Err(error) => TransactionState {
                error_code: error.code(),
                transactional_id: Cow::Owned(id.to_string()),
                ..TransactionState::default()
            },
        });
        let response =
            DescribeTransactionsResponse { transaction_states: states.collect(), ..Default::default() };
        reply(out, request.waiting(), &response);
        Ok(())
    }

    fn described(&self, id: &str) -> Result<&Transaction, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let (_, partition) = self.active(id)?;
        partition.transactions.get(id).ok_or(ErrorCode::TransactionalIdNotFound)
    }

    pub(super) fn list_transactions(
        &mut self,
        now: Now,
        request: &TransactionRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), DecodeError> {
        let message =
            ListTransactionsRequest::decode_prefix(&mut Reader::new(request.body), request.version)?;
        let response = self.listed(now, &message).unwrap_or_else(|error| ListTransactionsResponse {
            error_code: error.code(),
            ..ListTransactionsResponse::default()
        });
        reply(out, request.waiting(), &response);
        Ok(())
    }

    fn listed(
        &self,
        now: Now,
        message: &ListTransactionsRequest<'_>,
    ) -> Result<ListTransactionsResponse<'static>, ErrorCode> {
        if self.partitions.values().any(|partition| partition.loading) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let filter = Filter::new(message, now)?;
        let unknown =
            message.state_filters.iter().filter(|name| state_of(name).is_none() && **name != *EPOCH_FENCE);
        let unknown_state_filters = unknown.map(|name| Cow::Owned(name.to_string())).collect();
        let mut listed: Vec<_> = self.iter().filter(|(_, id, metadata)| filter.takes(id, metadata)).collect();
        listed.sort_unstable_by_key(|(_, id, _)| *id);
        let states = listed.into_iter().map(|(_, id, metadata)| ListedTransaction {
            transactional_id: Cow::Owned(id.to_string()),
            producer_id: metadata.producer_id,
            transaction_state: Cow::Borrowed(metadata.state.name()),
        });
        Ok(ListTransactionsResponse {
            unknown_state_filters,
            transaction_states: states.collect(),
            ..ListTransactionsResponse::default()
        })
    }
}

fn described(id: &str, transaction: &Transaction) -> TransactionState<'static> {
    let metadata = &transaction.metadata;
    // While it ends: those that have not heard of it.
    let partitions = if metadata.state.is_prepared() { &transaction.unmarked } else { &metadata.partitions };
    let topics = by_topic(partitions).into_iter().map(|(topic, partitions)| TopicData {
        topic: Cow::Owned(topic.to_string()),
        partitions: partitions.into(),
    });
    TransactionState {
        error_code: 0,
        transactional_id: Cow::Owned(id.to_string()),
        transaction_state: Cow::Borrowed(metadata.state.name()),
        transaction_timeout_ms: metadata.timeout_ms,
        transaction_start_time_ms: metadata.start_timestamp_ms,
        producer_id: metadata.producer_id,
        producer_epoch: metadata.producer_epoch,
        topics: topics.collect(),
    }
}

/// The pattern for a whole id.
fn whole_match(pattern: &str) -> Result<regex::Regex, ErrorCode> {
    let build = |pattern: &str| {
        let mut builder = regex::RegexBuilder::new(pattern);
        builder.size_limit(PATTERN_BYTES_MAX).build().map_err(|_| ErrorCode::InvalidRegularExpression)
    };
    // By itself first: what closes a group it has not opened must not pass.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

fn state_of(name: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| state.name() == name)
}

/// What a client asks for.
struct Filter {
    states: Option<Vec<State>>,
    producer_ids: Vec<i64>,
    /// Begun before this.
    before_ms: Option<i64>,
    pattern: Option<regex::Regex>,
}

impl Filter {
    fn new(message: &ListTransactionsRequest<'_>, now: Now) -> Result<Filter, ErrorCode> {
        let states = message.state_filters.iter().filter_map(|name| state_of(&name)).collect();
        let pattern = message.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty());
        let duration_ms = message.duration_filter;
        Ok(Filter {
            states: (!message.state_filters.is_empty()).then_some(states),
            producer_ids: message.producer_id_filters.to_vec(),
            before_ms: (duration_ms >= 0).then(|| now.wall_ms.saturating_sub(duration_ms)),
            pattern: pattern.map(whole_match).transpose()?,
        })
    }

    fn takes(&self, id: &str, metadata: &Metadata) -> bool {
        (self.producer_ids.is_empty() || self.producer_ids.contains(&metadata.producer_id))
            && self.states.as_ref().is_none_or(|states| states.contains(&metadata.state))
            && self.before_ms.is_none_or(|before_ms| metadata.start_timestamp_ms < before_ms)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    }
}
