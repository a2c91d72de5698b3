//! The worker's one HTTP port: `/metrics` for Prometheus and three health probes.
//! Probes read atomics that the worker keeps up to date; none of them asks the database, so a slow Postgres never makes an
//! orchestrator kill a fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Scrape;

/// How often collected histogram samples are counted into buckets.
const METRICS_UPKEEP: Duration = Duration::from_secs(1);
/// Upkeep may fail or be late this many periods in a row before the worker says it is not ready.
const PERIODS_MISSED: u32 = 3;

/// Why the port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use or not this machine's: choose another, or port 0 for any free one.
    #[error("cannot listen on {address} for metrics and health, choose another address or port 0: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The listener broke while serving.
    #[error("serving metrics and health stopped: {0}")]
    Serve(#[source] std::io::Error),
}

/// What the worker says about itself, for the probes. Clones are the same worker.
#[derive(Clone)]
pub struct Health(Arc<Facts>);

struct Facts {
    born: Instant,
    started: AtomicBool,
    draining: AtomicBool,
    blocked: AtomicBool,
    /// Milliseconds after `born` until which the last good upkeep speaks for the worker; 0 before the first.
    upkeep_until: AtomicU64,
}

impl Health {
    /// A worker that has not started.
    pub fn new() -> Self {
        Self(Arc::new(Facts {
            born: Instant::now(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            upkeep_until: AtomicU64::new(0),
        }))
    }

    /// The worker claims now.
    pub fn started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    /// Upkeep just succeeded and is due again within `next_within`: the worker counts as ready for three times that.
    pub fn upkeep_ok(&self, next_within: Duration) {
        let until = self.0.born.elapsed() + next_within * PERIODS_MISSED;
        let millis = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.0.upkeep_until.store(millis, Ordering::Relaxed);
    }

    /// The worker stops claiming: it is alive, and no longer ready.
    pub fn draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Handlers block every thread of their runtime, or no longer do.
    pub fn blocked(&self, blocked: bool) {
        self.0.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether the process does its work; otherwise why it should be started again.
    pub fn liveness(&self) -> Result<(), &'static str> {
        match self.0.blocked.load(Ordering::Relaxed) {
            true => Err("handlers block every thread of their runtime: nothing starts and nothing ends"),
            false => Ok(()),
        }
    }

    /// Whether the worker has begun to claim.
    pub fn is_started(&self) -> bool {
        self.0.started.load(Ordering::Relaxed)
    }

    /// Whether the worker claims and its upkeep works; otherwise why not.
    pub fn readiness(&self) -> Result<(), &'static str> {
        let until = Duration::from_millis(self.0.upkeep_until.load(Ordering::Relaxed));
        if self.0.draining.load(Ordering::Relaxed) {
            Err("draining: no step job is claimed any more")
        } else if !self.is_started() {
            Err("starting: no step job is claimed yet")
        } else if until.is_zero() {
            Err("upkeep has not succeeded yet")
        } else if self.0.born.elapsed() > until {
            Err("upkeep has not succeeded for three periods: is the database reachable?")
        } else {
            Ok(())
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// Take the port; with port 0 the listener's `local_addr` tells which one it got.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

/// Serve until `shutdown`, then finish the requests under way. Answers `/metrics`, `/health/live` (200, or 503 when handlers block their runtime),
/// `/health/startup` (200 once the worker claims) and `/health/ready` (200 or 503 with the reason).
pub async fn serve(
    listener: TcpListener,
    scrape: Scrape,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(scrape.clone())
        .route("/health/live", get(live))
        .route("/health/startup", get(startup))
        .route("/health/ready", get(ready))
        .with_state(health);
    let stopped = shutdown.clone().cancelled_owned();
    let served = axum::serve(listener, router).with_graceful_shutdown(stopped);
    tokio::select! {
        ended = served.into_future() => ended.map_err(Error::Serve),
        () = keep_small(scrape) => Ok(()),
    }
}

async fn keep_small(scrape: Scrape) {
    let mut due = tokio::time::interval(METRICS_UPKEEP);
    loop {
        due.tick().await;
        scrape.upkeep();
    }
}

async fn metrics(State(scrape): State<Scrape>) -> impl IntoResponse {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], scrape.render())
}

async fn live(State(health): State<Health>) -> impl IntoResponse {
    match health.liveness() {
        Ok(()) => (StatusCode::OK, "alive\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn startup(State(health): State<Health>) -> impl IntoResponse {
    if health.is_started() { (StatusCode::OK, "started\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    match health.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready, {reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::metrics::Metrics;

    struct Served {
        address: SocketAddr,
        health: Health,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), Error>>,
    }

    async fn served() -> Served {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, scrape) = Metrics::install().unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, scrape, health.clone(), stop.clone()));
        Served { address, health, stop, task }
    }

    impl Served {
        async fn get(&self, path: &str) -> String {
            let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn probes_follow_the_worker_from_start_to_drain() {
        let served = served().await;
        assert!(served.get("/health/live").await.starts_with("HTTP/1.1 200"));
        assert!(served.get("/health/startup").await.starts_with("HTTP/1.1 503"));
        assert!(served.get("/health/ready").await.contains("starting"));

        served.health.started();
        assert!(served.get("/health/startup").await.starts_with("HTTP/1.1 200"));
        assert!(served.get("/health/ready").await.contains("upkeep has not succeeded yet"));

        served.health.upkeep_ok(Duration::from_secs(60));
        assert!(served.get("/health/ready").await.starts_with("HTTP/1.1 200"));

        served.health.draining();
        let ready = served.get("/health/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("draining"), "{ready}");
        assert!(served.get("/health/live").await.starts_with("HTTP/1.1 200"));

        served.stop.cancel();
        served.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let served = served().await;
        let answer = served.get("/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("longshore_build_info{version="), "{answer}");
        assert!(served.get("/nothing").await.starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn a_worker_whose_upkeep_is_late_is_not_ready() {
        let now = Instant::now();
        let health = Health(Arc::new(Facts {
            born: now.checked_sub(Duration::from_secs(2)).unwrap_or(now),
            started: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            upkeep_until: AtomicU64::new(1000),
        }));
        assert!(health.readiness().is_err_and(|why| why.contains("three periods")));
    }

    #[tokio::test]
    async fn a_taken_port_is_a_clear_error() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("port 0"), "{error}");
    }
}
