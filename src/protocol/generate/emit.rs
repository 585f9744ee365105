//! Writes the Rust code of the messages: one struct a schema struct, with `decode` and `encode`.
//!
//! Plain and short code, since everybody compiles it: what can be a generic method of the reader or the writer is one.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::schema::{Field, Kind, Message, Struct, Type, Versions};

type Result<T> = std::result::Result<T, String>;

/// The modules of all messages, and a macro that lists them for tests.
pub fn messages(messages: &[Message]) -> Result<String> {
    let mut out = String::new();
    for message in messages {
        let module = Module::new(message);
        module.check()?;
        module.emit(&mut out, messages);
    }
    emit_list(&mut out, messages);
    Ok(out)
}

/// The enum of the APIs and the table of their versions.
pub fn api_key(messages: &[Message]) -> String {
    let mut requests: Vec<_> =
        messages.iter().filter(|m| m.kind == Kind::Request).filter_map(|m| Some((m.key?, m))).collect();
    requests.sort_by_key(|(key, _)| *key);
    let mut out = String::from(
        "/// The APIs that are served, under Kafka's names and keys.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\npub enum ApiKey {\n",
    );
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for (key, request) in &requests {
        line(format!("    {} = {key},", request.family));
    }
    line("}\nimpl ApiKey {".into());
    line("    /// All, in the order of their keys.".into());
    line("    pub const ALL: &'static [ApiKey] = &[".into());
    for (_, request) in &requests {
        line(format!("        ApiKey::{},", request.family));
    }
    line("    ];\n    const fn facts(self) -> Facts {".into());
    line("        let (name, (advertised_min, advertised_max), min, max, flexible) = match self {".into());
    for (_, m) in &requests {
        let (name, v, adv) = (&m.family, m.versions, (m.advertised.min, m.advertised.max));
        let flexible = m.flexible.unwrap_or(i16::MAX);
        line(format!(
            "            ApiKey::{name} => (\"{name}\", {adv:?}, {}, {}, {flexible}),",
            v.min, v.max
        ));
    }
    line(
        "        };\n        Facts { name, versions: ApiVersions { advertised_min, advertised_max, min, max }, flexible }"
            .into(),
    );
    line("    }\n}\nimpl TryFrom<i16> for ApiKey {\n    type Error = UnknownApiKey;".into());
    line("    fn try_from(key: i16) -> Result<ApiKey, UnknownApiKey> {\n        Ok(match key {".into());
    for (key, request) in &requests {
        line(format!("            {key} => ApiKey::{},", request.family));
    }
    line("            _ => return Err(UnknownApiKey(key)),\n        })\n    }\n}".into());
    out
}

/// `each_message!(callback)` calls `callback! { kind module Name, ... }`.
fn emit_list(out: &mut String, messages: &[Message]) {
    out.push_str(
        "#[doc(hidden)]\n#[macro_export]\nmacro_rules! each_message {\n    ($callback:ident) => {\n",
    );
    out.push_str("        $callback! {\n");
    for message in messages {
        let kind = match message.kind {
            Kind::Request => "request",
            Kind::Response => "response",
            Kind::Data => "data",
        };
        let _ = writeln!(out, "            {kind} {} {},", snake(&message.name), message.name);
    }
    out.push_str("        }\n    };\n}\n");
}

struct Module<'m> {
    message: &'m Message,
    /// The structs that borrow.
    borrowing: BTreeSet<&'m str>,
}

impl<'m> Module<'m> {
    fn new(message: &'m Message) -> Self {
        let mut borrowing = BTreeSet::new();
        // Structs stand before those they contain, so from the back one pass is enough unless a shared one stands last.
        for _ in 0..message.structs.len() {
            for s in message.structs.iter().rev() {
                let borrows = |f: &Field| match &f.ty {
                    _ if f.array => true,
                    Type::String | Type::Bytes | Type::Records => true,
                    Type::Struct(name) => borrowing.contains(name.as_str()),
                    _ => false,
                };
                if s.fields.iter().any(borrows) {
                    borrowing.insert(s.name.as_str());
                }
            }
        }
        Module { message, borrowing }
    }

