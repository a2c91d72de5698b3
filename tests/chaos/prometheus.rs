//! A real Prometheus over the fleet: it finds each worker that ever served metrics and is asked at the end what they add up to. The figures of a
//! process that
//! is gone stay as it last told them, so the sum never exceeds what Postgres has.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use longshore_tests::http;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// See the module. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    targets: PathBuf,
}

impl Prometheus {
    /// Start it; none where it is not installed.
    pub(crate) fn start(folder: &Path) -> Result<Option<Self>> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (config, targets) = (folder.join("prometheus.json"), folder.join("targets.json"));
        // JSON is YAML
        let scrape = json!({"job_name": "longshore", "scrape_interval": "1s", "file_sd_configs": [{"files": [targets], "refresh_interval": "1s"}]});
        fs::write(&config, json!({ "scrape_configs": [scrape] }).to_string())?;
        fs::write(&targets, "[]")?;
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("prometheus.log"))?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match started {
            Ok(child) => Ok(Some(Self { child, address, targets })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("prometheus does not start"),
        }
    }

    /// Scrape these from now on. One that is gone is scraped in vain.
    pub(crate) fn watch(&self, addresses: &[String]) -> Result<()> {
        let half = self.targets.with_extension("new");
        fs::write(&half, json!([{ "targets": addresses }]).to_string())?;
        Ok(fs::rename(half, &self.targets)?)
    }

    /// Attempts by outcome, over all processes there were.
    pub(crate) async fn attempts(&self) -> Result<BTreeMap<String, f64>> {
        // a counter only grows, so the largest value of a process is its last
        let query = "sum%20by%20(outcome)%20(max_over_time(longshore_step_attempts_total%5B1d%5D))";
        let (status, body) = http::get(self.address, &format!("/api/v1/query?query={query}")).await?;
        anyhow::ensure!(status == 200, "prometheus answers {status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let results = answer["data"]["result"].as_array().context("an answer without results")?;
        let sum = |result: &Value| {
            let outcome = result["metric"]["outcome"].as_str()?.to_owned();
            Some((outcome, result["value"][1].as_str()?.parse().ok()?))
        };
        Ok(results.iter().filter_map(sum).collect())
    }

    /// End it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
