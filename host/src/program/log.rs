//! Messages of the libraries on stderr, down to `diagnostics.log_level`.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use config::LogLevel;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Prints events from now on, each after the name of the program.
pub fn install(program: &'static str, level: LogLevel) {
    let least = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let subscriber = Stderr { program, least, spans: AtomicU64::new(1) };
    // fails only when one is installed already, and this is the only place that does
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes one line an event; spans are counted, not shown.
struct Stderr {
    program: &'static str,
    least: Level,
    spans: AtomicU64,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // other crates log for their own authors
        *metadata.level() <= self.least
            && ["host", "imp_server"].iter().any(|ours| metadata.target().starts_with(ours))
    }
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        super::say(self.program, &format!("{level}: {}{}", line.message, line.fields));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An event as text: its message, then ` key=value` for each field.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // writing to a String cannot fail
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
