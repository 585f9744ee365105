//! `listeners` and what belongs to it: `NAME://host:port`, the map from names to security protocols, what is advertised.

use std::fmt;

/// Where the broker accepts connections, or what it tells clients to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name, in upper case.
    pub name: String,
    /// A name or an address without brackets; empty: all interfaces.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// Whether every interface is meant.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.address())
    }
}

/// `NAME://host:port`, or `host:port` with the name PLAINTEXT.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let (name, address) = text.split_once("://").unwrap_or(("PLAINTEXT", text));
    let valid_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(valid_name) {
        return Err(format!("'{text}' must be written as NAME://host:port"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("'{text}' has no port"))?;
    let port = port.parse().map_err(|_| format!("'{text}' has no port from 0 to 65535"))?;
    let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(inner)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
        Some(_) => return Err(format!("'{text}' has no IPv6 address between its brackets")),
        None if host.contains(':') => return Err(format!("'{text}': an IPv6 address stands in brackets")),
        None if host.contains(|c: char| c.is_whitespace() || c == '/') => {
            return Err(format!("'{text}' has no host name"));
        }
        None => host,
    };
    Ok(Endpoint { name: name.to_ascii_uppercase(), host: host.to_owned(), port })
}

/// An address of `http://host:port` and a path, or the usual one where there is none.
pub fn parse_url(text: &str, usual_path: &str) -> Result<(Endpoint, String), String> {
    let rest = text.strip_prefix("http://").ok_or_else(|| format!("'{text}' does not begin with http://"))?;
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("'{text}' has a path that no address has"));
    }
    let endpoint = parse_endpoint(&format!("http://{address}"))?;
    if endpoint.host.is_empty() {
        return Err(format!("'{text}' has no host name"));
    }
    let path = if path.len() > 1 { path } else { usual_path };
    Ok((endpoint, path.to_owned()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    pub fn parse(text: &str) -> Option<SecurityProtocol> {
        match text.trim().to_ascii_uppercase().as_str() {
            "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
            "SSL" => Some(SecurityProtocol::Ssl),
            "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
            "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
            _ => None,
        }
    }
}

/// The protocol of listener `name`: by `listener.security.protocol.map` (`NAME:PROTOCOL,…`), else by the name itself.
pub fn protocol_of(name: &str, map: &[String]) -> Result<SecurityProtocol, String> {
    for entry in map {
        let (key, protocol) =
            entry.split_once(':').ok_or_else(|| format!("'{entry}' must be written as NAME:PROTOCOL"))?;
        if key.trim().eq_ignore_ascii_case(name) {
            return SecurityProtocol::parse(protocol)
                .ok_or_else(|| format!("'{protocol}' is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"));
        }
    }
    SecurityProtocol::parse(name).ok_or_else(|| {
        format!("no security protocol is defined for listener {name} in listener.security.protocol.map")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, name, host, port, address) in [
            ("PLAINTEXT://:9092", "PLAINTEXT", "", 9092, ":9092"),
            ("PLAINTEXT://127.0.0.1:0", "PLAINTEXT", "127.0.0.1", 0, "127.0.0.1:0"),
            ("outside://broker.example:19092", "OUTSIDE", "broker.example", 19092, "broker.example:19092"),
            ("A_B-1://[::1]:9092", "A_B-1", "::1", 9092, "[::1]:9092"),
            ("localhost:9092", "PLAINTEXT", "localhost", 9092, "localhost:9092"),
        ] {
            let endpoint = parse_endpoint(text).unwrap();
            assert_eq!((endpoint.name.as_str(), endpoint.host.as_str(), endpoint.port), (name, host, port));
            assert_eq!(endpoint.address(), address);
        }
        let wrong = [
            "",
            "x",
            "PLAINTEXT://h",
            "PLAINTEXT://h:99999",
            "://h:1",
            "P://::1:9092",
            "P://[x]:1",
            "P://[::1:9",
        ];
        for text in wrong {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls() {
        let parsed = |text| parse_url(text, "/usual").map(|(endpoint, path)| (endpoint.address(), path));
        for (text, address, path) in [
            ("http://collector:4318", "collector:4318", "/usual"),
            ("http://[::1]:4318/", "[::1]:4318", "/usual"),
            ("http://h:1/a/b?c", "h:1", "/a/b?c"),
        ] {
            assert_eq!(parsed(text), Ok((address.to_owned(), path.to_owned())));
        }
        for text in [
            "",
            "collector:4318",
            "https://h:1",
            "http://h",
            "http://:1",
            "http://h:1/a b",
            "http://h:1/\r\n",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn protocols() {
        let map = vec!["CONTROLLER:PLAINTEXT".to_owned(), "Outside : SASL_SSL".to_owned()];
        assert_eq!(protocol_of("OUTSIDE", &map), Ok(SecurityProtocol::SaslSsl));
        assert_eq!(protocol_of("SSL", &map), Ok(SecurityProtocol::Ssl));
        assert!(protocol_of("INSIDE", &map).is_err());
        assert!(protocol_of("X", &["X:FOO".to_owned()]).is_err());
        assert!(protocol_of("X", &["FOO".to_owned()]).is_err());
    }
}
