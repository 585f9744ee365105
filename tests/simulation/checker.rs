//! The checker can fail: a history made by hand for each fault that it knows, and some without any.

use ringlog::protocol::Uuid;

use super::clients::Entry;
use super::forgetting::IdUse;
use super::history::{Ack, Cursor, History, Outcome, Place, Role, Topic};
use super::log_model::{Verdict, ensure};
use super::ownership::{self, Hold};

const IN: Place = ([1; 16], 0);
const OUT: Place = ([2; 16], 0);
/// It is compacted.
const KEYED: Place = ([3; 16], 0);

const SECOND_NS: u64 = 1_000_000_000;

/// What the checker has to find, and where.
type Case = (&'static str, fn(&mut History) -> Verdict);

const CASES: &[Case] = &[
    ("lost write", |history| {
        history.sending(1, OUT, true);
        history.acknowledged(OUT, 0, &[1], Ack::Durable)?;
        history.check_log(OUT, 0, &[])
    }),
    ("lost write", |history| {
        // Its marker says that it was aborted.
        let transaction = write(history, "a", 1, OUT)?;
        history.deciding(transaction);
        history.transaction_committed(transaction);
        history.left_out(OUT, 0, 1)
    }),
    ("lost write", |history| {
        let transaction = write(history, "a", 1, OUT)?;
        history.deciding(transaction);
        history.transaction_committed(transaction);
        verify(history, OUT, &[(0, Some(1))], &[])
    }),
    ("lost write", |history| {
        // A plain record that only readers of committed data miss.
        history.sending(1, OUT, true);
        verify(history, OUT, &[(0, Some(1))], &[])
    }),
    ("lost write", |history| {
        // The first input led to nothing, the second to an output.
        process(history, &[(1, 11)])?;
        verify(history, IN, &[(0, Some(1)), (1, Some(2)), (2, None)], &[(0, 1), (1, 2)])?;
        verify(history, OUT, &[(0, Some(11)), (1, None)], &[(0, 11)])
    }),
    ("duplicate", |history| {
        history.sending(1, OUT, true);
        history.check_log(OUT, 0, &[(0, Some(1)), (1, Some(1))])
    }),
    ("duplicate", |history| {
        // Two outputs of one input.
        process(history, &[(0, 11), (0, 12)])?;
        verify(history, IN, &[(0, Some(1)), (1, Some(2)), (2, None)], &[(0, 1), (1, 2)])?;
        verify(history, OUT, &[(0, Some(11)), (1, Some(12)), (2, None)], &[(0, 11), (1, 12)])
    }),
    ("two owners", |history| {
        history.ownership.told("group", &[IN], &hold("a", 4), 5)?;
        history.ownership.told("group", &[IN], &hold("b", 8), 9)
    }),
    ("two owners", |history| {
        // The first has given up another.
        history.ownership.told("group", &[IN, OUT], &hold("a", 4), 5)?;
        history.ownership.keeps("group", "a", |place| *place == IN);
        history.ownership.told("group", &[OUT], &hold("b", 8), 9)?;
        history.ownership.told("group", &[IN], &hold("b", 8), 9)
    }),
    ("not shared out", |_| {
        let left = ownership::unshared(&[IN, OUT], &[OUT]);
        ensure!(left.is_empty(), "not shared out: {left:?}");
        Ok(())
    }),
    ("not shared out", |_| {
        let twice = ownership::unshared(&[IN, OUT], &[OUT, IN, OUT]);
        ensure!(twice.is_empty(), "not shared out: {twice:?}");
        Ok(())
    }),
    ("aborted read", |history| {
        write(history, "a", 1, OUT)?;
        history.saw_committed(OUT, 0, 1)
    }),
    ("aborted read", |history| {
        // The commit was asked for, and it is refused after somebody has seen it.
        let transaction = write(history, "a", 1, OUT)?;
        history.deciding(transaction);
        history.saw_committed(OUT, 0, 1)?;
        history.transaction_aborted(transaction, true)
    }),
    ("aborted read", |history| {
        let transaction = write(history, "a", 1, OUT)?;
        history.transaction_aborted(transaction, true)?;
        verify(history, OUT, &[(0, Some(1)), (1, None)], &[(0, 1)])
    }),
    ("aborted read", |history| {
        // Of an offset that a group was told.
        let transaction = write(history, "a", 1, OUT)?;
        history.offsets_in(transaction, &[("group".to_string(), IN, 7)]);
        history.got_offset("group", IN, 7)
    }),
    ("torn transaction", |history| {
        let transaction = history.begin("a");
        history.sending_in(transaction, 1, IN, None);
        history.sending_in(transaction, 2, OUT, None);
        history.deciding(transaction);
        verify(history, IN, &[(0, Some(1)), (1, None)], &[(0, 1)])?;
        verify(history, OUT, &[(0, Some(2)), (1, None)], &[])
    }),
    ("unseen", |history| {
        let transaction = write(history, "a", 1, IN)?;
        history.deciding(transaction);
        history.transaction_committed(transaction);
        history.committed("group", IN, 2, 0);
        verify(history, IN, &[(0, Some(1)), (1, None)], &[(0, 1)])
    }),
    ("poll skip", |_| Cursor::at(3).read(vec![entry(2), entry(4)], 0, 9, false).map(|_| ())),
    ("poll skip", |history| {
        // Of a record that compaction has not taken.
        keyed(history, &[1, 2, 3])?;
        history.skipped(KEYED, 0, &[entry(0), entry(2)]);
        verify(history, KEYED, &[(1, Some(2)), (2, Some(3))], &[(1, 2), (2, 3)])
    }),
    ("lost write", |history| {
        // The last of its key is compacted away.
        keyed(history, &[1, 2, 3])?;
        verify(history, KEYED, &[(1, Some(2))], &[(1, 2)])
    }),
    ("lost write", |history| {
        // So is one that only something aborted has superseded.
        keyed(history, &[1])?;
        let transaction = history.begin("a");
        history.keyed(3, 1);
        history.sending_in(transaction, 3, KEYED, None);
        history.acknowledged(KEYED, 1, &[3], Ack::Durable)?;
        history.transaction_aborted(transaction, true)?;
        verify(history, KEYED, &[(1, Some(3)), (2, None)], &[])
    }),
    ("torn transaction", |history| {
        // What is missing of it was the last of its key.
        let transaction = history.begin("a");
        for (value, offset) in [(1, 0), (2, 1)] {
            history.keyed(value, value as u8);
            history.sending_in(transaction, value, KEYED, None);
            history.acknowledged(KEYED, offset, &[value], Ack::Durable)?;
        }
        history.deciding(transaction);
        verify(history, KEYED, &[(1, Some(2)), (2, None)], &[(1, 2)])
    }),
    ("non-monotonic poll", |_| {
        Cursor::at(3).read(vec![entry(3), entry(4), entry(4)], 0, 9, false).map(|_| ())
    }),
    ("beyond", |_| Cursor::at(3).read(vec![entry(3)], 0, 3, false).map(|_| ())),
    ("non-monotonic send", |history| {
        history.sending(1, OUT, true);
        history.sending(2, OUT, true);
        history.check_log(OUT, 0, &[(0, Some(2)), (1, Some(1))])
    }),
    ("inconsistent offsets", |history| {
        history.sending(1, OUT, true);
        history.sending(2, OUT, true);
        history.saw(OUT, 0, 1)?;
        history.saw(OUT, 0, 2)
    }),
    ("inconsistent offsets", |history| {
        history.sending(1, OUT, true);
        history.sending(2, OUT, true);
        history.acknowledged(OUT, 0, &[1], Ack::Written)?;
        history.acknowledged(OUT, 0, &[2], Ack::Written)
    }),
    ("which nobody sent", |history| history.saw(OUT, 0, 1)),
    ("duplicate", |history| {
        // Its producer was idle, but not for a day.
        send_twice(history, 0.9);
        history.check_log(OUT, 0, &[(0, Some(1)), (1, Some(1))])
    }),
    ("duplicate", |history| {
        // It was forgotten once.
        send_twice(history, 1.1);
        history.check_log(OUT, 0, &[(0, Some(1)), (1, Some(1)), (2, Some(1))])
    }),
    ("duplicate", |history| {
        // It was forgotten after it had sent both.
        send_twice(history, 0.0);
        at(history, 200, 2.0);
        history.check_log(OUT, 0, &[(0, Some(1)), (1, Some(1))])
    }),
    ("non-monotonic send", |history| {
        send_twice(history, 0.9);
        history.check_log(OUT, 0, &[(0, Some(2)), (1, Some(1))])
    }),
    ("duplicate", |history| {
        // Two outputs of an input although its group went on where it was.
        at(history, 1, 0.0);
        process(history, &[(0, 11), (0, 12)])?;
        history.committed("group", IN, 2, history.clock.now_ns);
        at(history, 100, 8.0);
        history.told_offset(("group", false), IN, 2, (2, SECOND_NS), 100 * SECOND_NS)?;
        verify(history, IN, &[(0, Some(1)), (1, Some(2)), (2, None)], &[(0, 1), (1, 2)])?;
        verify(history, OUT, &[(0, Some(11)), (1, Some(12)), (2, None)], &[(0, 11), (1, 12)])
    }),
    ("lost offset", |history| {
        // The group had no members, but not for a week.
        at(history, 1, 0.0);
        at(history, 100, 6.0);
        history.told_offset(("group", true), IN, -1, (2, SECOND_NS), 100 * SECOND_NS)
    }),
    ("lost offset", |history| {
        // It had a member all the time, until after the jump.
        at(history, 1, 0.0);
        stay(history, "group", 2, 60);
        at(history, 50, 8.0);
        at(history, 100, 8.0);
        history.told_offset(("group", false), IN, -1, (2, 2 * SECOND_NS), 100 * SECOND_NS)
    }),
    ("lost offset", |history| {
        // So had one of the newer protocol, and still has.
        at(history, 1, 0.0);
        stay(history, "group", 2, 60);
        at(history, 50, 8.0);
        history.told_offset(("group", true), IN, -1, (2, 2 * SECOND_NS), 50 * SECOND_NS)
    }),
    ("lost offset", |history| {
        // It is told an older one.
        at(history, 1, 0.0);
        at(history, 100, 8.0);
        history.told_offset(("group", false), IN, 1, (2, SECOND_NS), 100 * SECOND_NS)
    }),
    ("forgotten id", |history| {
        at(history, 1, 0.0);
        at(history, 100, 6.0);
        history.clock.forgets_id(&IdUse::Idle { since_ns: SECOND_NS })
    }),
    ("forgotten id", |history| {
        // The jump ends its transaction, and from then on it is idle.
        at(history, 1, 0.0);
        at(history, 2, 8.0);
        history.clock.forgets_id(&open(1, 5))
    }),
];

/// Nothing is wrong with it: two inputs, an output of each, a transaction that was aborted, a group that read the inputs.
fn fine(history: &mut History) -> Verdict {
    process(history, &[(0, 11), (1, 12)])?;
    history.transaction_aborted(2, true)?;
    for (offset, value) in [(0, 1), (1, 2)] {
        history.saw_committed(IN, offset, value)?;
        history.polled("readers", IN, offset);
    }
    history.committed("readers", IN, 3, 0);
    history.left_out(OUT, 3, 13)?;
    verify(history, IN, &[(0, Some(1)), (1, Some(2)), (2, None)], &[(0, 1), (1, 2)])?;
    let all = [(0, Some(11)), (1, Some(12)), (2, None), (3, Some(13)), (4, None)];
    verify(history, OUT, &all, &[(0, 11), (1, 12)])?;
    keyed(history, &[21, 22, 23])?;
    history.skipped(KEYED, 0, &[entry(1)]);
    verify(history, KEYED, &[(1, Some(22)), (2, Some(23))], &[(1, 22), (2, 23)])?;
    // The first may have been taken for dead before the second asked.
    history.ownership.told("group", &[IN], &hold("a", 4), 5)?;
    history.ownership.told("group", &[IN], &hold("b", 10), 11)?;
    history.check_all()
}

/// What was idle for long enough is forgotten: records that were sent again are there twice.
fn forgotten(history: &mut History) -> Verdict {
    send_twice(history, 1.1);
    let log = [(0, 1), (1, 2), (2, 1), (3, 2)];
    verify(history, OUT, &log.map(|(offset, value)| (offset, Some(value))), &log)?;
    // An id is idle from the end of its transaction on.
    at(history, 310, 0.0);
    at(history, 320, 8.0);
    history.clock.forgets_id(&open(310, 5))?;
    for (seconds, days) in [(400, 0.0), (405, 0.1), (410, 8.0)] {
        at(history, seconds, days);
    }
    history.clock.forgets_id(&open(400, 60))
}

/// So are the offsets of a group without members, and what they were of leads to an output again.
fn lost_offsets(history: &mut History) -> Verdict {
    at(history, 1, 0.0);
    process(history, &[(0, 11), (1, 12), (0, 14), (1, 15)])?;
    history.polled("group", IN, 0);
    history.polled("group", IN, 1);
    history.committed("group", IN, 2, history.clock.now_ns);
    for group in ["group", "newer"] {
        stay(history, group, 2, 40);
    }
    at(history, 50, 0.0);
    // By the newer protocol the commit counts, though a member was there when the clock jumped.
    stay(history, "newer", 50, 150);
    at(history, 100, 8.0);
    at(history, 300, 8.0);
    history.told_offset(("group", false), IN, -1, (2, SECOND_NS), 300 * SECOND_NS)?;
    history.told_offset(("newer", true), OUT, -1, (2, 50 * SECOND_NS), 300 * SECOND_NS)?;
    verify(history, IN, &[(0, Some(1)), (1, Some(2)), (2, None)], &[(0, 1), (1, 2)])?;
    let log = [(0, 11), (1, 12), (2, 14), (3, 15)];
    verify(history, OUT, &log.map(|(offset, value)| (offset, Some(value))), &log)?;
    history.check_all()
}

/// Answers how many faults were found; an error where one was not, or one that is none.
pub fn check() -> Result<usize, String> {
    for (number, (fault, make)) in CASES.iter().enumerate() {
        let mut history = history();
        let found = make(&mut history).and_then(|()| history.check_all());
        let told = found.err().unwrap_or_default();
        ensure!(told.contains(fault), "case {number}: {fault:?} was not found, but {told:?}");
    }
    for fine in [fine, forgotten, lost_offsets] {
        fine(&mut history()).map_err(|error| format!("nothing is wrong, and yet: {error}"))?;
    }
    Ok(CASES.len())
}

fn history() -> History {
    let mut history = History::default();
    for (place, role) in [(IN, Role::Input), (OUT, Role::Output), (KEYED, Role::Any)] {
        let (name, compacted) = (format!("{role:?}"), place == KEYED);
        let id = Uuid(place.0);
        history.topics.push(Topic { name, id, partitions: 1, role, compacted, deleted: false });
    }
    history
}

/// What a member got that asked then, and was answered at once.
fn hold(member: &str, asked_ns: u64) -> Hold {
    let (since_ns, until_ns) = (asked_ns + 1, asked_ns + 6);
    Hold { member: member.into(), epoch: 1, life: 1, asked_ns, since_ns, until_ns }
}

/// After so many seconds the wall clock is so many days ahead.
fn at(history: &mut History, seconds: u64, days: f64) {
    history.clock.set(seconds * SECOND_NS, (seconds * 1_000) as i64 + (days * 86_400_000.0) as i64);
}

/// Two values, the second time after so many days.
fn send_twice(history: &mut History, days: f64) {
    for (seconds, days) in [(1, 0.0), (100, days)] {
        at(history, seconds, days);
        history.sending(1, OUT, true);
        history.sending(2, OUT, true);
    }
}

/// A member is there in these seconds.
fn stay(history: &mut History, group: &str, from: u64, until: u64) {
    let (from_ns, member) = (from * SECOND_NS, format!("member-{from}"));
    history.presence.shows(group, &member, from_ns, from_ns, (until - from) * 1_000);
}

/// A transaction since then, with its timeout.
fn open(began: u64, timeout: u64) -> IdUse {
    IdUse::Open { began_ns: began * SECOND_NS, timeout_ms: timeout * 1_000, end_ns: None }
}

fn entry(offset: i64) -> Entry {
    Entry { offset, value: Some(1), aborted: false }
}

/// A transaction with one acknowledged record at offset 0.
fn write(history: &mut History, id: &str, value: u64, place: Place) -> Result<usize, String> {
    let transaction = history.begin(id);
    history.sending_in(transaction, value, place, None);
    history.acknowledged(place, 0, &[value], Ack::Durable)?;
    Ok(transaction)
}

/// Inputs 1 and 2 at offsets 0 and 1, outputs of these offsets, and an open transaction with 13.
fn process(history: &mut History, made: &[(i64, u64)]) -> Verdict {
    let input = history.begin("input");
    history.sending_in(input, 1, IN, None);
    history.sending_in(input, 2, IN, None);
    let output = history.begin("output");
    for &(offset, value) in made {
        history.sending_in(output, value, OUT, Some(("group".to_string(), IN, offset)));
    }
    for transaction in [input, output] {
        history.deciding(transaction);
        history.transaction_committed(transaction);
    }
    let open = history.begin("open");
    history.sending_in(open, 13, OUT, None);
    ensure!(history.count(Outcome::Committed) == 2, "two are committed");
    Ok(())
}

/// Values from offset 0 on, the odd ones with one key and the even ones with another.
fn keyed(history: &mut History, values: &[u64]) -> Verdict {
    for (&value, offset) in values.iter().zip(0..) {
        history.keyed(value, (value % 2) as u8);
        history.sending(value, KEYED, true);
        history.acknowledged(KEYED, offset, &[value], Ack::Durable)?;
    }
    Ok(())
}

fn verify(
    history: &mut History,
    place: Place,
    all: &[(i64, Option<u64>)],
    committed: &[(i64, u64)],
) -> Verdict {
    history.check_log(place, 0, all)?;
    history.check_committed(place, committed)
}
