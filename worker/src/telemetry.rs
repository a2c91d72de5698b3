//! Logs of a worker process: text or JSON on stderr, filtered by `LONGSHORE_LOG`.
//! Binaries call it once, first; the library itself only emits `tracing` events and leaves their use to the application.

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

/// The environment variable that holds the filter, such as `info`, `warn,longshore_worker=debug`.
pub const LOG_VARIABLE: &str = "LONGSHORE_LOG";

/// The filter where the variable gives none: Postgres' notices say only that something is there already.
const DEFAULT_FILTER: &str = "info,sqlx::postgres::notice=warn";

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line; colored on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `LONGSHORE_LOG` does not read as a filter.
    #[error("{LOG_VARIABLE} does not read as a log filter (try \"info\"): {0}")]
    Filter(String),
    /// The process has a `tracing` subscriber already: keep that one.
    #[error("logs are set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Send the process's events to stderr from here on. Without `LONGSHORE_LOG`, `info` and above.
pub fn init(format: LogFormat) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = filter(std::env::var(LOG_VARIABLE).ok().as_deref())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

fn filter(directives: Option<&str>) -> Result<EnvFilter, Error> {
    let directives = directives.map(str::trim).filter(|text| !text.is_empty());
    EnvFilter::builder().parse(directives.unwrap_or(DEFAULT_FILTER)).map_err(|error| Error::Filter(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn without_a_filter_info_is_logged() {
        assert!(filter(None).unwrap().to_string().split(',').any(|directive| directive == "info"));
        assert_eq!(filter(Some(" ")).unwrap().to_string(), filter(None).unwrap().to_string());
        assert_eq!(filter(Some("warn")).unwrap().to_string(), "warn");
    }

    #[test]
    fn a_bad_filter_names_the_variable() {
        let error = filter(Some("longshore=loud")).unwrap_err().to_string();
        assert!(error.contains("LONGSHORE_LOG"), "{error}");
    }
}
