//! The command line of a worker, the same in `longshore-worker` and `longshore worker`.
//! Only names, defaults and reading; what the values do is said where they are used.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::telemetry::LogFormat;

/// Slots of a queue that is named without a number.
pub const DEFAULT_SLOTS: u32 = 100;

/// What a worker process is told on its command line.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Postgres to work for, such as postgres://user:password@host/database; LONGSHORE_DATABASE_URL serves too
    #[arg(long, env = "LONGSHORE_DATABASE_URL", value_name = "URL", hide_env = true)]
    pub database_url: String,

    /// The database URL leads through a pooler in transaction mode, such as PgBouncer
    #[arg(long)]
    pub pooled: bool,

    /// A URL past the pooler, for LISTEN and the system lane; without one a pooled worker polls and has no system lane
    #[arg(long, env = "LONGSHORE_DIRECT_URL", value_name = "URL", hide_env_values = true)]
    pub direct_url: Option<String>,

    /// Queue to serve and how many of its step jobs may run at once; may be given several times
    #[arg(long = "queue", value_name = "NAME[=SLOTS]", default_value = "default=100", conflicts_with = "all_queues")]
    pub queues: Vec<QueueArg>,

    /// Serve every queue that the database knows, 100 slots each
    #[arg(long)]
    pub all_queues: bool,

    /// How long this worker may be silent before others take its step jobs over
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub lease: Duration,

    /// How long a stopping worker lets handlers finish before it gives their step jobs back
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub grace: Duration,

    /// Address of /metrics and /health; port 0 takes any free port and logs it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// How log lines on stderr are written; LONGSHORE_LOG filters them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,

    /// Most connections of the lanes, and as many, but at most 6, for the rest; one for each lane and three more where nothing is given. Those of LISTEN (1) and
    /// the system lane (3) are not among them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,

    /// Leave pruning and partition upkeep to other workers
    #[arg(long)]
    pub no_system_lane: bool,

    /// Let the system lane prune runs that ended longer ago than this; without it, or without a system lane, this worker prunes nothing
    #[arg(long, env = "LONGSHORE_PRUNE_OLDER_THAN", value_name = "DURATION", value_parser = duration)]
    pub prune_older_than: Option<Duration>,

    /// Name of this worker in logs and listings; its host name and process id where nothing is given
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Write the address of /metrics and /health to this file once it is known; for whoever started this process
    #[arg(long, value_name = "FILE", hide = true)]
    pub address_file: Option<PathBuf>,
}

/// A queue to serve, read from `NAME` or `NAME=SLOTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueArg {
    /// The queue's name.
    pub name: String,
    /// Step jobs of it that may run at once in this process; at least 1.
    pub slots: u32,
}

impl FromStr for QueueArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, slots) = match text.split_once('=') {
            None => (text, DEFAULT_SLOTS),
            Some((name, slots)) => match slots.parse() {
                Ok(slots) if slots > 0 => (name, slots),
                _ => return Err(format!("slots \"{slots}\" must be a whole number above 0")),
            },
        };
        if name.is_empty() {
            return Err("the queue's name is empty: write NAME or NAME=SLOTS".to_owned());
        }
        Ok(Self { name: name.to_owned(), slots })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    longshore_core::duration::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Worker {
        #[command(flatten)]
        args: WorkerArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<WorkerArgs, String> {
        let start = ["worker", "--database-url", "postgres://localhost/db"];
        Worker::try_parse_from(start.iter().chain(arguments))
            .map(|worker| worker.args)
            .map_err(|error| error.to_string())
    }

    fn queue(name: &str, slots: u32) -> QueueArg {
        QueueArg { name: name.to_owned(), slots }
    }

    #[test]
    fn defaults_serve_the_default_queue_with_a_lease_of_15_s() {
        let args = parsed(&[]).unwrap();
        assert_eq!(args.queues, [queue("default", 100)]);
        assert_eq!((args.lease, args.grace), (Duration::from_secs(15), Duration::from_secs(30)));
        assert_eq!((args.listen.port(), args.log_format), (0, LogFormat::Text));
        assert_eq!(args.prune_older_than, None);
    }

    #[test]
    fn a_pooler_is_named_beside_a_way_past_it() {
        assert!(!parsed(&[]).unwrap().pooled);
        let args = parsed(&["--pooled", "--direct-url", "postgres://postgres/db"]).unwrap();
        assert_eq!((args.pooled, args.direct_url.as_deref()), (true, Some("postgres://postgres/db")));
    }

    #[test]
    fn named_queues_replace_the_default_one() {
        let args = parsed(&["--queue", "orders=64", "--queue", "mail", "--lease", "1m30s"]).unwrap();
        assert_eq!(args.queues, [queue("orders", 64), queue("mail", 100)]);
        assert_eq!(args.lease, Duration::from_secs(90));
    }

    #[test]
    fn all_queues_goes_without_named_ones() {
        assert!(parsed(&["--all-queues"]).unwrap().all_queues);
        assert!(parsed(&["--all-queues", "--queue", "orders"]).is_err());
    }

    #[test]
    fn bad_values_say_what_is_wrong() {
        for (arguments, expected) in [
            (["--queue", "orders=0"], "whole number above 0"),
            (["--queue", "=3"], "name is empty"),
            (["--lease", "soon"], "soon"),
            (["--listen", "here"], "here"),
        ] {
            let error = parsed(&arguments).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
