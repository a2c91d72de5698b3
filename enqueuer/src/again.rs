//! Sending a statement again where that cannot do it twice.

use longshore_core::database::{self, ErrorKind};
use longshore_core::pacing::Pacing;
use longshore_core::run::MAX_KEY;

use crate::Error;

/// Sends until it succeeds, or fails for a reason that will not pass. `repeatable`: it is safe even if an earlier answer was only lost.
pub(crate) async fn again<T, F>(repeatable: bool, mut send: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pacing = Pacing::reconnect();
    for _ in 1..database::MAX_ATTEMPTS {
        match send().await {
            Err(Error::Database(error)) if may_repeat(&error, repeatable) => {
                tracing::debug!(%error, "a statement is sent again");
                tokio::time::sleep(pacing.pause()).await;
            }
            result => return result,
        }
    }
    send().await
}

fn may_repeat(error: &sqlx::Error, repeatable: bool) -> bool {
    match database::kind(error) {
        ErrorKind::Retryable => true,
        ErrorKind::Ambiguous => repeatable,
        ErrorKind::Data | ErrorKind::Fatal => false,
    }
}

/// Refuses an idempotency key that cannot be one.
pub(crate) fn check_key(key: Option<&str>) -> Result<(), Error> {
    let Some(key) = key else { return Ok(()) };
    let length = key.chars().count();
    if length == 0 || length > MAX_KEY || key.contains('\0') {
        return Err(Error::InvalidKey { length: length as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_key_is_not_sent_again_when_the_answer_is_lost() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(may_repeat(&lost, true) && !may_repeat(&lost, false));
        assert!(may_repeat(&sqlx::Error::PoolTimedOut, false));
        assert!(!may_repeat(&sqlx::Error::RowNotFound, true));
    }
}
