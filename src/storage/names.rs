//! The names of files and directories in a log directory, and which topic names are legal.
//!
//! A partition's directory is `topic-partition`; its files are the 20-digit base offset and a suffix, and a second suffix while
//! one is being cleaned, swapped in or deleted. Called by recovery, segments, topic creation and deletion.

use std::fmt;

pub const LOG_SUFFIX: &str = ".log";
pub const OFFSET_INDEX_SUFFIX: &str = ".index";
pub const TIME_INDEX_SUFFIX: &str = ".timeindex";
pub const TRANSACTION_INDEX_SUFFIX: &str = ".txnindex";
pub const PRODUCER_SNAPSHOT_SUFFIX: &str = ".snapshot";

/// The longest topic name: with partition and a suffix it still makes a directory name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
const DIRECTORY_NAME_BYTES_MAX: usize = 255;

/// What a file of a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    Log,
    OffsetIndex,
    TimeIndex,
    TransactionIndex,
    ProducerSnapshot,
}

impl FileKind {
    pub const ALL: [FileKind; 5] = [
        FileKind::Log,
        FileKind::OffsetIndex,
        FileKind::TimeIndex,
        FileKind::TransactionIndex,
        FileKind::ProducerSnapshot,
    ];

    pub fn suffix(self) -> &'static str {
        match self {
            FileKind::Log => LOG_SUFFIX,
            FileKind::OffsetIndex => OFFSET_INDEX_SUFFIX,
            FileKind::TimeIndex => TIME_INDEX_SUFFIX,
            FileKind::TransactionIndex => TRANSACTION_INDEX_SUFFIX,
            FileKind::ProducerSnapshot => PRODUCER_SNAPSHOT_SUFFIX,
        }
    }
}

/// What is being done with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileState {
    #[default]
    Live,
    /// Being written by compaction: worthless after a crash.
    Cleaned,
    /// Complete, about to replace the segments it was made from: swapped in after a crash.
    Swap,
    /// To be removed.
    Deleted,
}

impl FileState {
    pub const ALL: [FileState; 4] =
        [FileState::Live, FileState::Cleaned, FileState::Swap, FileState::Deleted];

    pub fn suffix(self) -> &'static str {
        match self {
            FileState::Live => "",
            FileState::Cleaned => ".cleaned",
            FileState::Swap => ".swap",
            FileState::Deleted => ".deleted",
        }
    }
}

/// The name of a file of a partition. Shown, it is the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    pub base_offset: i64,
    pub kind: FileKind,
    pub state: FileState,
}

impl FileName {
    pub fn new(base_offset: i64, kind: FileKind) -> FileName {
        FileName { base_offset, kind, state: FileState::Live }
    }

    #[must_use]
    pub fn with_state(self, state: FileState) -> FileName {
        FileName { state, ..self }
    }

    /// `None` for any other file.
    pub fn parse(name: &str) -> Option<FileName> {
        let at = name.find('.')?;
        let (digits, suffix) = name.split_at(at);
        if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let kind = FileKind::ALL.into_iter().find(|kind| suffix.starts_with(kind.suffix()))?;
        let state =
            FileState::ALL.into_iter().find(|state| state.suffix() == &suffix[kind.suffix().len()..])?;
        Some(FileName { base_offset: digits.parse().ok()?, kind, state })
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}{}{}", self.base_offset, self.kind.suffix(), self.state.suffix())
    }
}

/// What a directory of a log directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectoryState {
    Live,
    /// To be removed; the topic's name may be cut.
    Delete,
    /// A copy being moved here from another log directory.
    Future,
    /// Not in the metadata.
    Stray,
}

impl DirectoryState {
    fn suffix(self) -> &'static str {
        match self {
            DirectoryState::Live => "",
            DirectoryState::Delete => "-delete",
            DirectoryState::Future => "-future",
            DirectoryState::Stray => "-stray",
        }
    }
}

/// A partition's directory, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryName<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub state: DirectoryState,
}

/// The name of a partition's directory.
pub fn directory_name(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// The name a directory gets when it is to be removed, or is found to be a stray. `unique` tells apart the generations of a
/// topic: 32 hexadecimal digits in Kafka. A long topic name is cut.
pub fn suffixed_directory_name(topic: &str, partition: i32, unique: u128, state: DirectoryState) -> String {
    let suffix = format!("-{partition}.{unique:032x}{}", state.suffix());
    let length = topic.len().min(DIRECTORY_NAME_BYTES_MAX - suffix.len());
    format!("{}{suffix}", topic.get(..length).unwrap_or_default())
}

/// Parses the name of a partition's directory; `None` for anything else that lies in a log directory.
pub fn parse_directory_name(name: &str) -> Option<DirectoryName<'_>> {
    let suffixed = [DirectoryState::Delete, DirectoryState::Future, DirectoryState::Stray]
        .into_iter()
        .find(|state| name.ends_with(state.suffix()));
    let (name, state) = match suffixed {
        // Without the dot it is a topic that merely ends so, and then no number follows the dash.
        Some(state) => (&name[..name.rfind('.')?], state),
        None => (name, DirectoryState::Live),
    };
    let (topic, partition) = name.rsplit_once('-')?;
    if partition.is_empty() || !partition.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    check_topic_name(topic).ok()?;
    Some(DirectoryName { topic, partition: partition.parse().ok()?, state })
}

