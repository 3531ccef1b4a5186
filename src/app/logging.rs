//! Log lines on standard error, as logfmt or JSON: `level`, `ts`, `caller`, `msg`, then the event's fields (config §7.3).

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Installs the global subscriber. `level` is one of debug, info, warn, error; dependencies log warnings only, except at debug level.
pub fn init(level: &str, format: LogFormat) {
    let others = if level == "debug" { "info" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},tempo_rs={level}"));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Lines(format)).with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(layer);
    // A second call, as in tests, keeps the first subscriber.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Pairs::default();
        event.record(&mut fields);
        let level = match *meta.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let caller = meta.file().map(|file| file.rsplit("src/").next().unwrap_or(file));
        let caller = format!("{}:{}", caller.unwrap_or(""), meta.line().unwrap_or(0));
        let head = [("level", level.to_owned()), ("ts", jiff::Timestamp::now().to_string()), ("caller", caller)];
        let pairs = head.into_iter().chain(fields.message.map(|message| ("msg", message))).chain(fields.rest);
        match self.0 {
            LogFormat::Logfmt => write_logfmt(&mut writer, pairs),
            LogFormat::Json => write_json(&mut writer, pairs),
        }?;
        writeln!(writer)
    }
}

#[derive(Default)]
struct Pairs {
    message: Option<String>,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Pairs {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _infallible = write!(text, ": {error}");
            cause = error.source();
        }
        self.push(field, text);
    }
}

impl Pairs {
    fn push(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = Some(value);
        } else {
            self.rest.push((field.name(), value));
        }
    }
}

fn write_logfmt(writer: &mut Writer<'_>, pairs: impl Iterator<Item = (&'static str, String)>) -> fmt::Result {
    let mut separator = "";
    for (key, value) in pairs {
        let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=');
        write!(writer, "{separator}{key}=")?;
        if plain {
            write!(writer, "{value}")?
        } else {
            write!(writer, "{value:?}")?
        }
        separator = " ";
    }
    Ok(())
}

fn write_json(writer: &mut Writer<'_>, pairs: impl Iterator<Item = (&'static str, String)>) -> fmt::Result {
    let mut separator = "{";
    for (key, value) in pairs {
        write!(writer, "{separator}\"{key}\":{}", serde_json::Value::String(value))?;
        separator = ",";
    }
    writer.write_char('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl Fn(&mut Writer<'_>, std::vec::IntoIter<(&'static str, String)>) -> fmt::Result) -> String {
        let mut text = String::new();
        let pairs = vec![("level", "info".to_owned()), ("msg", "two words".to_owned()), ("n", "3".to_owned())];
        write(&mut Writer::new(&mut text), pairs.into_iter()).unwrap();
        text
    }

    #[test]
    fn both_formats_keep_the_order() {
        assert_eq!(line(write_logfmt), r#"level=info msg="two words" n=3"#);
        assert_eq!(line(write_json), r#"{"level":"info","msg":"two words","n":"3"}"#);
    }
}
