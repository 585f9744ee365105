//! The tables: API versions against what Kafka 4.3.1 itself reports, headers and error codes against the oracle.

use kafka_protocol::ResponseError;
use kafka_protocol::messages as oracle;
use kafka_protocol::protocol::{Decodable, Encodable};
use ringlog::protocol::{ApiKey, ErrorCode, Reader, RequestHeader, Writer};

/// Key, first and last version as a Kafka 4.3.1 broker serves them with its default settings.
const KAFKA: &[(ApiKey, i16, i16, i16)] = &[
    (ApiKey::Produce, 0, 3, 13),
    (ApiKey::Fetch, 1, 4, 18),
    (ApiKey::ListOffsets, 2, 1, 11),
    (ApiKey::Metadata, 3, 0, 13),
    (ApiKey::OffsetCommit, 8, 2, 10),
    (ApiKey::OffsetFetch, 9, 1, 10),
    (ApiKey::FindCoordinator, 10, 0, 6),
    (ApiKey::JoinGroup, 11, 0, 9),
    (ApiKey::Heartbeat, 12, 0, 4),
    (ApiKey::LeaveGroup, 13, 0, 5),
    (ApiKey::SyncGroup, 14, 0, 5),
    (ApiKey::DescribeGroups, 15, 0, 6),
    (ApiKey::ListGroups, 16, 0, 5),
    (ApiKey::SaslHandshake, 17, 0, 1),
    (ApiKey::ApiVersions, 18, 0, 4),
    (ApiKey::CreateTopics, 19, 2, 7),
    (ApiKey::DeleteTopics, 20, 1, 6),
    (ApiKey::DeleteRecords, 21, 0, 2),
    (ApiKey::InitProducerId, 22, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 23, 2, 4),
    (ApiKey::AddPartitionsToTxn, 24, 0, 5),
    (ApiKey::AddOffsetsToTxn, 25, 0, 4),
    (ApiKey::EndTxn, 26, 0, 5),
    (ApiKey::WriteTxnMarkers, 27, 1, 2),
    (ApiKey::TxnOffsetCommit, 28, 0, 5),
    (ApiKey::DescribeAcls, 29, 1, 3),
    (ApiKey::CreateAcls, 30, 1, 3),
    (ApiKey::DeleteAcls, 31, 1, 3),
    (ApiKey::DescribeConfigs, 32, 1, 4),
    (ApiKey::AlterConfigs, 33, 0, 2),
    (ApiKey::AlterReplicaLogDirs, 34, 1, 2),
    (ApiKey::DescribeLogDirs, 35, 1, 5),
    (ApiKey::CreatePartitions, 37, 0, 3),
    (ApiKey::CreateDelegationToken, 38, 1, 3),
    (ApiKey::RenewDelegationToken, 39, 1, 2),
    (ApiKey::ExpireDelegationToken, 40, 1, 2),
    (ApiKey::DescribeDelegationToken, 41, 1, 3),
    (ApiKey::DeleteGroups, 42, 0, 2),
    (ApiKey::ElectLeaders, 43, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 44, 0, 1),
    (ApiKey::AlterPartitionReassignments, 45, 0, 1),
    (ApiKey::ListPartitionReassignments, 46, 0, 0),
    (ApiKey::OffsetDelete, 47, 0, 0),
    (ApiKey::DescribeClientQuotas, 48, 0, 1),
    (ApiKey::AlterClientQuotas, 49, 0, 1),
    (ApiKey::DescribeUserScramCredentials, 50, 0, 0),
    (ApiKey::DescribeQuorum, 55, 0, 2),
    (ApiKey::UpdateFeatures, 57, 0, 2),
    (ApiKey::DescribeCluster, 60, 0, 2),
    (ApiKey::DescribeProducers, 61, 0, 0),
    (ApiKey::UnregisterBroker, 64, 0, 0),
    (ApiKey::DescribeTransactions, 65, 0, 0),
    (ApiKey::ListTransactions, 66, 0, 2),
    (ApiKey::ConsumerGroupHeartbeat, 68, 0, 1),
    (ApiKey::ConsumerGroupDescribe, 69, 0, 1),
    (ApiKey::GetTelemetrySubscriptions, 71, 0, 0),
    (ApiKey::PushTelemetry, 72, 0, 0),
    (ApiKey::ListConfigResources, 74, 0, 1),
    (ApiKey::DescribeTopicPartitions, 75, 0, 0),
];

/// Served from 0 for clients that still send it, though Kafka 4 starts later.
const OLDER: &[ApiKey] = &[
    ApiKey::ListOffsets,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeConfigs,
    ApiKey::DescribeLogDirs,
];