    /// What the notation allows but this generator does not do.
    fn check(&self) -> Result<()> {
        for s in &self.message.structs {
            for f in &s.fields {
                let at = format!("{}: {}.{}", self.message.name, s.name, f.name);
                if let Type::Struct(name) = &f.ty
                    && self.message.find(name).is_none()
                {
                    return Err(format!("{at}: no struct {name}"));
                }
                if f.tag.is_some() && !self.message.is_flexible(f.versions.min) {
                    return Err(format!("{at}: a tagged field in a version that is not flexible"));
                }
                if f.tag.is_some() && (f.ty == Type::Records || f.nullable.is_some_and(|n| n != f.versions)) {
                    return Err(format!("{at}: records, or null in some versions, cannot be tagged"));
                }
                if f.ty == Type::Records && f.nullable.is_none() {
                    return Err(format!("{at}: records are always nullable"));
                }
                if !f.array && matches!(f.ty, Type::Struct(_)) && f.nullable.is_some_and(|n| n != f.versions)
                {
                    return Err(format!("{at}: a struct is nullable in all versions or none"));
                }
                if f.nullable.is_none() && f.default.as_deref() == Some("null") {
                    return Err(format!("{at}: null by default, but not nullable"));
                }
            }
        }
        Ok(())
    }

    fn emit(&self, out: &mut String, messages: &[Message]) {
        let message = self.message;
        let name = &message.name;
        let _ = writeln!(out, "#[allow(unused, clippy::all)]\npub mod {} {{", snake(name));
        out.push_str("use std::borrow::Cow;\n");
        out.push_str("use crate::protocol::array::Array;\nuse crate::protocol::reader::{Reader, Result};\n");
        out.push_str("use crate::protocol::records::Records;\nuse crate::protocol::uuid::Uuid;\n");
        out.push_str("use crate::protocol::writer::Writer;\n");
        for s in &message.structs {
            self.emit_struct(out, s);
        }
        let flexible = message.flexible.unwrap_or(i16::MAX);
        let Versions { min, max } = message.versions;
        let _ = writeln!(out, "generated_message!({}, {min}, {max}, {flexible});", self.rust_name(name));
        let response = messages.iter().find(|m| {
            message.kind == Kind::Request && m.kind == Kind::Response && m.family == message.family
        });
        if let Some(response) = response {
            let _ = writeln!(out, "use super::{}::{};", snake(&response.name), response.name);
            let life = if Module::new(response).borrowing.contains(&*response.name) { "<'r>" } else { "" };
            let (request, family) = (self.rust_name(name), &message.family);
            let _ = writeln!(out, "generated_request!({request}, {family}, {}{life});", response.name);
        } else if let (Kind::Data, Some(key)) = (message.kind, message.key) {
            let _ = writeln!(out, "/// The record's type number.\npub const RECORD_TYPE: i16 = {key};");
        }
        out.push_str("}\n");
    }

    fn emit_struct(&self, out: &mut String, s: &Struct) {
        let name = self.rust_name(&s.name);
        let generics = if self.borrowing.contains(&*s.name) { "<'a>" } else { "" };
        let _ = writeln!(out, "#[derive(Clone, Debug, PartialEq)]\npub struct {name} {{");
        for f in &s.fields {
            let _ = writeln!(out, "    pub {}: {},", ident(&f.name), self.rust_type(f));
        }
        let _ = writeln!(
            out,
            "}}\nimpl{generics} Default for {name} {{\n    fn default() -> Self {{\n        Self {{"
        );
        for f in &s.fields {
            let _ = writeln!(out, "            {}: {},", ident(&f.name), default(f));
        }
        out.push_str("        }\n    }\n}\n");
        // A struct with no lifetime of its own still is read from a reader that has one.
        let reader = if generics.is_empty() { "Reader<'_>" } else { "Reader<'a>" };
        let _ = writeln!(out, "impl{generics} {name} {{");
        // Going over an array decodes it anew, and mostly for a few fields.
        let inline = if s.name == self.message.name { "" } else { "    #[inline]\n" };
        let _ = writeln!(out, "{inline}    pub fn decode(r: &mut {reader}, version: i16) -> Result<Self> {{");
        self.emit_decode(out, s);
        out.push_str("    }\n    pub fn encode(&self, w: &mut Writer, version: i16) {\n");
        self.emit_encode(out, s);
        out.push_str("    }\n}\n");
        let _ = writeln!(out, "generated_struct!({name});");
    }

