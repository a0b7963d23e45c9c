//! Access records: one line per request.
//!
//! A record goes into the queue of log lines (`log/queue.rs`) if the filter of [`super::init_logging`] passes
//! events of target `access`; no request waits for it. Query strings, tokens and cookies never get here; if a
//! path holds a `?`, it is cut there.

pub(crate) mod line;
pub(crate) mod record;
use super::{
    log::{self, queue::LogQueue},
    Metrics,
};
use crate::config::LogConfig;
use line::LineFormat;
use record::AccessRecord;

use std::io::{self, IsTerminal};

/// The access log.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<LogQueue>,
}

impl AccessLog {
    /// Opens the log, by the filter of [`super::init_logging`], which must be called before; with `access =
    /// false` no record is written. Registers the count of dropped log lines with `metrics`.
    pub fn start(log: LogConfig, metrics: &Metrics) -> Self {
        let wanted = log.access && tracing::enabled!(target: "access", tracing::Level::INFO);
        let form = LineFormat::of(log::is_json(log.format, io::stderr().is_terminal()));
        let queue = if wanted { LogQueue::to_stderr(form) } else { LogQueue::of_process() };
        if let Some(queue) = queue {
            metrics.log_probe(Box::new(|| queue.dropped()));
        }
        Self { queue: queue.filter(|_| wanted).cloned() }
    }

    /// Returns true if records are written; otherwise there is no need to make one.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands over a record; never waits.
    pub fn record(&self, record: &AccessRecord<'_>) {
        if let Some(queue) = &self.queue {
            queue.add_record(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn switched_off_it_takes_nothing() {
        let metrics = Metrics::new().expect("the declarations agree");
        let log = AccessLog::start(LogConfig { format: LogFormat::Json, access: false }, &metrics);
        assert!(!log.is_on());
    }
}
