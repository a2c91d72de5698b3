//! The unprivileged user a private cluster runs as when its caller is root: Postgres refuses root. The
//! user `postgres` where there is one, else `nobody`; for any other caller there is no owner, the cluster
//! is the caller's own.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, fs::lchown, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{User, geteuid};

/// A user to drop to.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    name: String,
    uid: u32,
    gid: u32,
}

impl Owner {
    /// The user this process must run Postgres as; none when the process is not root.
    ///
    /// # Errors
    /// When the process is root and the system has neither a user `postgres` nor `nobody`.
    pub(super) fn for_this_process() -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("cannot look up users")? {
                return Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        bail!(
            "Postgres refuses to run as root, and this system has neither a user postgres nor nobody to run it as: run this command as another user"
        );
    }

    /// Make the command run as this user, without the caller's groups.
    pub(super) fn own(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Hand a file or folder (not what is in it) to this user. Symbolic links are not followed.
    pub(super) fn take(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Make sure that this user can pass through every folder down to `dir`.
    ///
    /// # Errors
    /// Names the first folder that is closed.
    pub(super) fn check_reach(&self, dir: &Path) -> Result<()> {
        let mut folders: Vec<&Path> = dir.ancestors().collect();
        folders.reverse();
        for folder in folders {
            let Ok(meta) = fs::metadata(folder) else {
                continue; // not made yet
            };
            let bits = meta.mode();
            let open = if meta.uid() == self.uid {
                bits & 0o100 != 0
            } else if meta.gid() == self.gid {
                bits & 0o010 != 0
            } else {
                bits & 0o001 != 0
            };
            if !open {
                bail!(
                    "the folder {} is closed to the user {}, who runs the database because Postgres refuses root: choose a --dir that user can reach, such as one under /var/lib",
                    folder.display(),
                    self.name
                );
            }
        }
        Ok(())
    }
}