#[test]
fn versions_are_kafkas() {
    for &(api, key, min, max) in KAFKA {
        let versions = api.versions();
        assert_eq!(ApiKey::try_from(key), Ok(api));
        assert_eq!(versions.advertised_max, max, "{api}");
        assert_eq!(versions.min, if OLDER.contains(&api) { 0 } else { min }, "{api}");
        assert_eq!(versions.advertised_min, if api == ApiKey::Produce { 0 } else { versions.min }, "{api}");
        // Kafka calls the newest of this one unstable and tells nobody; asked in it, we answer.
        assert_eq!(versions.max, if api == ApiKey::InitProducerId { max + 1 } else { max }, "{api}");
        assert!(api.is_served(max) && !api.is_served(versions.max + 1) && !api.is_served(versions.min - 1));
    }
    assert!(ApiKey::ALL.is_sorted());
    let listed = |api: &&ApiKey| KAFKA.iter().any(|(listed, ..)| listed == *api);
    assert_eq!(ApiKey::ALL.iter().filter(listed).count(), KAFKA.len());
    assert!(ApiKey::try_from(-1).is_err() && ApiKey::try_from(4).is_err());
}

#[test]
fn header_versions_are_the_oracles() {
    for &api in ApiKey::ALL {
        let oracle = oracle::ApiKey::try_from(api.code()).expect("the oracle knows it");
        let known = oracle.valid_versions();
        for version in known.min.max(api.versions().min)..=known.max.min(api.versions().max) {
            assert_eq!(api.request_header_version(version), oracle.request_header_version(version), "{api}");
            assert_eq!(
                api.response_header_version(version),
                oracle.response_header_version(version),
                "{api}"
            );
        }
    }
    // A client newer than we are is answered, too.
    assert_eq!(ApiKey::ApiVersions.request_header_version(99), 2);
    assert_eq!(ApiKey::ApiVersions.response_header_version(99), 0);
}

#[test]
fn request_headers_are_the_oracles() {
    for &api_key in ApiKey::ALL {
        for version in api_key.versions().min..=api_key.versions().max {
            for client_id in [None, Some(""), Some("consumer-1")] {
                let header = RequestHeader { api_key, version, correlation_id: 0x0102_0304, client_id };
                let mut writer = Writer::new();
                header.encode(&mut writer);
                let mut expected = Vec::new();
                oracle::RequestHeader::default()
                    .with_request_api_key(api_key.code())
                    .with_request_api_version(version)
                    .with_correlation_id(0x0102_0304)
                    .with_client_id(client_id.map(|id| id.to_string().into()))
                    .encode(&mut expected, api_key.request_header_version(version))
                    .expect("the oracle encodes");
                assert_eq!(writer.buf, expected);
                let mut reader = Reader::new(&expected);
                assert_eq!(RequestHeader::decode(&mut reader), Ok(header));
                assert_eq!(reader.left(), 0);
                for end in 0..expected.len() {
                    assert!(RequestHeader::decode(&mut Reader::new(&expected[..end])).is_err());
                }
            }
        }
    }
}

#[test]
fn response_headers_are_the_oracles() {
    for &api_key in ApiKey::ALL {
        for version in api_key.versions().min..=api_key.versions().max {
            let mut writer = Writer::new();
            let frame = ringlog::protocol::frame::begin_response(&mut writer, api_key, version, -7);
            let length = ringlog::protocol::frame::finish_response(&mut writer, frame);
            assert_eq!(writer.buf.len(), length);
            let mut bytes = &writer.buf[4..];
            let header = oracle::ResponseHeader::decode(&mut bytes, api_key.response_header_version(version));
            assert_eq!(header.map(|header| header.correlation_id).ok(), Some(-7));
            assert!(bytes.is_empty());
        }
    }
}

const RETRIABLE_SINCE_4_1: &[ErrorCode] = &[ErrorCode::ConcurrentTransactions];

#[test]
fn error_codes_are_the_oracles() {
    for error in ErrorCode::ALL {
        // The oracle knows the codes of 4.1.
        match ResponseError::try_from_code(error.code()) {
            Some(ResponseError::Unknown(_)) | None => assert!(matches!(error.code(), 0 | 130..), "{error}"),
            Some(oracle) if RETRIABLE_SINCE_4_1.contains(error) => {
                assert!(error.is_retriable() && !oracle.is_retriable(), "{error}");
            }
            Some(oracle) => assert_eq!(error.is_retriable(), oracle.is_retriable(), "{error}"),
        }
    }
}
