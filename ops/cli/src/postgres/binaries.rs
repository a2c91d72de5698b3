//! Finding Postgres on this machine: a folder with `initdb`, `pg_ctl` and `postgres` of version 15 or
//! newer. `LONGSHORE_PG_BIN` decides alone; otherwise the usual places are tried in order.

use std::{
    collections::HashSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::owner::Owner;
use crate::exit::Exit;

/// The environment variable that names the folder of Postgres' programs.
pub(super) const PG_BIN: &str = "LONGSHORE_PG_BIN";
/// The oldest major version the schema runs on.
pub(super) const OLDEST: u32 = 15;

const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// Folders of versioned installations: everything in the first path whose name starts with the second,
/// then the third below it. Debian, Red Hat, Alpine, Homebrew, Postgres.app.
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];
const PLAIN: [&str; 3] = ["/usr/local/pgsql/bin", "/opt/homebrew/bin", "/usr/local/bin"];

/// A folder of Postgres programs that can run here.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    /// The folder, absolute.
    pub(super) dir: PathBuf,
    /// The major version, 15 or more.
    pub(super) major: u32,
}

impl Binaries {
    /// Find programs that `owner` (or the caller) can run; with `major`, of just that version, since a
    /// data folder belongs to one.
    ///
    /// # Errors
    /// Says what was found instead and how to get what is needed.
    pub(super) fn find(owner: Option<&Owner>, major: Option<u32>) -> Result<Self> {
        if let Some(dir) = env::var_os(PG_BIN).filter(|dir| !dir.is_empty()) {
            let found = Self::probe(&std::path::absolute(&dir)?, owner)
                .with_context(|| format!("{PG_BIN} names {}", Path::new(&dir).display()))?;
            return match found.unusable(major) {
                Some(why) => bail!("{PG_BIN} names {}: {why}", found.dir.display()),
                None => Ok(found),
            };
        }
        let mut refused = Vec::new();
        for dir in candidates() {
            if let Ok(found) = Self::probe(&dir, owner) {
                match found.unusable(major) {
                    None => return Ok(found),
                    Some(why) => refused.push(format!("{}: {why}", dir.display())),
                }
            }
        }
        let wanted = major.map_or(format!("Postgres {OLDEST} or newer"), |major| {
            format!("Postgres {major} (the version this data folder was made by)")
        });
        let seen = match refused.is_empty() {
            true => String::new(),
            false => format!(" (found {})", refused.join("; ")),
        };
        Err(Exit::NotFound.error(format!(
            "found no {wanted}{seen}: install it (Debian and Ubuntu: apt-get install postgresql; macOS: brew install postgresql), or set {PG_BIN} to the folder of its initdb, pg_ctl and postgres"
        )))
    }

    /// A command of this installation, run as `owner`, deaf to the caller's own Postgres settings.
    pub(super) fn command(&self, program: &str, owner: Option<&Owner>) -> Command {
        command(&self.dir, program, owner)
    }

    fn probe(dir: &Path, owner: Option<&Owner>) -> Result<Self> {
        for program in PROGRAMS {
            if !dir.join(program).is_file() {
                bail!("no program {program} in {}", dir.display());
            }
        }
        let output = command(dir, "postgres", owner).arg("--version").output().context("cannot run postgres")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let major = parse_major(&text).with_context(|| format!("`postgres --version` says {:?}", text.trim()))?;
        Ok(Self { dir: dir.to_owned(), major })
    }

    fn unusable(&self, wanted: Option<u32>) -> Option<String> {
        match wanted {
            _ if self.major < OLDEST => Some(format!("version {} is older than {OLDEST}", self.major)),
            Some(wanted) if wanted != self.major => {
                Some(format!("version {}, the data folder needs {wanted}", self.major))
            }
            _ => None,
        }
    }
}

fn command(dir: &Path, program: &str, owner: Option<&Owner>) -> Command {
    let mut command = Command::new(dir.join(program));
    command
        .current_dir("/") // the caller's own may be closed to the owner
        .stdin(Stdio::null())
        .env("LC_ALL", "C");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(owner) = owner {
        owner.own(&mut command);
    }
    command
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0)` is 15; betas and development versions count as theirs.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let config = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output();
    if let Ok(output) = config
        && output.status.success()
    {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for dir in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        for program in PROGRAMS {
            // A link in /usr/bin leads to the folder that has all of them.
            if let Ok(target) = fs::canonicalize(dir.join(program)) {
                dirs.extend(target.parent().map(Path::to_owned));
            }
        }
    }
    for (base, prefix, below) in VERSIONED {
        let mut found: Vec<_> = fs::read_dir(base)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect();
        found.sort_by_key(|path| std::cmp::Reverse(number_in(path)));
        dirs.extend(found.into_iter().map(|path| path.join(below)));
    }
    dirs.extend(PLAIN.map(PathBuf::from));
    let mut seen = HashSet::new();
    dirs.retain(|dir| seen.insert(dir.clone()));
    dirs
}

/// The version in a folder's name: 16 for `postgresql@16` and `16`.
fn number_in(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let major = |text| parse_major(text);
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("something else 12"), None);
    }

    #[test]
    fn folder_names_sort_by_version() {
        assert_eq!(number_in(Path::new("/opt/postgresql@16")), 16);
        assert_eq!(number_in(Path::new("/usr/lib/postgresql/9")), 9);
        assert_eq!(number_in(Path::new("/opt/postgresql")), 0);
    }
}
