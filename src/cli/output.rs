//! What goes to standard output: tables for people, JSON for scripts, progress on standard error.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::failure::{FAILED, Failure};

/// A table with no lines, so that `awk` and `cut` read it too; a column whose title begins with `>` is set to the right.
pub fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    let shown: Vec<_> = titles.iter().map(|title| title.trim_start_matches('>')).collect();
    table.load_style(NOTHING).set_header(shown);
    for (column, title) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub fn print_table(table: &Table) -> Result<(), Failure> {
    print(&format!("{}\n", table.trim_fmt()))
}

pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(FAILED, format!("no JSON: {error}")))?;
    print(&format!("{text}\n"))
}

pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Whoever has closed the pipe has seen enough; that is not a failure.
pub fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(FAILED, format!("standard output: {error}"))),
    }
}

/// A bar over `total` bytes or things, drawn only where a person watches standard error.
pub fn progress(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// The same where the end is not known.
pub fn spinner(message: impl Into<String>) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message.into());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What was done, in a line.
pub fn done(json: bool, text: &str) -> Result<(), Failure> {
    if json { print_json(&serde_json::json!({ "result": text })) } else { print(&format!("{text}\n")) }
}

/// `1,2,3`
pub fn joined(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// Bytes as people read them.
pub fn bytes(count: i64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size.abs() < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
