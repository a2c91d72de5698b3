//! A connection to Postgres that can be cut at a chosen moment: before the bytes of the next statement are forwarded, after the server has
//! committed it but before the answer goes back, or while it is under way. It understands just enough of the protocol to know these moments.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::TestDatabase;
use crate::wire::message;

/// When the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// Not at all.
    Never = 0,
    /// The next statement never reaches the server.
    BeforeItIsSent = 1,
    /// The server has executed and committed the next statement; the answer is lost.
    BeforeItsAnswer = 2,
    /// The client loses the connection as soon as the next statement is sent; the server goes on with it.
    WhileItRuns = 3,
    /// The next `COMMIT` never reaches the server.
    BeforeTheCommitIsSent = 4,
    /// The server has committed; the answer to the next `COMMIT` is lost.
    BeforeTheCommitsAnswer = 5,
}

/// See the module.
pub struct Proxy {
    /// A pool of two connections through the proxy.
    pub pool: PgPool,
    armed: Arc<AtomicU8>,
    cuts: Arc<AtomicU32>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Proxy {
    /// A proxy to this database that cuts nothing yet.
    pub async fn to(database: &TestDatabase) -> Self {
        let upstream = PgConnectOptions::from_str(&database.url).expect("a Postgres URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (armed, cuts) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicU32::new(0)));
        let options = upstream.clone();
        let (arm, count) = (armed.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (options, arm, count) = (options.clone(), arm.clone(), count.clone());
                tokio::spawn(async move {
                    if let Ok(server) = connect(&options).await {
                        // an error is a closed connection, which is this proxy's business
                        serve(client, server, &arm, &count).await.ok();
                    }
                });
            }
        });
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(upstream.get_username())
            .database(upstream.get_database().unwrap_or("postgres"))
            .ssl_mode(PgSslMode::Disable);
        let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await.expect("through the proxy");
        Self { pool, armed, cuts }
    }

    /// Cut the connection that sends the next statement, once.
    pub fn arm(&self, cut: Cut) {
        self.armed.store(cut as u8, Ordering::SeqCst);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn connect(options: &PgConnectOptions) -> io::Result<Box<dyn Stream>> {
    match options.get_socket() {
        Some(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
            Ok(Box::new(UnixStream::connect(path).await?))
        }
        None => Ok(Box::new(TcpStream::connect((options.get_host(), options.get_port())).await?)),
    }
}

fn is_one_of(cut: &AtomicU8, cuts: &[Cut]) -> bool {
    let cut = cut.load(Ordering::SeqCst);
    cuts.iter().any(|&one| one as u8 == cut)
}

async fn serve(client: TcpStream, server: Box<dyn Stream>, armed: &AtomicU8, cuts: &AtomicU32) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    to_server.write_all(&message(&mut from_client, true).await?.1).await?;
    let cut = AtomicU8::new(0);
    let forward = async {
        loop {
            let (kind, bytes) = message(&mut from_client, false).await?;
            let commits = armed.load(Ordering::SeqCst) >= Cut::BeforeTheCommitIsSent as u8;
            if if commits { kind == b'Q' && bytes[5..].starts_with(b"COMMIT") } else { kind == b'B' } {
                cut.store(armed.swap(0, Ordering::SeqCst), Ordering::SeqCst);
                if is_one_of(&cut, &[Cut::BeforeItIsSent, Cut::BeforeTheCommitIsSent]) {
                    return Ok(());
                }
            }
            to_server.write_all(&bytes).await?;
            if kind == b'S' && cut.load(Ordering::SeqCst) == Cut::WhileItRuns as u8 {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let back = async {
        loop {
            let (kind, bytes) = message(&mut from_server, false).await?;
            if is_one_of(&cut, &[Cut::BeforeItsAnswer, Cut::BeforeTheCommitsAnswer]) {
                if kind == b'Z' {
                    return Ok(());
                }
                continue;
            }
            to_client.write_all(&bytes).await?;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = forward => ended,
        ended = back => ended,
    };
    let cut = cut.load(Ordering::SeqCst);
    cuts.fetch_add(u32::from(cut != Cut::Never as u8), Ordering::SeqCst);
    if cut == Cut::WhileItRuns as u8 {
        // the client is gone; the server goes on until it is done
        drop((from_client, to_client));
        while message(&mut from_server, false).await?.0 != b'Z' {}
    }
    ended
}