    fn emit_decode(&self, out: &mut String, s: &Struct) {
        let tagged: Vec<_> = s.fields.iter().filter(|f| f.tag.is_some()).collect();
        let _ = writeln!(out, "        let flexible = {};", self.flexible(s));
        let _ = writeln!(out, "        let {}value = Self {{", if tagged.is_empty() { "" } else { "mut " });
        for f in &s.fields {
            let value = match (f.tag, condition(f.versions, s.versions)) {
                (Some(_), _) => default(f),
                (None, None) => self.read(f),
                (None, Some(test)) => format!("if {test} {{ {} }} else {{ {} }}", self.read(f), default(f)),
            };
            let _ = writeln!(out, "            {}: {value},", ident(&f.name));
        }
        out.push_str("        };\n");
        if tagged.is_empty() {
            out.push_str("        if flexible { r.skip_tags()?; }\n");
        } else {
            out.push_str(
                "        if flexible {\n            r.tags(|r, tag| {\n                match tag {\n",
            );
            for f in tagged {
                let test =
                    condition(f.versions, s.versions).map(|test| format!(" if {test}")).unwrap_or_default();
                let (tag, name, read) = (f.tag.unwrap_or_default(), ident(&f.name), self.read(f));
                let _ = writeln!(out, "                    {tag}{test} => value.{name} = {read},");
            }
            out.push_str("                    _ => return Ok(false),\n                }\n");
            out.push_str("                Ok(true)\n            })?;\n        }\n");
        }
        out.push_str("        Ok(value)\n");
    }

    fn emit_encode(&self, out: &mut String, s: &Struct) {
        let _ = writeln!(out, "        let flexible = {};", self.flexible(s));
        for f in s.fields.iter().filter(|f| f.tag.is_none()) {
            let write = self.write(f, "w");
            match condition(f.versions, s.versions) {
                None => drop(writeln!(out, "        {write};")),
                Some(test) => drop(writeln!(out, "        if {test} {{ {write}; }}")),
            }
        }
        let mut tagged: Vec<_> = s.fields.iter().filter(|f| f.tag.is_some()).collect();
        tagged.sort_by_key(|f| f.tag);
        if tagged.is_empty() {
            out.push_str("        if flexible { w.put_no_tags(); }\n");
            return;
        }
        for (index, f) in tagged.iter().enumerate() {
            let set = differs(f);
            let test =
                condition(f.versions, s.versions).map_or(set.clone(), |test| format!("{test} && {set}"));
            let _ = writeln!(out, "        let tag_{index} = {test};");
        }
        let count: Vec<_> = (0..tagged.len()).map(|index| format!("u32::from(tag_{index})")).collect();
        out.push_str("        if flexible {\n");
        let _ = writeln!(out, "            w.put_unsigned_varint({});", count.join(" + "));
        for (index, f) in tagged.iter().enumerate() {
            let (tag, write) = (f.tag.unwrap_or_default(), self.write(f, "w"));
            let _ = writeln!(out, "            if tag_{index} {{ w.put_tag({tag}, |w| {write}); }}");
        }
        out.push_str("        }\n");
    }

    /// The expression that tells whether the version is flexible, as far as this struct's versions leave it open.
    fn flexible(&self, s: &Struct) -> String {
        match self.message.flexible {
            Some(from) if from <= s.versions.min => "true".into(),
            Some(from) if from <= s.versions.max => format!("version >= {from}"),
            _ => "false".into(),
        }
    }

    fn rust_name(&self, name: &str) -> String {
        format!("{name}{}", if self.borrowing.contains(name) { "<'a>" } else { "" })
    }

    fn rust_type(&self, f: &Field) -> String {
        let mut ty = match &f.ty {
            Type::Bool => "bool".into(),
            Type::I8 => "i8".into(),
            Type::I16 => "i16".into(),
            Type::I32 => "i32".into(),
            Type::I64 => "i64".into(),
            Type::U16 => "u16".into(),
            Type::U32 => "u32".into(),
            Type::F64 => "f64".into(),
            Type::String => "Cow<'a, str>".into(),
            Type::Bytes => "Cow<'a, [u8]>".into(),
            Type::Records => "Records<'a>".into(),
            Type::Uuid => "Uuid".into(),
            Type::Struct(name) => self.rust_name(name),
        };
        if f.array {
            ty = format!("Array<'a, {ty}>");
        }
        if f.nullable.is_some() {
            ty = format!("Option<{ty}>");
        }
        ty
    }

    fn read(&self, f: &Field) -> String {
        let name = &f.name;
        let read = |nullable: &str| {
            if f.array {
                return format!("r.{nullable}array(\"{name}\", version, flexible)?");
            }
            match &f.ty {
                Type::Struct(_) if !nullable.is_empty() && f.tag.is_some() => {
                    format!("r.nullable_tagged_struct(\"{name}\", version, flexible)?")
                }
                Type::Struct(_) if !nullable.is_empty() => {
                    format!("r.nullable_struct(\"{name}\", version, flexible)?")
                }
                Type::Struct(name) => format!("{name}::decode(r, version)?"),
                Type::String | Type::Bytes | Type::Records => {
                    format!("r.{nullable}{}(\"{name}\", flexible)?", method(&f.ty))
                }
                ty => format!("r.{}(\"{name}\")?", method(ty)),
            }
        };
        match f.nullable {
            None => read(""),
            Some(nullable) => match condition(nullable, f.versions) {
                None => read("nullable_"),
                Some(test) => format!("if {test} {{ {} }} else {{ Some({}) }}", read("nullable_"), read("")),
            },
        }
    }

