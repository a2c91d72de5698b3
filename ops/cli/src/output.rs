//! How results are printed: for people, or as one JSON object with documented keys.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use serde::Serialize;

/// The form of a command's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Lines and tables.
    Text,
    /// One JSON object.
    Json,
}

impl Format {
    /// Print a result: the object, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(self, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self {
            Self::Text => line(&text(result)),
            Self::Json => line(&serde_json::to_string_pretty(result)?),
        }
    }
}

/// Print a line, at once. A reader that has gone (`| head`) has had enough: the process ends, as a success.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}
