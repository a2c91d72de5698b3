//! A small disk for Postgres: a tmpfs of its own that can be filled to the last byte. Needs root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Enough for the run, and for what Postgres keeps of its log.
const SIZE: &str = "3g";

/// See the module. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mount one here. The error says what is missing.
    pub(crate) fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = format!("size={SIZE},mode=0755");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "longshore-chaos"]).arg(folder).output();
        let output = mounted.context("mount is missing")?;
        if !output.status.success() {
            bail!("a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { folder: folder.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Fill it until nothing fits.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        let mut block = vec![0; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(0) | Err(_) => block.truncate(block.len() / 2),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Give the space back.
    pub(crate) fn empty(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("cannot give the space back")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // what is left of it is said by the system's own list of mounts
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}
