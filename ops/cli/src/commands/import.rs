//! `longshore import`: other systems' files as definitions of ours, printed for `workflow apply`, or applied.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use longshore::{
    asl,
    exit::Exit,
    wfcommons::{self, Graph},
};

use super::workflow;
use crate::{Global, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A state machine in Amazon States Language: its states as nodes, its loops as `while`
    Asl {
        /// The file, JSON
        file: PathBuf,
        /// The workflow's name [default: the file's]
        #[arg(long)]
        name: Option<String>,
        /// Write the definition to this file instead of printing it
        #[arg(long, value_name = "FILE", conflicts_with = "apply")]
        out: Option<PathBuf>,
        /// Publish the definition instead of printing it
        #[arg(long)]
        apply: bool,
    },
    /// A recorded scientific workflow (WfFormat 1.5 or 1.6, plain or gzip): its shape, its run times slept
    Wfcommons {
        /// The file
        file: PathBuf,
        /// The workflow's name [default: the file's]
        #[arg(long)]
        name: Option<String>,
        /// What the recorded run times are multiplied by
        #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
        time_scale: f64,
        /// Publish the definition instead of printing it
        #[arg(long)]
        apply: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Asl { file, name, out, apply } => {
                let machine = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let machine =
                    serde_json::from_slice(&machine).with_context(|| format!("{} is no JSON", file.display()))?;
                let name = name.unwrap_or_else(|| asl::name_of(&file));
                let definition = asl::definition(&machine, &name).map_err(|refused| {
                    Exit::Failed.error(format!("{} cannot be translated\n{refused}", file.display()))
                })?;
                match out {
                    _ if apply => workflow::apply(global, vec![workflow::Source::of(&file, definition)]).await,
                    Some(out) => {
                        let text = serde_json::to_string_pretty(&definition)? + "\n";
                        fs::write(&out, text).with_context(|| format!("cannot write {}", out.display()))
                    }
                    None => output::line(&serde_json::to_string_pretty(&definition)?),
                }
            }
            Self::Wfcommons { file, name, time_scale, apply } => {
                if !time_scale.is_finite() || time_scale < 0.0 {
                    return Err(Exit::Usage.error(format!("--time-scale is {time_scale}: give 0 or more")));
                }
                let graph = Graph::read(&file)?;
                let name = name.unwrap_or_else(|| wfcommons::name_of(&file));
                let definition = graph.definition(&name, time_scale);
                match apply {
                    true => workflow::apply(global, vec![workflow::Source::of(&file, definition)]).await,
                    false => output::line(&serde_json::to_string_pretty(&definition)?),
                }
            }
        }
    }
}
