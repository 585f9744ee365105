//! Subscriptions by regular expression: RE2's syntax, which is what Kafka takes, on top of the `regex` crate.
//!
//! Both descend from RE2, yet each takes what the other refuses: here nested sets, verbose mode and doubled repetitions, there
//! `\Q…\E`, octal escapes and a lone brace. So a pattern is read as RE2 reads it and written anew for the crate; what RE2
//! refuses is refused in RE2/J's words, which clients see. A pattern is as cheap to match as a name is long, however it is made.

use std::collections::BTreeSet;
use std::fmt::Write;

use regex::{Regex, RegexBuilder};

/// Longer ones are refused, unlike by Kafka.
const PATTERN_BYTES_MAX: usize = 32 * 1024;
/// What a compiled pattern may take; larger ones are refused, unlike by Kafka.
const COMPILED_BYTES_MAX: usize = 4 << 20;
const REPEAT_MAX: u32 = 1000;

const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const NESTED_REPETITION: &str = "invalid nested repetition operator";
const REPEAT_COUNT: &str = "invalid repeat count";
const BAD_ESCAPE: &str = "invalid escape sequence";
const BAD_RANGE: &str = "invalid character class range";
const BAD_PERL: &str = "invalid or unsupported Perl syntax";
const BAD_NAME: &str = "invalid named capture";
const DUPLICATE_NAME: &str = "duplicate capture group name";
const MISSING_BRACKET: &str = "missing closing ]";
const MISSING_PAREN: &str = "missing closing )";
const TRAILING_BACKSLASH: &str = "trailing backslash at end of expression";
const UNDERFLOW: &str = "regexp/syntax: internal error";
const TOO_LARGE: &str = "expression is too large";

/// Matches whole topic names.
#[derive(Clone, Debug)]
pub struct TopicRegex(Regex);

impl TopicRegex {
    /// The error says what is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<TopicRegex, &'static str> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        let mut translation = Translation::new(pattern);
        translation.run()?;
        let whole = format!(r"\A(?:{})\z", translation.out);
        let compiled = RegexBuilder::new(&whole).size_limit(COMPILED_BYTES_MAX).build();
        compiled.map(TopicRegex).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => TOO_LARGE,
            // What is left to the crate to refuse: Unicode classes it does not know, and too deep a nesting.
            _ => BAD_RANGE,
        })
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

struct Translation<'p> {
    rest: &'p str,
    out: String,
    open: usize,
    names: BTreeSet<&'p str>,
}

/// What stands before a repetition operator.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Item,
    Repetition,
}

impl<'p> Translation<'p> {
    fn new(pattern: &'p str) -> Self {
        Translation { rest: pattern, out: String::new(), open: 0, names: BTreeSet::new() }
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn skip(&mut self, prefix: &str) -> bool {
        self.rest.strip_prefix(prefix).map(|rest| self.rest = rest).is_some()
    }

    fn run(&mut self) -> Result<(), &'static str> {
        let mut before = Before::Nothing;
        while let Some(c) = self.rest.chars().next() {
            before = match c {
                '*' | '+' | '?' => {
                    self.next();
                    self.repetition(before, c.to_string())?
                }
                '{' => match self.braces()? {
                    Some(braces) => self.repetition(before, braces)?,
                    None => {
                        self.next();
                        self.literal('{')
                    }
                },
                '(' => self.group()?,
                ')' => {
                    self.next();
                    self.open = self.open.checked_sub(1).ok_or(UNDERFLOW)?;
                    self.item(")")
                }
                '|' => {
                    self.next();
                    self.out.push('|');
                    Before::Nothing
                }
                '[' => self.class()?,
                '\\' => self.escape()?,
                '^' | '$' | '.' => {
                    self.next();
                    self.item(c.encode_utf8(&mut [0; 4]))
                }
                c => {
                    self.next();
                    self.literal(c)
                }
            };
        }
        if self.open > 0 { Err(MISSING_PAREN) } else { Ok(()) }
    }

    fn item(&mut self, text: &str) -> Before {
        self.out.push_str(text);
        Before::Item
    }

    fn literal(&mut self, c: char) -> Before {
        put_char(&mut self.out, c);
        Before::Item
    }

