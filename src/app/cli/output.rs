//! What commands print: tables for people, JSON for scripts.

use std::io::{BufWriter, Stdout, Write};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

/// Standard output in the form that was asked for.
pub(super) struct Output {
    is_json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, out: BufWriter::new(std::io::stdout()) }
    }

    /// Whether scripts read this.
    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    pub(super) fn table(&mut self, table: &Table) -> anyhow::Result<()> {
        if self.is_json { self.json(&table.to_json()) } else { Ok(table.write(&mut self.out)?) }
    }

    /// Prints the first row of a table as `name: value` lines, or as one JSON object.
    pub(super) fn record(&mut self, table: &Table) -> anyhow::Result<()> {
        if !self.is_json {
            return Ok(table.write_record(&mut self.out)?);
        }
        match table.to_json() {
            Value::Array(rows) => self.json(rows.first().unwrap_or(&Value::Null)),
            other => self.json(&other),
        }
    }

    /// Prints JSON whatever was asked for: what has no other form.
    pub(super) fn json(&mut self, value: &Value) -> anyhow::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value)?;
        Ok(writeln!(self.out)?)
    }

    /// Prints a line for people; scripts do not get it.
    pub(super) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        if self.is_json { Ok(()) } else { Ok(writeln!(self.out, "{text}")?) }
    }

    /// Prints `text` as it is, or as a JSON string.
    pub(super) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        if self.is_json { self.json(&Value::from(text)) } else { Ok(writeln!(self.out, "{}", text.trim_end())?) }
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}

/// One value of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
    Float(f64),
    Time(Timestamp),
    /// Rounded to seconds for people.
    Duration(SignedDuration),
    Flag(bool),
    Nothing,
}

impl Cell {
    fn for_people(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Bytes(bytes) => people_bytes(*bytes),
            Self::Float(number) => format!("{number:.2}"),
            Self::Time(time) => time.to_string(),
            Self::Duration(duration) => people_duration(*duration),
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) | Self::Nothing => String::new(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Count(number) | Self::Bytes(number) => Value::from(*number),
            Self::Float(number) => Value::from(*number),
            Self::Time(time) => Value::from(time.to_string()),
            Self::Duration(duration) => Value::from(duration.as_secs_f64()),
            Self::Flag(flag) => Value::from(*flag),
            Self::Nothing => Value::Null,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Count(_) | Self::Bytes(_) | Self::Float(_) | Self::Duration(_))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Cell {
    fn from(count: u32) -> Self {
        Self::Count(u64::from(count))
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<Timestamp> for Cell {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

/// Rows of named columns. JSON calls a column by its name with underscores.
#[derive(Debug, Clone)]
pub(super) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn push<const N: usize>(&mut self, row: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has a cell for every column");
        self.rows.push(row.into());
    }

    fn to_json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row).map(|(name, cell)| (name.to_lowercase().replace(' ', "_"), cell.to_json()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let texts: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(Cell::for_people).collect()).collect();
        let width = |column: usize| {
            let cells = texts.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let is_number: Vec<bool> = (0..self.columns.len()).map(|column| self.rows.iter().any(|row| row[column].is_number())).collect();
        let mut line = |cells: Vec<&str>| {
            let padded = cells
                .iter()
                .zip(&widths)
                .zip(&is_number)
                .map(|((cell, width), is_number)| if *is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
            writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        line(self.columns.clone())?;
        texts.iter().try_for_each(|row| line(row.iter().map(String::as_str).collect()))
    }

    fn write_record(&self, out: &mut impl Write) -> std::io::Result<()> {
        let width = self.columns.iter().map(|name| name.len()).max().unwrap_or(0);
        let Some(row) = self.rows.first() else { return Ok(()) };
        self.columns.iter().zip(row).try_for_each(|(name, cell)| writeln!(out, "{name:<width$} : {}", cell.for_people()))
    }
}

/// Bytes with three digits and a binary unit.
pub(super) fn people_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The two largest units of a duration.
fn people_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let text = match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["Name", "Total bytes"]);
        table.push(["a".into(), Cell::Bytes(1536)]);
        table.push(["longer".into(), Cell::Bytes(7)]);
        table
    }

    #[test]
    fn tables_are_aligned() {
        let mut text = Vec::new();
        table().write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "Name    Total bytes\na           1.5 KiB\nlonger          7 B\n");
        let mut text = Vec::new();
        table().write_record(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "Name        : a\nTotal bytes : 1.5 KiB\n");
    }

    #[test]
    fn json_has_raw_values() {
        assert_eq!(table().to_json().to_string(), r#"[{"name":"a","total_bytes":1536},{"name":"longer","total_bytes":7}]"#);
    }

    #[test]
    fn durations_show_two_units() {
        let text = |seconds| people_duration(SignedDuration::from_secs(seconds));
        assert_eq!([5, 65, 7_260, 90_000, -61].map(text), ["5s", "1m5s", "2h1m", "1d1h", "-1m1s"]);
    }
}