/// Why a topic name is refused, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    #[error("the empty string is not allowed")]
    Empty,
    #[error("'.' is not allowed")]
    Dot,
    #[error("'..' is not allowed")]
    DotDot,
    #[error("the length of it is longer than the max allowed length 249")]
    TooLong,
    #[error("it contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")]
    Character,
}

/// Checks a topic name.
pub fn check_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err(InvalidTopicName::Empty),
        "." => Err(InvalidTopicName::Dot),
        ".." => Err(InvalidTopicName::DotDot),
        _ if name.len() > TOPIC_NAME_BYTES_MAX => Err(InvalidTopicName::TooLong),
        _ if !name.bytes().all(legal) => Err(InvalidTopicName::Character),
        _ => Ok(()),
    }
}

/// Metric names do not tell '.' from '_', so topics that differ in nothing else collide: true for names that may.
pub fn has_collision_chars(name: &str) -> bool {
    name.contains(['.', '_'])
}

/// The name under which topics collide.
pub fn collision_name(name: &str) -> String {
    name.replace('.', "_")
}

/// Whether two different topics collide.
pub fn collide(one: &str, other: &str) -> bool {
    let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one != other && one.bytes().map(unify).eq(other.bytes().map(unify))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_names() {
        let name = FileName::new(1234, FileKind::TimeIndex);
        assert_eq!(name.to_string(), "00000000000000001234.timeindex");
        for kind in FileKind::ALL {
            for state in FileState::ALL {
                let name = FileName { base_offset: i64::MAX, kind, state };
                assert_eq!(FileName::parse(&name.to_string()), Some(name));
            }
        }
        for name in [
            "",
            ".log",
            "1.log",
            "00000000000000000000",
            "00000000000000000000.lo",
            "00000000000000000000.log2",
            "99999999999999999999.log",
            "-0000000000000000001.log",
            "leader-epoch-checkpoint",
            "00000000000000000000.log.swap.deleted",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn directory_names() {
        let live = |topic, partition| Some(DirectoryName { topic, partition, state: DirectoryState::Live });
        assert_eq!(parse_directory_name("a-b-12"), live("a-b", 12));
        assert_eq!(parse_directory_name("__consumer_offsets-49"), live("__consumer_offsets", 49));
        assert_eq!(parse_directory_name("x--1"), live("x-", 1));
        let delete = suffixed_directory_name("a.b", 3, 0xabc, DirectoryState::Delete);
        assert_eq!(delete, "a.b-3.00000000000000000000000000000abc-delete");
        let expected = DirectoryName { topic: "a.b", partition: 3, state: DirectoryState::Delete };
        assert_eq!(parse_directory_name(&delete), Some(expected));
        let long = "t".repeat(TOPIC_NAME_BYTES_MAX);
        let stray = suffixed_directory_name(&long, 12_345, 1, DirectoryState::Stray);
        assert_eq!(stray.len(), 255);
        assert_eq!(parse_directory_name(&stray).map(|name| name.partition), Some(12_345));
        for name in
            ["", "a", "-1", "a-", "a-x", "a-+1", "a-99999999999", "a b-1", "a-delete", "a-1-delete", "..-0"]
        {
            assert_eq!(parse_directory_name(name), None, "{name}");
        }
    }

    #[test]
    fn topic_names() {
        assert_eq!(check_topic_name("A.b_c-9"), Ok(()));
        assert_eq!(check_topic_name(&"x".repeat(249)), Ok(()));
        for (name, error) in [
            ("", InvalidTopicName::Empty),
            (".", InvalidTopicName::Dot),
            ("..", InvalidTopicName::DotDot),
            ("a/b", InvalidTopicName::Character),
            ("é", InvalidTopicName::Character),
            (&"x".repeat(250), InvalidTopicName::TooLong),
        ] {
            assert_eq!(check_topic_name(name), Err(error), "{name}");
        }
        assert!(collide("a.b", "a_b") && !collide("a.b", "a.b") && !collide("a.b", "a-b"));
        assert!(has_collision_chars("a_b") && !has_collision_chars("a-b"));
        assert_eq!(collision_name("a.b.c_d"), "a_b_c_d");
    }

    proptest! {
        #[test]
        fn legal_names_survive_their_directory(topic in "[a-zA-Z0-9._-]{1,249}", partition in 0i32..) {
            prop_assume!(topic != "." && topic != "..");
            let name = directory_name(&topic, partition);
            prop_assert_eq!(parse_directory_name(&name).map(|name| (name.topic, name.partition)), Some((&*topic, partition)));
        }

        #[test]
        fn any_name_can_be_parsed(name in "\\PC{0,40}") {
            let _ = (FileName::parse(&name), parse_directory_name(&name), check_topic_name(&name));
        }
    }
}