    fn repetition(&mut self, before: Before, operator: String) -> Result<Before, &'static str> {
        match before {
            Before::Nothing => return Err(MISSING_ARGUMENT),
            Before::Repetition => return Err(NESTED_REPETITION),
            Before::Item => {}
        }
        self.out.push_str(&operator);
        if self.skip("?") {
            self.out.push('?');
        }
        Ok(Before::Repetition)
    }

    /// `{n}`, `{n,}` or `{n,m}`; none if the brace is but a brace.
    fn braces(&mut self) -> Result<Option<String>, &'static str> {
        let Some((inner, rest)) = self.rest[1..].split_once('}') else { return Ok(None) };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (min, max) = inner.split_once(',').map_or((inner, None), |(min, max)| (min, Some(max)));
        if !is_number(min) || max.is_some_and(|max| !max.is_empty() && !is_number(max)) {
            return Ok(None);
        }
        let number = |text: &str| text.parse().ok().filter(|&n: &u32| n <= REPEAT_MAX).ok_or(REPEAT_COUNT);
        let least = number(min)?;
        if let Some(max) = max.filter(|max| !max.is_empty())
            && number(max)? < least
        {
            return Err(REPEAT_COUNT);
        }
        self.rest = rest;
        Ok(Some(format!("{{{inner}}}")))
    }

    /// What is captured does not matter: every group becomes one that captures nothing.
    fn group(&mut self) -> Result<Before, &'static str> {
        self.next();
        let mut opens = "(?:".to_string();
        if self.skip("?P<") || self.skip("?<") {
            let (name, rest) = self.rest.split_once('>').ok_or(BAD_NAME)?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(BAD_NAME);
            }
            if !self.names.insert(name) {
                return Err(DUPLICATE_NAME);
            }
            self.rest = rest;
        } else if self.skip("?") {
            let end = self.rest.find([':', ')']).ok_or(BAD_PERL)?;
            let (flags, rest) = self.rest.split_at(end);
            if !are_flags(flags, rest.starts_with(':')) {
                return Err(BAD_PERL);
            }
            self.rest = &rest[1..];
            if rest.starts_with(')') {
                // For the rest of the group around it; nothing that could be repeated.
                let _ = write!(self.out, "(?{flags})");
                return Ok(Before::Nothing);
            }
            opens = format!("(?{flags}:");
        }
        self.open += 1;
        self.out.push_str(&opens);
        Ok(Before::Nothing)
    }

    fn escape(&mut self) -> Result<Before, &'static str> {
        if self.skip(r"\Q") {
            let (text, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
            text.chars().for_each(|c| put_char(&mut self.out, c));
            self.rest = rest;
            return Ok(Before::Item);
        }
        for (from, to) in [(r"\A", r"\A"), (r"\b", r"\b"), (r"\B", r"\B"), (r"\z", r"\z")] {
            if self.skip(from) {
                return Ok(self.item(to));
            }
        }
        match self.class_escape()? {
            Some(class) => Ok(self.item(&class)),
            None => {
                let c = self.escaped_char()?;
                Ok(self.literal(c))
            }
        }
    }

    /// `\d` and its like, `\pL`, `\p{Greek}`: the same inside brackets and outside; none for another escape.
    fn class_escape(&mut self) -> Result<Option<String>, &'static str> {
        const PERL: [(&str, &str); 6] = [
            (r"\d", "[0-9]"),
            (r"\D", "[^0-9]"),
            (r"\s", r"[\t\n\x0C\r ]"),
            (r"\S", r"[^\t\n\x0C\r ]"),
            (r"\w", "[0-9A-Za-z_]"),
            (r"\W", "[^0-9A-Za-z_]"),
        ];
        for (from, to) in PERL {
            if self.skip(from) {
                return Ok(Some(to.to_string()));
            }
        }
        let mut is_negated = self.rest.starts_with(r"\P");
        if !is_negated && !self.rest.starts_with(r"\p") {
            return Ok(None);
        }
        self.rest = &self.rest[2..];
        let name = if self.skip("{") {
            let (name, rest) = self.rest.split_once('}').ok_or(BAD_RANGE)?;
            self.rest = rest;
            name.to_string()
        } else {
            self.next().ok_or(BAD_RANGE)?.to_string()
        };
        let mut name = name.as_str();
        if let Some(positive) = name.strip_prefix('^') {
            (name, is_negated) = (positive, !is_negated);
        }
        if !is_unicode_class(name) {
            return Err(BAD_RANGE);
        }
        Ok(Some(format!(r"\{}{{{name}}}", if is_negated { 'P' } else { 'p' })))
    }

    /// An escape that stands for one character.
    fn escaped_char(&mut self) -> Result<char, &'static str> {
        self.next();
        let c = self.next().ok_or(TRAILING_BACKSLASH)?;
        let is_octal = |c: Option<char>| c.is_some_and(|c| c.is_digit(8));
        let code = match c {
            '1'..='7' if !is_octal(self.rest.chars().next()) => return Err(BAD_ESCAPE),
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        self.next();
                    }
                }
                code
            }
            'x' => self.hexadecimal()?,
            'a' => 0x07,
            'f' => 0x0C,
            'n' => 0x0A,
            'r' => 0x0D,
            't' => 0x09,
            'v' => 0x0B,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => return Ok(c),
            _ => return Err(BAD_ESCAPE),
        };
        char::from_u32(code).ok_or(BAD_ESCAPE)
    }

    fn hexadecimal(&mut self) -> Result<u32, &'static str> {
        let digits = if self.skip("{") {
            let (digits, rest) = self.rest.split_once('}').ok_or(BAD_ESCAPE)?;
            self.rest = rest;
            digits
        } else {
            let (digits, rest) = self.rest.split_at_checked(2).ok_or(BAD_ESCAPE)?;
            self.rest = rest;
            digits
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_number.then(|| u32::from_str_radix(digits, 16).ok()).flatten();
        number.filter(|&number| number <= 0x10FFFF).ok_or(BAD_ESCAPE)
    }

    fn class(&mut self) -> Result<Before, &'static str> {
        self.next();
        self.out.push('[');
        if self.skip("^") {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.rest.chars().next().ok_or(MISSING_BRACKET)?;
            if c == ']' && !is_first {
                self.next();
                self.out.push(']');
                return Ok(Before::Item);
            }
            is_first = false;
            if let Some(name) = self.posix_class()? {
                self.out.push_str(&name);
            } else if let Some(class) = if c == '\\' { self.class_escape()? } else { None } {
                self.out.push_str(&class);
            } else {
                self.range()?;
            }
        }
    }

    /// `[:alpha:]` and its like.
    fn posix_class(&mut self) -> Result<Option<String>, &'static str> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "word", "xdigit",
        ];
        let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
            return Ok(None);
        };
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(BAD_RANGE);
        }
        self.rest = rest;
        Ok(Some(format!("[:{name}:]")))
    }

    fn range(&mut self) -> Result<(), &'static str> {
        let low = self.class_char()?;
        put_char(&mut self.out, low);
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
            self.next();
            let high = self.class_char()?;
            if high < low {
                return Err(BAD_RANGE);
            }
            self.out.push('-');
            put_char(&mut self.out, high);
        }
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, &'static str> {
        match self.rest.chars().next() {
            Some('\\') => self.escaped_char(),
            _ => self.next().ok_or(MISSING_BRACKET),
        }
    }
}

