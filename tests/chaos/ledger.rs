//! The ledger: what enqueuers and handlers saw happen, kept outside the database. Each process appends to a file of its own and makes a line durable
//! before it goes on, so whatever dies, what a line says did happen. The checker compares it with Postgres.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A start was acknowledged: its run exists from here on.
    Started { run: Uuid, kind: String, x: i64, key: Option<String> },
    /// A start was written in a transaction that was rolled back.
    RolledBack { run: Uuid },
    /// A cancel was sent; its answer is not known yet.
    Canceling { run: Uuid },
    /// A cancel was acknowledged: nothing of the run starts from here on.
    Canceled { run: Uuid, at: DateTime<Utc> },
    /// A signal was acknowledged: it is there from here on, under this number. Its payload carries the token.
    Sent { run: Uuid, token: Uuid, id: i64, key: Option<String> },
    /// A rerun was acknowledged: a new run that takes over from another all that does not come after this node.
    Rerun { run: Uuid, of: Uuid, from: String },
    /// A run is to be paused.
    Pausing { run: Uuid },
    /// A signal was written in a transaction that was rolled back.
    Unsent { run: Uuid, token: Uuid },
    /// A handler began, with the marks that its input carries, by the clock of its process.
    Began {
        run: Uuid,
        frame: i32,
        node: String,
        attempt: i32,
        mark: Uuid,
        inputs: Vec<Uuid>,
        pid: u32,
        at: DateTime<Utc>,
    },
    /// The handler is about to give its output, which carries the mark.
    Gave { run: Uuid, frame: i32, node: String, attempt: i32, mark: Uuid },
    /// A worker process was killed.
    Killed { pid: u32, at: DateTime<Utc> },
    /// Postgres accepts connections again.
    Restarted { at: DateTime<Utc> },
}

/// A file of the ledger, of this process alone.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<File>);

impl Ledger {
    /// Open a new file in this folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("{}-{}.jsonl", std::process::id(), Uuid::new_v4().simple()));
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        Ok(Self(Mutex::new(file.with_context(|| format!("cannot write the ledger {}", path.display()))?)))
    }

    /// Append a line and make it durable.
    pub(crate) fn append(&self, entry: &Entry) -> Result<()> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// The same for several lines at once.
    pub(crate) fn append_all(&self, entries: &[Entry]) -> Result<()> {
        let mut line = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut line, entry)?;
            line.push(b'\n');
        }
        let mut file = self.0.lock().map_err(|_| anyhow::anyhow!("a writer of the ledger panicked"))?;
        file.write_all(&line)?;
        file.sync_data().context("cannot make the ledger durable")
    }
}

/// All lines of all files. A last line that a kill cut short was never acted upon.
pub(crate) fn read(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let text = std::fs::read_to_string(file?.path())?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            entries.push(serde_json::from_str(line).with_context(|| format!("a line of the ledger: {line}"))?);
        }
    }
    Ok(entries)
}
