//! The APIs: their keys, their versions, and which header goes with which version. The table comes from `schema/`.

include!(concat!(env!("OUT_DIR"), "/api_key.rs"));

/// The versions of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersions {
    /// What ApiVersions announces as the first. Below `min` only where clients refuse to talk to us otherwise.
    pub advertised_min: i16,
    /// What ApiVersions announces as the last. Below `max` where Kafka calls the last version unstable.
    pub advertised_max: i16,
    /// The first that is served.
    pub min: i16,
    pub max: i16,
}

/// What the table holds of one API.
struct Facts {
    name: &'static str,
    versions: ApiVersions,
    /// The first flexible version, or `i16::MAX`.
    flexible: i16,
}

impl ApiKey {
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Kafka's name, without "Request".
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    pub const fn versions(self) -> ApiVersions {
        self.facts().versions
    }

    pub const fn is_served(self, version: i16) -> bool {
        let versions = self.versions();
        versions.min <= version && version <= versions.max
    }

    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.facts().flexible
    }

    /// 2 has tagged fields, 1 has none. Defined for versions that are not served, too, since the header is read first.
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// 1 has tagged fields, 0 has none. The answer to ApiVersions never has them: the client may not know our versions yet.
    pub const fn response_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) && !matches!(self, ApiKey::ApiVersions) { 1 } else { 0 }
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// No API has this key, or none that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownApiKey(pub i16);

impl std::error::Error for UnknownApiKey {}

impl std::fmt::Display for UnknownApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown API key {}", self.0)
    }
}