/// So that it means itself everywhere.
fn put_char(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        let _ = write!(out, r"\x{{{:X}}}", u32::from(c));
    }
}

/// Letters out of `imsU`, with one dash that has some behind it.
fn are_flags(flags: &str, may_be_empty: bool) -> bool {
    let are = |text: &str| text.chars().all(|c| "imsU".contains(c));
    match flags.split_once('-') {
        Some((on, off)) => are(on) && are(off) && !off.is_empty(),
        None => are(flags) && (may_be_empty || !flags.is_empty()),
    }
}

/// RE2 knows general categories and scripts, by their exact names; the crate also takes other spellings.
fn is_unicode_class(name: &str) -> bool {
    const CATEGORIES: [&str; 37] = [
        "Any", "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N",
        "Nd", "Nl", "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z",
        "Zl", "Zp", "Zs",
    ];
    let is_script = name.len() > 2
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && !name.starts_with("Is")
        && name[1..].chars().all(|c| c.is_ascii_lowercase() || c == '_');
    CATEGORIES.contains(&name) || is_script
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What RE2/J, as it comes with Kafka 4.3, says of each pattern: an error, or which of the names it matches.
    #[test]
    fn as_re2_has_it() {
        let mut lines = include_str!("patterns.txt").lines();
        let names: Vec<_> = lines.next().unwrap().split('\t').collect();
        let mut count = 0;
        for line in lines {
            let (pattern, expected) = line.split_once('\t').unwrap();
            let found = match TopicRegex::new(pattern) {
                Ok(regex) => names.iter().map(|name| if regex.matches(name) { '1' } else { '0' }).collect(),
                Err(error) => format!("error {error}"),
            };
            assert_eq!(found, expected, "{pattern}");
            count += 1;
        }
        assert!(count > 120);
    }

    #[test]
    fn too_much_is_refused() {
        for pattern in
            ["(".repeat(10_000), "a".repeat(PATTERN_BYTES_MAX + 1), "((a{1000}){1000}){1000}".into()]
        {
            assert!(TopicRegex::new(&pattern).is_err());
        }
        let deep = format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(TopicRegex::new(&deep).is_err());
    }

    proptest! {
        #[test]
        fn no_pattern_hurts(pattern in r"[\[\](){}|*+?.^$\\a-dQEpPxPd:<>0-9,\-&~\pL]{0,24}") {
            if let Ok(regex) = TopicRegex::new(&pattern) {
                regex.matches("orders");
            }
        }
    }
}
