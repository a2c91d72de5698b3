//! The way from the fleet to Postgres: a TCP proxy that can cut a connection right after its commit, slow all of them down, swallow what they send, or
//! reset them. It reads just enough of the protocol to know the moment between a commit and its answer.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use longshore_tests::wire::message;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// How the connections are troubled at the moment, and how many were.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// So many of the next statements are committed and their answer is lost.
    pub(crate) cut: AtomicU32,
    /// Every answer waits this long.
    pub(crate) delay_ms: AtomicU64,
    /// Nothing arrives, and nobody is told.
    pub(crate) swallow: AtomicBool,
    reset: Notify,
    /// Answers that were cut off.
    pub(crate) cuts: AtomicU32,
    /// Connections that were reset, answers that were late, messages that went nowhere.
    pub(crate) troubled: AtomicU32,
}

impl Trouble {
    /// Close all connections at once.
    pub(crate) fn reset(&self) {
        self.reset.notify_waiters();
    }

    fn hit(&self) {
        self.troubled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Threads of its own: those of the harness wait for the ledger's disk now and then, and the whole fleet would wait with them.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Listen here and lead every connection to the socket of Postgres, until this process ends. Returns the address.
pub(crate) fn listen(address: SocketAddr, socket: PathBuf, trouble: Arc<Trouble>) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    if RUNTIME.get().is_none() {
        RUNTIME.set(Builder::new_multi_thread().worker_threads(2).enable_all().build()?).ok();
    }
    RUNTIME.get().context("no runtime for the proxies")?.spawn(async move {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let (socket, trouble) = (socket.clone(), trouble.clone());
            tokio::spawn(async move {
                // whatever ends a connection, both sides learn it by its end
                let _ = lead(client, &socket, &trouble).await;
            });
        }
    });
    Ok(address)
}

async fn lead(client: TcpStream, socket: &Path, trouble: &Trouble) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = UnixStream::connect(socket).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    to_server.write_all(&message(&mut from_client, true).await?.1).await?;
    let cut = AtomicBool::new(false);
    let forward = async {
        loop {
            let (kind, bytes) = message(&mut from_client, false).await?;
            arrives(trouble).await;
            // Bind: the statement that follows is the one whose answer gets lost
            if kind == b'B'
                && trouble.cut.try_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| cuts.checked_sub(1)).is_ok()
            {
                cut.store(true, Ordering::SeqCst);
            }
            to_server.write_all(&bytes).await?;
        }
    };
    let back = async {
        loop {
            let (kind, bytes) = message(&mut from_server, false).await?;
            if cut.load(Ordering::SeqCst) {
                if kind == b'Z' {
                    trouble.cuts.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                continue;
            }
            let delay = trouble.delay_ms.load(Ordering::Relaxed);
            if delay > 0 && kind == b'Z' {
                trouble.hit();
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            arrives(trouble).await;
            to_client.write_all(&bytes).await?;
        }
    };
    tokio::select! {
        ended = forward => ended,
        ended = back => ended,
        () = trouble.reset.notified() => { trouble.hit(); Ok(()) }
    }
}

/// Returns when a packet would arrive: while all is swallowed, never (TCP sends again what the line lost).
async fn arrives(trouble: &Trouble) {
    if trouble.swallow.load(Ordering::Relaxed) {
        trouble.hit();
        while trouble.swallow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
