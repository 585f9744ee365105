//! Wake-ups between threads. A driver is awake, parked or notified; only the wake of a parked one costs a system call,
//! and each wake of one that is awake keeps its next turn from parking, so a message put in a mailbox before the wake is
//! never slept over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::event::EventfdFlags;

const AWAKE: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;
/// The driver has ended; nobody is there to wake.
const GONE: u32 = 3;

/// Wakes one driver from anywhere, a ring by a message of another ring where that is to be had. Clones wake the same driver.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU32,
    /// The ring of a driver that has one. A duplicate, so that the number cannot come to mean another file while a waker
    /// lives.
    ring: Option<OwnedFd>,
    event: OwnedFd,
}

impl Waker {
    pub(super) fn new(ring: Option<OwnedFd>) -> io::Result<Waker> {
        // It blocks: a ring's read of one that does not would end at once.
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Waker { shared: Arc::new(Shared { state: AtomicU32::new(AWAKE), ring, event }) })
    }

    /// Wakes the driver, from a thread without a ring. Put what it shall find in its mailbox before.
    pub fn wake(&self) {
        if self.notify() {
            self.signal();
        }
    }

    /// Leaves the mark; whether the driver sleeps and needs a signal.
    pub(super) fn notify(&self) -> bool {
        // Pairs with the one in `unpark`: either the driver sees the mailbox entry written before this, or this
        // sees its state as it was before it looked.
        fence(Ordering::SeqCst);
        let state = &self.shared.state;
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            if seen == NOTIFIED || seen == GONE {
                return false;
            }
            match state.compare_exchange_weak(seen, NOTIFIED, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(was) => return was == PARKED,
                Err(now) => seen = now,
            }
        }
    }

    /// Makes the sleeping driver's event ready.
    pub(super) fn signal(&self) {
        // It blocks only at a count of 2^64 - 2, and fails never.
        let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
    }

    /// Ends the driver's sleep without a wake-up's mark. Leave what it shall find before.
    pub(super) fn nudge(&self) {
        // Pairs with the look after `park`, as the fence in `notify` does with `unpark`.
        fence(Ordering::SeqCst);
        if self.shared.state.load(Ordering::SeqCst) == PARKED {
            self.signal();
        }
    }

    /// Takes the signals that have come. Only where the event is known to be ready: else it waits for one.
    pub(super) fn take_signals(&self) {
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
    }

    /// Before sleeping; `false` when a wake-up has come already.
    pub(super) fn park(&self) -> bool {
        self.shared.state.compare_exchange(AWAKE, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn is_notified(&self) -> bool {
        self.shared.state.load(Ordering::Relaxed) == NOTIFIED
    }

    /// After sleeping, or instead of it; whether there was a wake-up.
    pub(super) fn unpark(&self) -> bool {
        let woken = self.shared.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED;
        fence(Ordering::SeqCst);
        woken
    }

    pub(super) fn close(&self) {
        self.shared.state.store(GONE, Ordering::SeqCst);
    }

    pub(super) fn ring_fd(&self) -> Option<RawFd> {
        self.shared.ring.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    pub(super) fn same_driver(&self, other: &Waker) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waker() -> Waker {
        Waker::new(None).unwrap()
    }

    #[test]
    fn only_a_parked_driver_needs_a_signal_and_only_once() {
        let waker = waker();
        assert!(waker.park());
        assert!(waker.notify());
        assert!(!waker.notify());
        assert!(waker.unpark() && !waker.unpark());
    }

    #[test]
    fn a_wake_of_an_awake_driver_keeps_it_from_parking_once() {
        let waker = waker();
        assert!(!waker.notify());
        assert!(waker.is_notified() && !waker.park());
        assert!(waker.unpark());
        assert!(waker.park());
    }

    #[test]
    fn a_gone_driver_is_left_alone() {
        let waker = waker();
        assert!(waker.park());
        waker.close();
        assert!(!waker.notify() && !waker.is_notified());
    }
}
