//! The parser of the schema notation; `schema/README.md` explains the notation to a reader.
//!
//! The build script turns its result into code, and `tests/protocol.rs` includes this very file to make messages of its
//! own from the schema, so that the generated code is checked against the schema and not against itself.

use std::fmt;
use std::iter::Peekable;
use std::path::Path;

/// An inclusive range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub min: i16,
    pub max: i16,
}

impl Versions {
    pub fn within(self, outer: Versions) -> bool {
        outer.min <= self.min && self.max <= outer.max
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    Data,
}

/// One message: a request, a response, or a record kept in a log.
#[derive(Debug)]
pub struct Message {
    pub name: String,
    pub kind: Kind,
    /// The API's key, or the type number of a record; none for data that has none.
    pub key: Option<i16>,
    /// The API's name, or the data's.
    pub family: String,
    pub versions: Versions,
    /// What ApiVersions tells clients, where it is not what is served.
    pub advertised: Versions,
    /// The first flexible version.
    pub flexible: Option<i16>,
    /// The message's own struct first, then those it contains.
    pub structs: Vec<Struct>,
}

impl Message {
    pub fn find(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|s| s.name == name)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|from| version >= from)
    }
}

#[derive(Debug)]
pub struct Struct {
    pub name: String,
    pub versions: Versions,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub array: bool,
    pub nullable: Option<Versions>,
    pub versions: Versions,
    pub tag: Option<u32>,
    /// As written; none means the type's zero, or an empty value.
    pub default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U16,
    U32,
    F64,
    String,
    Bytes,
    Records,
    Uuid,
    Struct(String),
}

#[derive(Debug)]
pub struct SchemaError {
    line: usize,
    what: String,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

type Result<T> = std::result::Result<T, SchemaError>;

/// Every message of every `*.schema` file of a directory, in the order of the file names.
pub fn load(directory: &Path) -> std::result::Result<Vec<Message>, String> {
    let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "schema"));
    paths.sort();
    let mut messages = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        messages.extend(parse(&text).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(messages)
}

struct Line<'t> {
    number: usize,
    indent: usize,
    words: Vec<&'t str>,
}

impl Line<'_> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(SchemaError { line: self.number, what: what.into() })
    }
}

/// The head of a file: what is said once for all its messages.
struct Head {
    api: bool,
    family: String,
    key: Option<i16>,
    versions: Versions,
    advertised: Versions,
    flexible: Option<i16>,
}

pub fn parse(text: &str) -> Result<Vec<Message>> {
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|(index, line)| Line {
            number: index + 1,
            indent: line.len() - line.trim_start().len(),
            words: line.split_whitespace().collect(),
        })
        .peekable();
    let head = parse_head(&mut lines)?;
    let mut messages = Vec::new();
    while let Some(line) = lines.next() {
        let (kind, suffix) = match (head.api, line.words.as_slice()) {
            (true, ["request"]) => (Kind::Request, "Request"),
            (true, ["response"]) => (Kind::Response, "Response"),
            (false, ["fields"]) => (Kind::Data, ""),
            _ => return line.error("expected `request`, `response` or `fields`"),
        };
        let name = format!("{}{suffix}", head.family);
        let mut structs = Vec::new();
        parse_struct(&mut lines, &name, head.versions, 4, head.versions, &mut structs)?;
        messages.push(Message {
            name,
            kind,
            key: head.key,
            family: head.family.clone(),
            versions: head.versions,
            advertised: head.advertised,
            flexible: head.flexible,
            structs,
        });
    }
    Ok(messages)
}

fn parse_head<'t>(lines: &mut Peekable<impl Iterator<Item = Line<'t>>>) -> Result<Head> {
    let Some(line) = lines.next() else {
        return Err(SchemaError { line: 0, what: "the file is empty".into() });
    };
    let (api, family, key) = match line.words.as_slice() {
        ["api", name, key] => (true, name.to_string(), Some(number(&line, key)?)),
        ["data", name, key] => (false, name.to_string(), Some(number(&line, key)?)),
        ["data", name] => (false, name.to_string(), None),
        _ => return line.error("expected `api NAME KEY` or `data NAME [KEY]`"),
    };
    let Some(line) = lines.next() else {
        return line.error("expected `versions` below");
    };
    let any = Versions { min: 0, max: i16::MAX };
    let versions = match line.words.as_slice() {
        ["versions", versions] => parse_versions(&line, versions, any)?,
        _ => return line.error("expected `versions MIN-MAX`"),
    };
    let mut head = Head { api, family, key, versions, advertised: versions, flexible: None };
    while let Some(line) = lines.next_if(|line| matches!(line.words[0], "advertised" | "flexible")) {
        match line.words.as_slice() {
            ["advertised", range] => head.advertised = parse_versions(&line, range, any)?,
            ["flexible", from] => head.flexible = Some(parse_versions(&line, from, any)?.min),
            _ => return line.error("expected one range"),
        }
    }
    Ok(head)
}

