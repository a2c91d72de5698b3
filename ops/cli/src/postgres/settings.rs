//! The configuration of a private cluster: durable as a production one (fsync and synchronous commit stay
//! on), sized for this machine, reachable only through its socket folder or a password.

use std::{fmt::Write, fs, path::Path};

/// How clients reach a private cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket in a folder only its owner and root may enter.
    Socket,
    /// 127.0.0.1 on a free port, with a generated password.
    Tcp,
}

const MEBIBYTE: u64 = 1024 * 1024;

/// The text of the cluster's own configuration file.
pub(super) fn text(socket_dir: Option<&Path>, port: u16, shared_buffers_mb: u64) -> String {
    let address = if socket_dir.is_some() { "" } else { "127.0.0.1" };
    let socket_dir = socket_dir.map_or(String::new(), |dir| dir.display().to_string());
    let mut text =
        String::from("# Written by longshore at each start; put your own in postgresql.conf, below the include.\n");
    for (name, value) in [
        ("listen_addresses", address),
        ("unix_socket_directories", &quoted(&socket_dir)),
        ("unix_socket_permissions", "0700"),
        ("port", &port.to_string()),
        ("cluster_name", "longshore"),
        ("max_connections", "200"),
        ("shared_buffers", &format!("{shared_buffers_mb}MB")),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "15min"),
        ("autovacuum_naptime", "15s"), // the hot tables turn over within seconds
        ("jit", "off"),                // every statement here is short
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("logging_collector", "off"),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
    }
    text
}

/// A folder as an element of a configuration list: in double quotes, so that commas and blanks in it count.
fn quoted(dir: &str) -> String {
    match dir {
        "" => String::new(),
        dir => format!("\"{}\"", dir.replace('"', "\"\"")),
    }
}

/// An eighth of this machine's memory (of the container's limit, where there is one), 32 to 512 MiB.
pub(super) fn shared_buffers_mb() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024);
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    buffers_for(total, limit)
}

fn buffers_for(total: Option<u64>, limit: Option<u64>) -> u64 {
    let memory = total.into_iter().chain(limit).min().unwrap_or(1024 * MEBIBYTE);
    (memory / 8 / MEBIBYTE).clamp(32, 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_follow_the_smaller_of_machine_and_container() {
        let gib = 1024 * MEBIBYTE;
        assert_eq!(buffers_for(Some(64 * gib), None), 512);
        assert_eq!(buffers_for(Some(64 * gib), Some(2 * gib)), 256);
        assert_eq!(buffers_for(Some(128 * MEBIBYTE), None), 32);
        assert_eq!(buffers_for(None, None), 128);
    }

    #[test]
    fn a_socket_cluster_listens_on_no_address() {
        let text = text(Some(Path::new("/tmp/it's, here")), 5432, 64);
        assert!(text.contains("listen_addresses = ''\n"));
        assert!(text.contains("unix_socket_directories = '\"/tmp/it''s, here\"'\n"));
        assert!(!text.contains("fsync"));
    }
}
