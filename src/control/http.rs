//! HTTP connections: so many at once, headers and bytes in limited time. A client that does not read, or does not send, loses
//! its connection and holds nothing of anyone else's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

/// How long a client may take to send the headers of a request.
const HEADERS_TIME: Duration = Duration::from_secs(15);
/// How long nothing may move in the direction that is waited for. Longer than any request takes.
const STALL_TIME: Duration = Duration::from_secs(90);
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after a connection could not be taken: there are no files left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    content-length: 59\r\nconnection: close\r\n\r\n{\"error_code\":503,\"message\":\"Too many connections at once.\"}";

/// The other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Takes connections for ever.
pub async fn serve(listener: TcpListener, router: Router, connections_max: usize) {
    let slots = Arc::new(Semaphore::new(connections_max));
    loop {
        let (mut stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "an HTTP connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            // What the socket does not take at once it does not get.
            let _ = stream.write(FULL).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, peer, router).await {
                tracing::debug!(%peer, %error, "HTTP connection ended");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) -> Result<(), hyper::Error> {
    let _ = stream.set_nodelay(true);
    let service = WithPeer { inner: TowerToHyperService::new(router), peer: Peer(peer) };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIME)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Paced::new(stream)), service)
        .await
}

/// Tells the handlers who calls.
struct WithPeer {
    inner: TowerToHyperService<Router>,
    peer: Peer,
}

type Incoming = hyper::Request<hyper::body::Incoming>;

impl hyper::service::Service<Incoming> for WithPeer {
    type Response = <TowerToHyperService<Router> as hyper::service::Service<Incoming>>::Response;
    type Error = <TowerToHyperService<Router> as hyper::service::Service<Incoming>>::Error;
    type Future = <TowerToHyperService<Router> as hyper::service::Service<Incoming>>::Future;

    fn call(&self, mut request: Incoming) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}

/// A socket whose reads and writes fail when they have been waiting for too long.
struct Paced {
    stream: TcpStream,
    reading: Patience,
    writing: Patience,
}

/// How long one direction has been waiting.
struct Patience {
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Patience {
    fn new() -> Patience {
        Patience { sleep: Box::pin(tokio::time::sleep(STALL_TIME)), waiting: false }
    }

    /// Passes a result on; a wait that takes too long becomes an error.
    fn limit<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = false;
            return result;
        }
        if !std::mem::replace(&mut self.waiting, true) {
            self.sleep.as_mut().reset(Instant::now() + STALL_TIME);
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Paced {
    fn new(stream: TcpStream) -> Paced {
        Paced { stream, reading: Patience::new(), writing: Patience::new() }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.reading.limit(cx, result)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.writing.limit(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.writing.limit(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
