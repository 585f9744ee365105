//! How a shard names its ops: the owner in the top byte (storage and metadata keep theirs free for the other seven), then, for
//! sockets, the kind of op and the index of the connection or listener.
//!
//! No generation is needed: a connection's index is not used again before all its ops have completed.

use crate::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Server = 1,
    Storage = 2,
    Metadata = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Shutdown = 4,
    /// Nobody waits for it: cancel, close.
    Other = 5,
}

impl Token {
    pub fn new(owner: Owner, kind: Kind, index: u32) -> Token {
        Token((owner as u64) << 56 | (kind as u64) << 48 | u64::from(index))
    }

    pub fn owner(self) -> Owner {
        match self.0 >> 56 {
            2 => Owner::Storage,
            3 => Owner::Metadata,
            _ => Owner::Server,
        }
    }

    pub fn kind(self) -> Kind {
        match (self.0 >> 48) as u8 {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Shutdown,
            _ => Kind::Other,
        }
    }

    pub fn index(self) -> u32 {
        self.0 as u32
    }
}

impl From<Token> for io::Token {
    fn from(token: Token) -> io::Token {
        io::Token(token.0)
    }
}

impl From<io::Token> for Token {
    fn from(token: io::Token) -> Token {
        Token(token.0)
    }
}
