//! A small blocking client: one request and its answer at a time, over plain sockets with timeouts. Used by the
//! subcommands; works against any Kafka broker, since the version of each request is negotiated on each connection.
//!
//! A request that found its connection closed is sent once more on a new one by [`Client::call`]; errors that a broker
//! answers are tried again by [`Client::retry`], whose closure decides what an error is.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::failure::{FAILED, Failure};
use crate::protocol::frame::{LENGTH_BYTES, decode_response, encode_request, parse_length};
use crate::protocol::messages::api_versions_request::ApiVersionsRequest;
use crate::protocol::{ApiKey, ErrorCode, Request};

const CLIENT_ID: &str = "ringlog-cli";
/// No broker answers more: a fetch is limited by what it asked for.
const ANSWER_BYTES_MAX: usize = 256 << 20;
const PAUSE: Duration = Duration::from_millis(150);

/// The options of every subcommand that talks to brokers.
#[derive(Clone, Debug, clap::Args)]
pub struct Connect {
    /// Brokers to ask for the others, comma-separated
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "RINGLOG_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_delimiter = ','
    )]
    pub bootstrap: Vec<String>,
    /// How long one request may take, its retries included
    #[arg(long, global = true, value_name = "MS", default_value_t = 30_000)]
    pub request_timeout_ms: u32,
}

/// Which broker a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// Whichever answers.
    Any,
    /// The broker of that id, as [`Client::learn`] has been told.
    Broker(i32),
}

/// An answer as it came; [`Answer::read`] gives the message.
pub struct Answer {
    frame: Vec<u8>,
    pub version: i16,
}

impl Answer {
    /// `R` is the request that was sent.
    pub fn read<'q, 'r, R: Request<'q>>(&'r self) -> Result<R::Response<'r>, Failure> {
        let decoded = decode_response::<R>(&self.frame, self.version);
        decoded.map(|(_, message)| message).map_err(Failure::answer)
    }
}

/// See the module.
pub struct Client {
    bootstrap: Vec<String>,
    timeout: Duration,
    connections: BTreeMap<To, Connection>,
    brokers: BTreeMap<i32, String>,
    /// A broker has answered before: one that does not now may be starting again.
    was_reached: bool,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(connect: &Connect) -> Client {
        Client {
            bootstrap: connect.bootstrap.clone(),
            timeout: Duration::from_millis(connect.request_timeout_ms.max(1).into()),
            connections: BTreeMap::new(),
            brokers: BTreeMap::new(),
            was_reached: false,
        }
    }

    /// Where a broker listens. A connection to where it listened before is given up.
    pub fn learn(&mut self, broker: i32, host: &str, port: i32) {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        if self.brokers.get(&broker) != Some(&address) {
            self.connections.remove(&To::Broker(broker));
            self.brokers.insert(broker, address);
        }
    }

    pub fn brokers(&self) -> Vec<i32> {
        self.brokers.keys().copied().collect()
    }

    /// What a request's `timeout_ms` says.
    pub fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Sends in the newest version both sides know, `cap` at most, and waits for the answer. What finds its connection
    /// closed is sent again, so it has to be harmless twice.
    pub fn call<'q, R: Request<'q>>(&mut self, to: To, cap: i16, request: &R) -> Result<Answer, Failure> {
        self.call_within(to, cap, request, Duration::ZERO)
    }

    /// The same where the broker itself may take `patience` before it answers.
    pub fn call_within<'q, R: Request<'q>>(
        &mut self,
        to: To,
        cap: i16,
        request: &R,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let known = self.connections.contains_key(&to);
        match self.call_once(to, cap, request, patience) {
            // It may have been closed while nobody looked.
            Err(failure) if known && failure.code == Some(ErrorCode::NetworkException) => {
                self.call_once(to, cap, request, patience)
            }
            other => other,
        }
    }

    fn call_once<'q, R: Request<'q>>(
        &mut self,
        to: To,
        cap: i16,
        request: &R,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout + patience;
        let connection = self.connection(to)?;
        let version = connection.version(R::API_KEY, cap)?;
        let answer = connection.ask(version, request, deadline);
        self.keep(to, answer).map(|frame| Answer { frame, version })
    }

