//! How a command ends: the exit codes an operator's script may rely on, and the error that carries one.

use std::process::ExitCode;

/// The exit code of a command that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command failed, or a promise is broken: 1.
    Failed,
    /// The arguments do not make sense together: 2, as for arguments that do not parse.
    Usage,
    /// What the command names does not exist: 3.
    NotFound,
    /// What exists is not what the command asks for: 4.
    Conflict,
}

impl Exit {
    /// An error that ends the command with this code and prints `message`.
    pub fn error(self, message: impl Into<String>) -> anyhow::Error {
        Failure { exit: self, message: message.into() }.into()
    }

    /// The code of an error: that of the [`Exit::error`] it was made of, [`Exit::Failed`] for any other.
    pub fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Failure>().map_or(Self::Failed, |failure| failure.exit)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    exit: Exit,
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_exit_code_survives_added_context() {
        let error = Err::<(), _>(Exit::NotFound.error("no run 7")).context("run show").err();
        assert_eq!(error.map(|e| Exit::of(&e)), Some(Exit::NotFound));
        assert_eq!(Exit::of(&anyhow::anyhow!("plain")), Exit::Failed);
    }
}
