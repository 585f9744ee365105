//! The append server on glommio: an executor a thread, a task for each half of a connection, one that flushes the log and one a
//! write, `DmaFile` and its registered buffers. The same log, the same answers and the same receives as on the bare ring.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::task::{Poll, Waker};

use clap::Parser;
use futures_lite::io::{ReadHalf, WriteHalf, split};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::channels::shared_channel::{self, ConnectedSender};
use glommio::io::{DmaBuffer, DmaFile, OpenOptions};
use glommio::net::{AcceptedTcpStream, TcpListener, TcpStream};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use runtimes::inbox::Inbox;
use runtimes::log::{BLOCK, Log, Write};
use runtimes::options::{Ack, Options};
use runtimes::segment;
use runtimes::wire;

/// Connections between the thread that accepts and another.
const HANDED_OVER: usize = 128;

fn main() -> io::Result<()> {
    let options = Options::parse();
    if options.memory.is_some() {
        return Err(io::Error::other("--memory is the bare ring's"));
    }
    let (mut senders, mut receivers) = (Vec::new(), vec![None]);
    for _ in 1..options.threads {
        let (sender, receiver) = shared_channel::new_bounded::<AcceptedTcpStream>(HANDED_OVER);
        senders.push(sender);
        receivers.push(Some(receiver));
    }
    let mut senders = Some(senders);
    let mut threads = Vec::new();
    for (number, receiver) in (0..options.threads).zip(receivers) {
        let placement = options.core(number).map_or(Placement::Unbound, Placement::Fixed);
        let senders = if number == 0 { senders.take() } else { None };
        let options = options.clone();
        // Memory for the blocks, registered by glommio; a power of two, as its allocator halves.
        let memory = ((options.depth() + 2) * BLOCK * 2).next_power_of_two();
        let thread = LocalExecutorBuilder::new(placement).io_memory(memory).spawn(move || async move {
            let ended = match (senders, receiver) {
                (Some(senders), _) => accept(&options, senders).await,
                (None, Some(receiver)) => {
                    let (receiver, server) =
                        (receiver.connect().await, Server::start(&options, number).await?);
                    while let Some(accepted) = receiver.recv().await {
                        server.serve(accepted.bind_to_executor());
                    }
                    Ok(())
                }
                (None, None) => unreachable!("a thread accepts or receives"),
            };
            if let Err(error) = &ended {
                fail("the server", error);
            }
            ended
        });
        threads.push(thread.map_err(other)?);
    }
    for thread in threads {
        thread.join().map_err(other)??;
    }
    Ok(())
}

/// glommio's errors may hold what is not `Sync`.
fn other(error: GlommioError<()>) -> io::Error {
    io::Error::other(error.to_string())
}

fn fail(what: &str, error: &dyn std::fmt::Display) -> ! {
    eprintln!("append-glommio: {what}: {error}");
    std::process::exit(1)
}

/// Accepts for all threads, which get the connections in turn.
async fn accept(
    options: &Options,
    senders: Vec<shared_channel::SharedSender<AcceptedTcpStream>>,
) -> io::Result<()> {
    let mut others: Vec<ConnectedSender<_>> = Vec::new();
    for sender in senders {
        others.push(sender.connect().await);
    }
    let server = Server::start(options, 0).await?;
    let listener = TcpListener::bind(options.listen)?;
    println!("ready {}", listener.local_addr()?);
    io::stdout().flush()?;
    for number in 0.. {
        let accepted = listener.shared_accept().await?;
        match number % (others.len() + 1) {
            0 => server.serve(accepted.bind_to_executor()),
            other => {
                others[other - 1].send(accepted).await.map_err(|error| io::Error::other(error.to_string()))?
            }
        }
    }
    Ok(())
}

/// glommio's buffer, as the log wants it.
struct Block(DmaBuffer);

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

/// What a connection's writing half has to send.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    closed: bool,
    waker: Option<Waker>,
}

impl Out {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct State {
    log: Log<Block>,
    connections: HashMap<usize, Rc<RefCell<Out>>>,
    ids: usize,
    flusher: Option<Waker>,
    /// Connections that wait for room in the log.
    full: Vec<Waker>,
}

struct Server {
    state: RefCell<State>,
    file: DmaFile,
    depth: usize,
    sync: bool,
}

impl Server {
    async fn start(options: &Options, number: u16) -> io::Result<Rc<Server>> {
        drop(segment::open(&options.dir, number, options.segment_bytes())?);
        let path = segment::path(&options.dir, number);
        let file = OpenOptions::new().write(true).dma_open(path).await?;
        let blocks = (0..=options.depth()).map(|_| Block(file.alloc_dma_buffer(BLOCK))).collect();
        let state = State {
            log: Log::new(blocks, options.segment_bytes()),
            connections: HashMap::new(),
            ids: 0,
            flusher: None,
            full: Vec::new(),
        };
        let (depth, sync) = (options.depth(), options.ack == Ack::Durable);
        let server = Rc::new(Server { state: RefCell::new(state), file, depth, sync });
        glommio::spawn_local(server.clone().flush()).detach();
        Ok(server)
    }