    /// Sends a request that is not answered (acks=0).
    pub fn send<'q, R: Request<'q>>(&mut self, to: To, cap: i16, request: &R) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let connection = self.connection(to)?;
        let version = connection.version(R::API_KEY, cap)?;
        let sent = connection.send(version, request, deadline);
        self.keep(to, sent)
    }

    /// A connection that failed is not used again.
    fn keep<T>(&mut self, to: To, result: io::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| {
            let address = self.connections.remove(&to).map_or(String::new(), |gone| gone.address);
            let mut failure = Failure::unreachable(format!("{address}: {}", in_words(&error)));
            if !is_timeout(&error) {
                failure.code = Some(ErrorCode::NetworkException);
            }
            failure
        })
    }

    fn connection(&mut self, to: To) -> Result<&mut Connection, Failure> {
        if !self.connections.contains_key(&to) {
            let candidates = match to {
                To::Any => self.bootstrap.clone(),
                To::Broker(id) => match self.brokers.get(&id) {
                    Some(address) => vec![address.clone()],
                    None => return Err(Failure::not_found(format!("the cluster has no broker {id}"))),
                },
            };
            let connection = connect_first(&candidates, self.timeout).map_err(|mut failure| {
                failure.code = self.was_reached.then_some(ErrorCode::NetworkException);
                failure
            })?;
            self.was_reached = true;
            self.connections.insert(to, connection);
        }
        Ok(self.connections.get_mut(&to).expect("just inserted"))
    }

    /// Calls again what failed with an error that may pass, until the time of a request is over.
    pub fn retry<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match attempt(self) {
                Err(failure) if failure.is_retriable() && Instant::now() + PAUSE < deadline => {
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }
}

/// The first address that takes a connection and tells its versions.
fn connect_first(addresses: &[String], timeout: Duration) -> Result<Connection, Failure> {
    let mut reasons = Vec::new();
    for address in addresses {
        match Connection::open(address, timeout) {
            Ok(connection) => return Ok(connection),
            Err(reason) => reasons.push(format!("{address}: {reason}")),
        }
    }
    Err(Failure::unreachable(format!("no broker reached: {}", reasons.join("; "))))
}

struct Connection {
    address: String,
    stream: TcpStream,
    /// What the broker serves, by API key.
    versions: BTreeMap<i16, (i16, i16)>,
    next_id: i32,
}

impl Connection {
    fn open(address: &str, timeout: Duration) -> Result<Connection, String> {
        let deadline = Instant::now() + timeout;
        let resolved = address.to_socket_addrs().map_err(|error| in_words(&error))?;
        let mut reason = "no such host".to_owned();
        let mut stream = None;
        for candidate in resolved {
            match TcpStream::connect_timeout(&candidate, left(deadline).map_err(|e| in_words(&e))?) {
                Ok(open) => {
                    stream = Some(open);
                    break;
                }
                Err(error) => reason = in_words(&error),
            }
        }
        let stream = stream.ok_or(reason)?;
        stream.set_nodelay(true).map_err(|error| in_words(&error))?;
        let mut connection =
            Connection { address: address.to_owned(), stream, versions: BTreeMap::new(), next_id: 0 };
        connection.negotiate(deadline)?;
        Ok(connection)
    }

    /// Version 0 is understood by every broker there is.
    fn negotiate(&mut self, deadline: Instant) -> Result<(), String> {
        let frame =
            self.ask(0, &ApiVersionsRequest::default(), deadline).map_err(|error| in_words(&error))?;
        let (_, response) = decode_response::<ApiVersionsRequest<'_>>(&frame, 0)
            .map_err(|_| "no Kafka broker answers there")?;
        if response.error_code != 0 {
            return Err(format!("ApiVersions answered error {}", response.error_code));
        }
        for api in &response.api_keys {
            self.versions.insert(api.api_key, (api.min_version, api.max_version));
        }
        Ok(())
    }

    fn version(&self, api: ApiKey, cap: i16) -> Result<i16, Failure> {
        let ours = api.versions();
        let Some(&(min, max)) = self.versions.get(&api.code()) else {
            return Err(Failure::new(FAILED, format!("{}: the broker does not serve {api}", self.address)));
        };
        let version = max.min(ours.max).min(cap);
        if version < min.max(ours.min) {
            let text = format!("{}: no version of {api} is known to both sides", self.address);
            return Err(Failure::new(FAILED, text));
        }
        Ok(version)
    }

    fn send<'q, R: Request<'q>>(&mut self, version: i16, request: &R, deadline: Instant) -> io::Result<()> {
        self.next_id = self.next_id.wrapping_add(1);
        let frame = encode_request(version, self.next_id, Some(CLIENT_ID), request);
        self.stream.set_write_timeout(Some(left(deadline)?))?;
        self.stream.write_all(&frame)
    }

    /// The frame of the answer, without its length.
    fn ask<'q, R: Request<'q>>(
        &mut self,
        version: i16,
        request: &R,
        deadline: Instant,
    ) -> io::Result<Vec<u8>> {
        self.send(version, request, deadline)?;
        let mut length = [0; LENGTH_BYTES];
        self.receive(&mut length, deadline)?;
        let length = parse_length(&length, ANSWER_BYTES_MAX)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?
            .unwrap_or(0);
        // The peer's word for a length reserves nothing; memory grows with what really comes.
        let mut frame = Vec::new();
        while frame.len() < length {
            let at = frame.len();
            frame.resize(length.min(at + (1 << 20)), 0);
            self.receive(&mut frame[at..], deadline)?;
        }
        let id = frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        if id != Some(self.next_id) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another request"));
        }
        Ok(frame)
    }

    fn receive(&mut self, mut space: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !space.is_empty() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(space) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => space = &mut space[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
        _ if is_timeout(error) => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}