/// Reads the fields at `indent`, with the structs they open, into `structs`, this struct in front of its own.
fn parse_struct<'t>(
    lines: &mut Peekable<impl Iterator<Item = Line<'t>>>,
    name: &str,
    versions: Versions,
    indent: usize,
    all: Versions,
    structs: &mut Vec<Struct>,
) -> Result<()> {
    let at = structs.len();
    structs.push(Struct { name: name.to_string(), versions, fields: Vec::new() });
    while let Some(line) = lines.next_if(|line| line.indent == indent) {
        if let ["struct", name] = line.words.as_slice() {
            parse_struct(lines, name, versions, indent + 4, all, structs)?;
            continue;
        }
        let field = parse_field(&line, versions, all)?;
        if let Type::Struct(name) = &field.ty
            && lines.peek().is_some_and(|next| next.indent == indent + 4)
        {
            if structs.iter().any(|s| s.name == *name) {
                return line.error(format!("struct {name} is there already"));
            }
            parse_struct(lines, name, field.versions, indent + 4, all, structs)?;
        }
        structs[at].fields.push(field);
    }
    Ok(())
}

/// `name type[?[VERSIONS]] [VERSIONS] [tag N] [= DEFAULT]`
fn parse_field(line: &Line<'_>, parent: Versions, all: Versions) -> Result<Field> {
    let [name, ty, rest @ ..] = line.words.as_slice() else {
        return line.error("expected `name type`");
    };
    let mut rest = rest;
    let mut versions = parent;
    let (mut tag, mut default) = (None, None);
    if let [range, tail @ ..] = rest
        && range.starts_with(|c: char| c.is_ascii_digit())
    {
        versions = parse_versions(line, range, all)?;
        rest = tail;
    }
    if let ["tag", n, tail @ ..] = rest {
        tag = Some(number(line, n)?);
        rest = tail;
    }
    if let ["=", value, tail @ ..] = rest {
        default = Some(value.to_string());
        rest = tail;
    }
    if !rest.is_empty() || !versions.within(parent) {
        return line.error(format!("cannot read `{}`", line.words.join(" ")));
    }
    let (ty, nullable) = match ty.split_once('?') {
        None => (*ty, None),
        Some((ty, "")) => (ty, Some(versions)),
        Some((ty, range)) => (ty, Some(parse_versions(line, range, all)?)),
    };
    if nullable.is_some_and(|nullable| !nullable.within(versions)) {
        return line.error("nullable outside the field's versions");
    }
    let (ty, array) = match ty.strip_prefix('[').and_then(|ty| ty.strip_suffix(']')) {
        Some(ty) => (ty, true),
        None => (ty, false),
    };
    Ok(Field { name: name.to_string(), ty: parse_type(line, ty)?, array, nullable, versions, tag, default })
}

fn parse_type(line: &Line<'_>, word: &str) -> Result<Type> {
    Ok(match word {
        "bool" => Type::Bool,
        "i8" => Type::I8,
        "i16" => Type::I16,
        "i32" => Type::I32,
        "i64" => Type::I64,
        "u16" => Type::U16,
        "u32" => Type::U32,
        "f64" => Type::F64,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "records" => Type::Records,
        "uuid" => Type::Uuid,
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => Type::Struct(name.to_string()),
        _ => return line.error(format!("unknown type `{word}`")),
    })
}

/// `3`, `3-5`, or `3+` for all from 3 up to the message's last.
fn parse_versions(line: &Line<'_>, word: &str, all: Versions) -> Result<Versions> {
    if let Some(min) = word.strip_suffix('+') {
        return Ok(Versions { min: number(line, min)?, max: all.max });
    }
    match word.split_once('-') {
        Some((min, max)) => Ok(Versions { min: number(line, min)?, max: number(line, max)? }),
        None => number(line, word).map(|version| Versions { min: version, max: version }),
    }
}

fn number<N: std::str::FromStr>(line: &Line<'_>, word: &str) -> Result<N> {
    word.parse().or_else(|_| line.error(format!("`{word}` is not a number")))
}
