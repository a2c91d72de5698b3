//! A network namespace for one worker, joined to this one by a pair of virtual links; with the link down every packet is dropped and nobody is told.
//! Needs root and `ip`.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// See the module. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Partition {
    namespace: String,
    link: String,
    /// This side's address.
    pub(crate) here: IpAddr,
    /// The worker's.
    pub(crate) there: IpAddr,
}

impl Partition {
    /// Make one. The error says what is missing.
    pub(crate) fn make() -> Result<Self> {
        let id = std::process::id();
        // of the range for benchmarks of networks (RFC 2544), which nothing routes
        let net = u8::try_from(id % 64).unwrap_or(0) * 4;
        let made = Self {
            namespace: format!("longshore-{id}"),
            link: format!("ls{id}"),
            here: IpAddr::V4(Ipv4Addr::new(198, 18, 7, net + 1)),
            there: IpAddr::V4(Ipv4Addr::new(198, 18, 7, net + 2)),
        };
        let (namespace, link, peer) = (&made.namespace, &made.link, format!("{}p", made.link));
        ip(&["netns", "add", namespace])?;
        ip(&["link", "add", link, "type", "veth", "peer", "name", &peer, "netns", namespace])?;
        ip(&["addr", "add", &format!("{}/30", made.here), "dev", link])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", namespace, "addr", "add", &format!("{}/30", made.there), "dev", &peer])?;
        ip(&["-n", namespace, "link", "set", &peer, "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// The words before a program that is to run in there.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace].map(str::to_owned).to_vec()
    }

    /// Drop everything from here on.
    pub(crate) fn part(&self) -> Result<()> {
        // the far side's link: the address of this side stays, so nothing here learns of it
        ip(&["-n", &self.namespace, "link", "set", &format!("{}p", self.link), "down"])
    }

    /// Drop nothing any more.
    pub(crate) fn heal(&self) -> Result<()> {
        ip(&["-n", &self.namespace, "link", "set", &format!("{}p", self.link), "up"])
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // the links go with it
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("the program ip is missing")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
