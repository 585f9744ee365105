//! The threads that do file operations with blocking calls. They inherit the affinity of the shard that first needs them,
//! so a shard's work stays on its core. Reads and writes go before everything else, and everything else (syncs, unlinks,
//! opens, which may take long) never takes all threads: an append does not wait behind the removal of a large file.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::io::Errno;
use crate::io::file_task::{Brought, Task};
use crate::io::flights::Key;
use crate::io::wake::Waker;

pub(super) struct Job {
    pub key: Key,
    pub task: Task<Arc<OwnedFd>>,
}

/// What became of a job.
pub(super) struct Done {
    pub key: Key,
    pub result: Result<usize, Errno>,
    pub brought: Brought,
}

pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
}

struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    done: Mutex<Vec<Done>>,
    /// Whether `done` holds something; read without its lock.
    has_done: AtomicBool,
    waker: Waker,
}

#[derive(Default)]
struct Queues {
    /// Reads and writes.
    transfers: VecDeque<Job>,
    others: VecDeque<Job>,
    others_running: usize,
    others_running_max: usize,
    idle: usize,
    stopped: bool,
}

impl Workers {
    /// At most `threads_max` threads, two at least; their ends wake `waker`'s driver.
    pub fn new(threads_max: usize, waker: Waker) -> io::Result<Workers> {
        let queues = Queues { others_running_max: (threads_max / 2).max(1), ..Queues::default() };
        let shared = Shared {
            queues: Mutex::new(queues),
            work: Condvar::new(),
            done: Mutex::default(),
            has_done: AtomicBool::new(false),
            waker,
        };
        let mut workers = Workers { shared: Arc::new(shared), threads: Vec::new(), threads_max };
        workers.grow()?;
        Ok(workers)
    }

    pub fn give(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut queues = lock(&self.shared.queues);
        for job in jobs.drain(..) {
            match job.task {
                Task::Read { .. } | Task::Write { .. } => queues.transfers.push_back(job),
                _ => queues.others.push_back(job),
            }
        }
        let (waiting, idle) = (queues.transfers.len() + queues.others.len(), queues.idle);
        drop(queues);
        for _ in 0..waiting.min(idle) {
            self.shared.work.notify_one();
        }
        if waiting > idle
            && self.threads.len() < self.threads_max
            && let Err(error) = self.grow()
        {
            // Those that there are do the work.
            tracing::warn!(%error, threads = self.threads.len(), "no more threads for file operations");
            self.threads_max = self.threads.len();
        }
    }

    /// Appends what has been done since.
    pub fn take(&self, into: &mut Vec<Done>) {
        if self.has_done() {
            let mut done = lock(&self.shared.done);
            self.shared.has_done.store(false, Ordering::SeqCst);
            into.append(&mut done);
        }
    }

    pub fn has_done(&self) -> bool {
        self.shared.has_done.load(Ordering::SeqCst)
    }

    /// Gives up the jobs that wait and awaits those that run.
    pub fn stop(&mut self) {
        let mut queues = lock(&self.shared.queues);
        queues.stopped = true;
        let given_up = (std::mem::take(&mut queues.transfers), std::mem::take(&mut queues.others));
        drop(queues);
        drop(given_up);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of it has been printed; there is nobody else to tell.
            let _ = thread.join();
        }
    }

    fn grow(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let name = format!("{}-io", std::thread::current().name().unwrap_or("driver"));
        self.threads.push(std::thread::Builder::new().name(name).spawn(move || shared.run())?);
        Ok(())
    }
}

impl Shared {
    fn run(&self) {
        let mut queues = lock(&self.queues);
        loop {
            if queues.stopped {
                return;
            }
            let Some((job, other)) = queues.next() else {
                queues.idle += 1;
                queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.idle -= 1;
                continue;
            };
            drop(queues);
            let (result, brought) = job.task.run();
            let done = Done { key: job.key, result, brought };
            lock(&self.done).push(done);
            self.has_done.store(true, Ordering::SeqCst);
            self.waker.nudge();
            queues = lock(&self.queues);
            queues.others_running -= usize::from(other);
        }
    }
}

impl Queues {
    /// The job to do next, and whether it is none of the transfers.
    fn next(&mut self) -> Option<(Job, bool)> {
        if let Some(job) = self.transfers.pop_front() {
            return Some((job, false));
        }
        if self.others_running == self.others_running_max {
            return None;
        }
        let job = self.others.pop_front()?;
        self.others_running += 1;
        Some((job, true))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
