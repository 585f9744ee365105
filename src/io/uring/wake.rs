//! Wake-ups between threads. A driver is awake, parked or notified; only the wake of a parked one costs a system call,
//! and each wake of one that is awake keeps its next turn from parking, so a message put in a mailbox before the wake is
//! never slept over.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;
/// The driver has ended; nobody is there to wake.
const GONE: u32 = 3;

/// Wakes one ring driver from anywhere. Clones wake the same driver.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU32,
    /// A duplicate, so that the number cannot come to mean another file while a waker lives.
    ring: OwnedFd,
    event: OwnedFd,
}

impl Waker {
    pub(super) fn new(ring: OwnedFd) -> io::Result<Waker> {
        // SAFETY: needed for a descriptor that a thread without a ring can signal. No memory is passed.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has just returned this descriptor; nothing else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
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

    /// Makes the sleeping driver's read of its event complete.
    pub(super) fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: needed to signal. Eight bytes are read from a live array; the descriptor is owned. It blocks only
        // at a count of 2^64 - 2.
        unsafe { libc::write(self.shared.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
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

    pub(super) fn ring_fd(&self) -> RawFd {
        self.shared.ring.as_raw_fd()
    }

    pub(super) fn event_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    pub(super) fn same_driver(&self, other: &Waker) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waker() -> Waker {
        Waker::new(std::fs::File::open("/dev/null").unwrap().into()).unwrap()
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
