//! The target of log lines: standard error, as text or JSON, filtered by `RUST_LOG`.
//!
//! Standard output is left to the results of commands (`tidegate token`).

pub(crate) mod queue;
pub(crate) mod throttled_log;
use super::access::line::LineFormat;
use crate::config::{LogConfig, LogFormat};
use queue::LogQueue;

use std::io::{self, IsTerminal};
use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::{
    filter::filter_fn,
    fmt::{layer, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
    EnvFilter,
};

/// The filter where `RUST_LOG` is not set. At `info` Pingora logs each connection that is closed; at `warn`
/// rustls logs alerts, which any client may send.
const DEFAULT_FILTER: &str = "info,pingora=warn,rustls=error";

/// Sends `tracing` events, and those of crates that use `log`, to standard error, through the queue, so that
/// no caller waits for it. Only the first call in a process has an effect. Access records are events of level
/// `info`: `RUST_LOG=warn` silences them too, `RUST_LOG=warn,access=info` doesn't.
pub(crate) fn init_logging(log: LogConfig) {
    let wish = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, fault) = filter(&wish);
    let terminal = io::stderr().is_terminal();
    let json = is_json(log.format, terminal);
    let dispatch = match LogQueue::to_stderr(LineFormat::of(json)) {
        Some(queue) => dispatch(json, terminal, filter, move || queue),
        // The thread can't be started: nothing else will start either, and the lines should say so.
        None => dispatch(json, terminal, filter, io::stderr),
    };
    if dispatch.try_init().is_err() {
        tracing::debug!("log lines have a place already");
    }
    if let Some(fault) = fault {
        tracing::warn!(%fault, default = DEFAULT_FILTER, "RUST_LOG can't be read; the default applies");
    }
}

/// The filter that `wish` describes; if it is empty or malformed the default, in the latter case with the
/// error.
fn filter(wish: &str) -> (EnvFilter, Option<tracing_subscriber::filter::ParseError>) {
    if wish.trim().is_empty() {
        return (EnvFilter::new(DEFAULT_FILTER), None);
    }
    match wish.parse() {
        Ok(filter) => (filter, None),
        Err(fault) => (EnvFilter::new(DEFAULT_FILTER), Some(fault)),
    }
}

pub(crate) fn is_json(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

/// A subscriber that writes one line per event. A line that can't be written is lost: an error message would
/// go the same way.
fn dispatch<W>(json: bool, colour: bool, filter: EnvFilter, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let kept = tracing_subscriber::registry().with(filter).with(filter_fn(|line| !shows_requests(line)));
    let lines = layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    if json {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        Dispatch::new(kept.with(lines))
    } else {
        Dispatch::new(kept.with(lines))
    }
}

/// Returns true if a line may hold whole requests and answers: below `info`, Pingora writes them out, with
/// tokens, cookies and queries. No filter enables these lines.
fn shows_requests(line: &Metadata<'_>) -> bool {
    line.target().starts_with("pingora") && *line.level() > Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_may_be_called_twice() {
        let log = LogConfig { format: LogFormat::Json, access: true };
        init_logging(log);
        init_logging(log);
    }

    #[test]
    fn auto_is_text_on_a_terminal_alone() {
        assert!(!is_json(LogFormat::Auto, true));
        assert!(is_json(LogFormat::Auto, false));
        assert!(!is_json(LogFormat::Text, false));
        assert!(is_json(LogFormat::Json, true));
    }

    #[test]
    fn by_default_pingora_only_warns() {
        use tracing::{enabled, Level};
        let dispatch = dispatch(true, false, filter("").0, io::sink);
        tracing::dispatcher::with_default(&dispatch, || {
            assert!(enabled!(target: "tidegate::cache", Level::INFO));
            assert!(enabled!(target: "access", Level::INFO));
            assert!(!enabled!(target: "tidegate::cache", Level::DEBUG));
            assert!(!enabled!(target: "pingora_proxy::proxy_h1", Level::INFO));
            assert!(enabled!(target: "pingora_core::server", Level::WARN));
        });
    }

    #[test]
    fn no_filter_brings_out_lines_that_show_requests() {
        use tracing::{enabled, Level};
        for wish in ["trace", "pingora=trace", "pingora_proxy=debug,pingora_core=trace"] {
            let dispatch = dispatch(true, false, filter(wish).0, io::sink);
            tracing::dispatcher::with_default(&dispatch, || {
                assert!(!enabled!(target: "pingora_proxy::proxy_h1", Level::DEBUG), "{wish}");
                assert!(
                    !enabled!(target: "pingora_core::protocols::http::v1::client", Level::TRACE),
                    "{wish}"
                );
            });
        }
        let dispatch = dispatch(true, false, filter("trace").0, io::sink);
        tracing::dispatcher::with_default(&dispatch, || {
            assert!(enabled!(target: "tidegate::cache", Level::TRACE));
            assert!(enabled!(target: "pingora_proxy", Level::INFO));
            assert!(enabled!(target: "h2::proto", Level::DEBUG));
        });
    }

    #[test]
    fn a_malformed_wish_falls_back_and_says_so() {
        assert!(filter("").1.is_none());
        assert_eq!(filter("debug").0.to_string(), "debug");
        let (fallback, fault) = filter("tidegate=loudly");
        assert!(fault.is_some());
        assert_eq!(fallback.to_string(), EnvFilter::new(DEFAULT_FILTER).to_string());
    }
}
