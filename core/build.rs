//! Builds again when a migration is added: `sqlx::migrate!` embeds the folder.
#![allow(clippy::print_stdout)] // how a build script talks to cargo

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
