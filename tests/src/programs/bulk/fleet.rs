//! The worker processes: started, killed under a share of the runs, started again.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::Bench;

impl Bench {
    pub(super) fn spawn(&self) -> Result<Child> {
        let child = Command::new(&self.settings.program)
            .args(["member", "--lease", "1s", "--grace", "5s", "--queue", "default=32", "--no-system-lane"])
            .env("LONGSHORE_DATABASE_URL", &self.database.url)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("LONGSHORE_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
            .kill_on_drop(true)
            .spawn();
        child.with_context(|| format!("cannot start {}", self.settings.program.display()))
    }

    pub(super) async fn stop(&self) {
        for mut worker in self.fleet.lock().await.drain(..) {
            if let Some(id) = worker.id().and_then(|id| i32::try_from(id).ok()) {
                kill(Pid::from_raw(id), Signal::SIGTERM).ok();
            }
            tokio::time::timeout(Duration::from_secs(20), worker.wait()).await.ok();
        }
    }

    /// Kill a worker that holds something; the runs it held.
    async fn kill_one(&self, random: &mut StdRng) -> Result<()> {
        let mut fleet = self.fleet.lock().await;
        let at = random.random_range(0..fleet.len());
        let Some(id) = fleet[at].id() else { return Ok(()) };
        let held = "select distinct l.run_id from longshore.step_leases l where l.worker like '%-' || $1::text";
        let held: Vec<Uuid> = sqlx::query_scalar(held).bind(id.to_string()).fetch_all(self.pool()).await?;
        if held.is_empty() {
            return Ok(());
        }
        kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGKILL)?;
        fleet[at].wait().await?;
        fleet[at] = self.spawn()?;
        self.kills.fetch_add(1, Ordering::Relaxed);
        self.hit.lock().await.extend(held);
        Ok(())
    }
}

/// Kill workers until their share of the cases is reached.
pub(super) async fn murder(bench: Arc<Bench>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(bench.settings.seed);
    while !bench.over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        let hit = bench.hit.lock().await.len();
        let begun = bench.done.load(Ordering::Relaxed) as usize + bench.waiting.lock().await.len();
        #[allow(clippy::cast_precision_loss)]
        if (hit as f64) < bench.settings.kill_share * begun as f64 && !bench.calm.load(Ordering::SeqCst) {
            bench.kill_one(&mut random).await?;
        }
    }
    Ok(())
}
