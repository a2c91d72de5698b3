//! `longshore import`: other systems' files as definitions of ours, printed for `workflow apply`, or applied.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use longshore::{
    exit::Exit,
    wfcommons::{self, Graph},
};

use super::workflow;
use crate::{Global, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
        let Self::Wfcommons { file, name, time_scale, apply } = self;
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
