//! How results are printed: for people, or as one JSON object with documented keys.

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
    pub(crate) fn print<T: Serialize>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        match self {
            Self::Text => println!("{}", text(result)),
            Self::Json => println!("{}", serde_json::to_string_pretty(result)?),
        }
        Ok(())
    }
}
