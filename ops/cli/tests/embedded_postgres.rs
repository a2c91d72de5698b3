//! The embedded Postgres as a script or a command meets it: started twice, crashed, guarded. Each test has a
//! cluster of its own; Postgres must be installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use longshore::postgres::{Cluster, Embedded, Listen};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{Connection, PgConnection};

const LONGSHORE: &str = env!("CARGO_BIN_EXE_longshore");

/// A cluster's folder, gone with its cluster at the end of the test.
struct Place(PathBuf);

impl Place {
    /// `name` makes the folder, and so the socket's path, as long as a test wants it.
    fn new(name: &str) -> Self {
        let base = tempfile::Builder::new().prefix("ls-").tempdir().unwrap().keep();
        // Postgres runs as another user when the test is root.
        fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self(base.join(name))
    }

    fn longshore(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output =
            Command::new(LONGSHORE).arg("postgres").args(arguments).arg("--dir").arg(&self.0).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn server(&self) -> Pid {
        let file = fs::read_to_string(self.0.join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.longshore(&["stop", "--remove"]);
        fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

async fn database_answers(url: &str) -> bool {
    let Ok(mut connection) = PgConnection::connect(url).await else {
        return false;
    };
    let name: String = sqlx::query_scalar("select current_database()::text").fetch_one(&mut connection).await.unwrap();
    name == "longshore"
}

#[tokio::test]
async fn starting_and_stopping_twice_is_safe() {
    let place = Place::new("pg");
    let (code, url, stderr) = place.longshore(&["start"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(database_answers(&url).await);
    let server = place.server();
    assert_eq!(place.longshore(&["start"]), (Some(0), url.clone(), String::new()));
    assert_eq!(place.server(), server);
    assert_eq!(place.longshore(&["url"]).1, url);
    let (code, _, refusal) = place.longshore(&["start", "--tcp"]);
    assert_eq!(code, Some(4), "{refusal}");
    assert_eq!(place.longshore(&["stop"]).0, Some(0));
    assert_eq!(place.longshore(&["stop"]).0, Some(0));
    assert_eq!(place.longshore(&["url"]).0, Some(3));
    assert!(!database_answers(&url).await);
}

#[tokio::test]
async fn a_cluster_whose_server_was_killed_starts_again() {
    let place = Place::new("pg");
    let (_, url, _) = place.longshore(&["start"]);
    kill(place.server(), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while place.longshore(&["url"]).0 == Some(0) {
        assert!(Instant::now() < deadline, "the killed server still counts as running");
    }
    assert_eq!(place.longshore(&["start"]).1, url);
    assert!(database_answers(&url).await);
}

#[tokio::test]
async fn a_process_file_that_names_a_stranger_does_not_keep_it_from_starting() {
    let place = Place::new("pg");
    place.longshore(&["start"]);
    let file = place.0.join("data/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    place.longshore(&["stop"]);
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let rest = text.split_once('\n').unwrap().1;
    fs::write(&file, format!("{}\n{rest}", stranger.id())).unwrap();
    assert_eq!(place.longshore(&["url"]).0, Some(3));
    let (code, url, stderr) = place.longshore(&["start"]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(database_answers(&url).await);
}

#[tokio::test]
async fn a_folder_too_deep_for_a_socket_gets_one_elsewhere() {
    let place = Place::new(&"deep".repeat(25));
    let (code, url, stderr) = place.longshore(&["start"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(database_answers(&url).await);
    let (_, socket_dir) = url.split_once("host=").unwrap();
    let socket_dir = Path::new(socket_dir.split('&').next().unwrap());
    assert!(!socket_dir.starts_with(&place.0));
    place.longshore(&["stop"]);
    assert!(!socket_dir.exists());
}

#[tokio::test]
async fn tcp_needs_the_generated_password() {
    let place = Place::new("pg");
    let (code, url, stderr) = place.longshore(&["start", "--tcp"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(database_answers(&url).await);
    let (user, rest) = url.rsplit_once(':').unwrap().0.rsplit_once(':').unwrap();
    let host = rest.split_once('@').unwrap().1;
    let port = url.rsplit_once(':').unwrap().1;
    assert!(!database_answers(&format!("{user}:guessed@{host}:{port}")).await);
}

#[tokio::test]
async fn an_ephemeral_cluster_goes_with_its_holder() {
    let embedded = Embedded::start(None, Listen::Socket, Path::new(LONGSHORE)).await.unwrap();
    let (url, dir) = (embedded.url().to_owned(), embedded.dir().to_owned());
    assert!(database_answers(&url).await);
    drop(embedded);
    assert!(!database_answers(&url).await);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_cluster_that_ran_before_is_left_running() {
    let place = Place::new("pg");
    let (_, url, _) = place.longshore(&["start"]);
    let embedded = Embedded::start(Some(&place.0), Listen::Socket, Path::new(LONGSHORE)).await.unwrap();
    assert_eq!(embedded.url(), url);
    drop(embedded);
    assert!(database_answers(&url).await);
}

/// What a `kill -9` of the holder does: the guard's pipe closes, and nothing else is told.
#[tokio::test]
async fn the_guard_stops_the_cluster_when_its_pipe_closes() {
    let place = Place::new("pg");
    let (_, url, _) = place.longshore(&["start"]);
    let mut guard = Command::new(LONGSHORE)
        .args(["postgres", "guard", "--dir"])
        .arg(&place.0)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(database_answers(&url).await);
    drop(guard.stdin.take());
    assert!(guard.wait().unwrap().success());
    assert!(!database_answers(&url).await);
    assert!(Cluster::at(&place.0).unwrap().url().unwrap().is_none());
}