    fn write(&self, f: &Field, w: &str) -> String {
        let name = ident(&f.name);
        let nullable = if f.nullable.is_some() { "nullable_" } else { "" };
        let method = if f.array { "array" } else { method(&f.ty) };
        // Null in a version that knows none becomes empty.
        let null = f.nullable.and_then(|nullable| condition(nullable, f.versions));
        match (&f.ty, f.array) {
            (Type::Struct(_), false) if nullable.is_empty() => format!("self.{name}.encode({w}, version)"),
            (Type::Struct(_), false) if f.tag.is_some() => {
                format!("{w}.put_nullable_tagged_struct(self.{name}.as_ref(), version, flexible)")
            }
            (_, true) | (Type::Struct(_), false) => match (nullable.is_empty(), null) {
                (true, _) => format!("{w}.put_{method}(&self.{name}, version, flexible)"),
                (false, None) => {
                    format!("{w}.put_nullable_{method}(self.{name}.as_ref(), version, flexible)")
                }
                (false, Some(test)) => {
                    format!("{w}.put_{method}_or_null(self.{name}.as_ref(), {test}, version, flexible)")
                }
            },
            (Type::Records, _) => format!("{w}.put_nullable_records(self.{name}.as_ref(), flexible)"),
            (Type::String | Type::Bytes, _) => {
                let empty = if f.ty == Type::String { "\"\"" } else { "b\"\".as_slice()" };
                let value = match (nullable.is_empty(), null) {
                    (true, _) => format!("&self.{name}"),
                    (false, None) => format!("self.{name}.as_deref()"),
                    (false, Some(test)) => {
                        format!("self.{name}.as_deref().or(if {test} {{ None }} else {{ Some({empty}) }})")
                    }
                };
                format!("{w}.put_{nullable}{method}({value}, flexible)")
            }
            _ => format!("{w}.put_{method}(self.{name})"),
        }
    }
}

/// The name of the reader's and the writer's method.
fn method(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::I8 => "i8",
        Type::I16 => "i16",
        Type::I32 => "i32",
        Type::I64 => "i64",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::F64 => "f64",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Records => "records",
        Type::Uuid => "uuid",
        Type::Struct(_) => "struct",
    }
}

/// The test that a version, known to be of `outer`, is of `inner`; none if it always is.
fn condition(inner: Versions, outer: Versions) -> Option<String> {
    match (inner.min > outer.min, inner.max < outer.max) {
        (false, false) => None,
        (true, false) => Some(format!("version >= {}", inner.min)),
        (false, true) => Some(format!("version <= {}", inner.max)),
        (true, true) => Some(format!("(version >= {} && version <= {})", inner.min, inner.max)),
    }
}

fn default(f: &Field) -> String {
    // Kafka's records are null by default without saying so.
    if f.default.as_deref() == Some("null") || f.ty == Type::Records {
        return "None".into();
    }
    let value = match (&f.ty, &f.default) {
        _ if f.array => "Array::default()".into(),
        (Type::String, value) => format!("Cow::Borrowed(\"{}\")", value.as_deref().unwrap_or_default()),
        (Type::Bytes, _) => "Cow::Borrowed(b\"\")".into(),
        (Type::Uuid, _) => "Uuid::ZERO".into(),
        (Type::Struct(name), _) => format!("{name}::default()"),
        (_, Some(value)) => value.clone(),
        (Type::Bool, None) => "false".into(),
        (Type::F64, None) => "0.0".into(),
        (_, None) => "0".into(),
    };
    if f.nullable.is_some() { format!("Some({value})") } else { value }
}

/// The test that a tagged field has another value than its default.
fn differs(f: &Field) -> String {
    let name = ident(&f.name);
    match default(f).as_str() {
        "None" => format!("self.{name}.is_some()"),
        "Array::default()" | "Cow::Borrowed(\"\")" => format!("!self.{name}.is_empty()"),
        value => format!("self.{name} != {value}"),
    }
}

/// A field's name, made safe where it is a word of Rust.
fn ident(name: &str) -> String {
    match name {
        "type" | "match" | "ref" | "move" | "final" | "use" => format!("r#{name}"),
        _ => name.into(),
    }
}

/// `KRaftVersionRecord` as `kraft_version_record`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<_> = name.replace("KRaft", "Kraft").chars().collect();
    for (index, c) in chars.iter().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