    fn serve(self: &Rc<Server>, stream: TcpStream) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (reader, writer) = split(stream);
        let out = Rc::new(RefCell::new(Out::default()));
        let mut state = self.state.borrow_mut();
        state.ids += 1;
        let id = state.ids;
        state.connections.insert(id, out.clone());
        drop(state);
        glommio::spawn_local(send(writer, out.clone())).detach();
        let server = self.clone();
        glommio::spawn_local(async move {
            // A connection ends by its peer's will; what it did wrong is its own affair.
            let _ = server.receive(id, reader).await;
            server.state.borrow_mut().connections.remove(&id);
            let mut out = out.borrow_mut();
            out.closed = true;
            out.wake();
        })
        .detach();
    }

    async fn receive(&self, id: usize, mut reader: ReadHalf<TcpStream>) -> io::Result<()> {
        let damaged = |_| io::Error::from(io::ErrorKind::InvalidData);
        let mut inbox = Inbox::default();
        loop {
            let (space, exact) = inbox.space().map_err(damaged)?;
            let mut len = space.len();
            if exact {
                reader.read_exact(space).await?;
            } else {
                len = reader.read(space).await?;
            }
            if len == 0 {
                return Ok(());
            }
            inbox.filled(len);
            while let Some(frame) = inbox.frame().map_err(damaged)? {
                let len = frame.len();
                self.append(id, frame).await.map_err(damaged)?;
                inbox.take(len);
            }
        }
    }

    async fn append(&self, id: usize, frame: &[u8]) -> Result<(), wire::Malformed> {
        let mut answered = Ok(());
        poll_fn(|context| {
            let state = &mut *self.state.borrow_mut();
            let appended = state.log.append(id, frame, |out| answered = wire::answer(&frame[4..], out));
            if let Some(flusher) = state.flusher.take() {
                flusher.wake();
            }
            if appended {
                return Poll::Ready(());
            }
            state.full.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        answered
    }

    /// Starts a write whenever there is a block and the depth allows. It runs behind the tasks that were ready before it, so
    /// that a block holds what they all had.
    async fn flush(self: Rc<Server>) {
        loop {
            let write = poll_fn(|context| {
                let state = &mut *self.state.borrow_mut();
                if let Some(write) = state.log.take(self.depth) {
                    return Poll::Ready(write);
                }
                state.flusher = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            self.state.borrow_mut().full.drain(..).for_each(Waker::wake);
            let server = self.clone();
            glommio::spawn_local(async move {
                if let Err(error) = server.write(write).await {
                    fail("a write", &error);
                }
            })
            .detach();
        }
    }

    async fn write(&self, mut write: Write<Block>) -> Result<(), GlommioError<()>> {
        write.buffer.0.trim_to_size(write.len);
        let written = self.file.write_at(write.buffer.0, write.position).await?;
        assert_eq!(written, write.len, "a write fell short");
        if self.sync {
            self.file.fdatasync().await?;
        }
        let state = &mut *self.state.borrow_mut();
        // glommio has dropped the buffer; another comes out of the same memory.
        state.log.complete(write.sequence, Block(self.file.alloc_dma_buffer(BLOCK)));
        while let Some(answers) = state.log.answered() {
            for (id, bytes) in answers.iter() {
                if let Some(out) = state.connections.get(&id) {
                    let mut out = out.borrow_mut();
                    out.bytes.extend_from_slice(bytes);
                    out.wake();
                }
            }
            state.log.reuse(answers);
        }
        state.full.drain(..).for_each(Waker::wake);
        if let Some(flusher) = state.flusher.take() {
            flusher.wake();
        }
        Ok(())
    }
}

/// Sends what answers have gathered, in one write at a time.
async fn send(mut writer: WriteHalf<TcpStream>, out: Rc<RefCell<Out>>) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let closed = poll_fn(|context| {
            let mut out = out.borrow_mut();
            if out.bytes.is_empty() && !out.closed {
                out.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut out.bytes, &mut bytes);
            Poll::Ready(out.closed)
        })
        .await;
        if closed || writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
