//! The conformance suite of `io`: on the ring driver, with all features of this kernel and with none of the optional ones, on
//! the epoll driver, and on the simulated one, with several seeds.

#![allow(clippy::unwrap_used)]

#[path = "conformance/cases.rs"]
mod cases;
#[path = "simulation/sim_io.rs"]
mod sim_io;

use std::path::PathBuf;

use ringlog::io::Io;
use ringlog::io::poll::{PollIo, PollOptions};
use ringlog::io::uring::{UringIo, UringOptions};

/// A directory of the simulated world.
struct SimDisk;

impl cases::Env for SimDisk {
    fn dir(&self) -> PathBuf {
        PathBuf::from("/disk/conformance")
    }
}

fn simulate(name: &str) {
    let (_, case) = cases::all::<sim_io::SimIo>().into_iter().find(|(known, _)| *known == name).unwrap();
    for seed in 0..5 {
        let mut options = sim_io::SimOptions::default();
        options.net.split = [0.0, 0.3][seed as usize % 2];
        options.net.receive_bytes = [2 << 20, 256 << 10][seed as usize / 2 % 2];
        let mut io = sim_io::SimWorld::new(seed, options).driver();
        io.world().create_dir_all(&cases::Env::dir(&SimDisk));
        case(&mut io, &mut SimDisk);
    }
}

struct Disk(tempfile::TempDir);

impl cases::Env for Disk {
    fn dir(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }
}

fn run(name: &str, options: UringOptions) {
    run_on(name, UringIo::new(options).unwrap());
}

fn poll(name: &str, options: PollOptions) {
    run_on(name, PollIo::new(options).unwrap());
}

fn run_on<I: Io>(name: &str, mut io: I) {
    let (_, case) = cases::all::<I>().into_iter().find(|(known, _)| *known == name).unwrap();
    // Not /tmp: it may be a file system without direct I/O.
    let mut env = Disk(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    case(&mut io, &mut env);
}

macro_rules! cases {
    ($($name:ident)*) => {
        mod ring {
            $(#[test] fn $name() { super::run(stringify!($name), super::UringOptions::default()); })*
        }
        mod ring_without_optional_features {
            use super::UringOptions;
            $(#[test] fn $name() {
                super::run(stringify!($name), UringOptions { old_kernel: true, ..UringOptions::default() });
            })*
        }
        /// Queues so small that every case fills them.
        mod ring_of_two_entries {
            use super::UringOptions;
            $(#[test] fn $name() {
                let options = UringOptions { submission_entries: 2, completion_entries: 16, ..UringOptions::default() };
                super::run(stringify!($name), options);
            })*
        }
        mod ring_that_spins {
            use super::UringOptions;
            $(#[test] fn $name() {
                super::run(stringify!($name), UringOptions { spin_ns: 20_000, ..UringOptions::default() });
            })*
        }
        mod epoll {
            use super::PollOptions;
            $(#[test] fn $name() { super::poll(stringify!($name), PollOptions::default()); })*
        }
        /// As few threads and as little memory for received bytes as it takes.
        mod epoll_of_little {
            use super::PollOptions;
            $(#[test] fn $name() {
                let options = PollOptions { workers: 1, receive_bytes: 1, ..PollOptions::default() };
                super::poll(stringify!($name), options);
            })*
        }
        mod epoll_that_spins {
            use super::PollOptions;
            $(#[test] fn $name() {
                super::poll(stringify!($name), PollOptions { spin_ns: 20_000, ..PollOptions::default() });
            })*
        }
        mod simulated {
            $(#[test] fn $name() { super::simulate(stringify!($name)); })*
        }
        #[test]
        fn every_case_is_listed() {
            let listed = [$(stringify!($name)),*];
            let known: Vec<_> = cases::all::<UringIo>().into_iter().map(|(name, _)| name).collect();
            assert_eq!(listed.as_slice(), known);
        }
    };
}

cases! {
    a_turn_without_wait_returns_at_once
    a_turn_waits_for_its_deadline
    a_wake_up_ends_the_next_turn
    a_connection_is_accepted_and_knows_its_peer
    a_refused_connection_is_an_error
    an_address_in_use_is_an_error
    bytes_arrive_in_order_in_any_pieces
    pieces_stay_valid_while_they_are_held
    held_pieces_starve_nobody_once_dropped
    a_large_send_waits_for_a_slow_reader
    many_parts_go_in_one_send
    an_empty_send_completes
    a_shutdown_is_an_end_of_stream_to_both
    closing_with_unread_bytes_resets
    a_send_after_the_peer_has_gone_fails_and_returns_its_parts
    a_cancelled_accept_ends
    a_cancelled_receive_ends_and_another_goes_on
    a_cancelled_send_ends
    a_cancel_of_nothing_finds_nothing
    closing_ends_what_is_pending
    a_stale_handle_is_refused_and_returns_the_buffer
    an_exact_receive_fills_its_buffer
    a_detached_socket_is_taken_over
    a_thousand_connections
    a_missing_file_is_an_error
    a_file_is_written_and_read_back_directly
    a_read_is_short_only_at_the_end
    a_buffered_file_takes_any_length
    a_file_is_truncated_and_grown
    files_are_renamed_and_unlinked
    directories_are_made_listed_and_removed
    a_directory_is_synced
    many_writes_in_flight
    buffers_of_a_pool_are_written_and_read
    a_lock_is_exclusive
    block_on_keeps_other_completions
    block_on_keeps_a_wake_up
}
