//! Java's properties syntax, as `server.properties` is written: `key=value`, `key: value` or `key value`, comments with `#` or
//! `!`, lines continued by a backslash at their end, escapes (`\t`, `\n`, `\r`, `\f`, `\uXXXX`, any other character for itself).

/// One entry, with the number of the line where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub line: usize,
    pub key: String,
    pub value: String,
}

/// All entries in order; a key may come more than once (the last wins, as in Java).
pub fn parse(text: &str) -> Result<Vec<Property>, MalformedProperties> {
    let mut properties = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let first = first.trim_start_matches(BLANKS);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start_matches(BLANKS)),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        let unescape = |part: &str| unescape(part).ok_or(MalformedProperties { line: index + 1 });
        properties.push(Property { line: index + 1, key: unescape(key)?, value: unescape(value)? });
    }
    Ok(properties)
}

/// A `\u` without four hexadecimal digits behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedProperties {
    pub line: usize,
}

const BLANKS: [char; 3] = [' ', '\t', '\x0c'];

/// An odd number of backslashes at the end: an even one is escaped backslashes.
fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

/// The key ends at the first unescaped `=`, `:` or blank; blanks and one `=` or `:` separate it from the value.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || BLANKS.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return (line, "") };
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(BLANKS);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, value.trim_start_matches(BLANKS))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    // Java's \u escapes are UTF-16: a pair of them makes one character beyond the first plane.
    let mut units: Vec<u16> = Vec::new();
    let mut chars = text.chars();
    loop {
        let next = chars.next();
        let code_unit = match next {
            Some('\\') => match chars.next() {
                Some('u') => Some(hex4(&mut chars)?),
                Some(c) => {
                    flush(&mut units, &mut out);
                    out.push(match c {
                        't' => '\t',
                        'n' => '\n',
                        'r' => '\r',
                        'f' => '\x0c',
                        other => other,
                    });
                    None
                }
                None => None,
            },
            Some(c) => {
                flush(&mut units, &mut out);
                out.push(c);
                None
            }
            None => {
                flush(&mut units, &mut out);
                return Some(out);
            }
        };
        units.extend(code_unit);
    }
}

fn hex4(chars: &mut std::str::Chars<'_>) -> Option<u16> {
    let mut number = 0;
    for _ in 0..4 {
        number = number * 16 + chars.next()?.to_digit(16)?;
    }
    u16::try_from(number).ok()
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    out.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|property| (property.key, property.value)).collect()
    }

    #[test]
    fn the_syntax_of_java() {
        for (text, key, value) in [
            ("a=b", "a", "b"),
            ("  a = b ", "a", "b "),
            ("a: b", "a", "b"),
            ("a b c", "a", "b c"),
            ("a\t=\tb", "a", "b"),
            ("a", "a", ""),
            ("a=", "a", ""),
            ("a==b", "a", "=b"),
            ("a\\=b=c", "a=b", "c"),
            ("a\\ b=c", "a b", "c"),
            ("a=b\\\n   c", "a", "bc"),
            ("a=b\\\\\nx=y", "a", "b\\"),
            ("a=1\\t2\\n3\\q", "a", "1\t2\n3q"),
            ("a=\\u00e4\\ud83d\\ude00", "a", "ä😀"),
            ("a=b\\", "a", "b"),
            ("a=b # no comment", "a", "b # no comment"),
            ("a=b\r\n", "a", "b"),
        ] {
            assert_eq!(pairs(text)[0], (key.to_owned(), value.to_owned()), "{text:?}");
        }
        assert_eq!(pairs("# c\n! d\n\n   \n"), vec![]);
        assert_eq!(parse("x=1\n\ny=2\\\n3\nz=4").unwrap()[2].line, 5);
    }

    #[test]
    fn a_broken_escape_names_its_line() {
        assert_eq!(parse("a=b\nc=\\u12"), Err(MalformedProperties { line: 2 }));
        assert_eq!(parse("c=\\u12g4"), Err(MalformedProperties { line: 1 }));
    }
}
