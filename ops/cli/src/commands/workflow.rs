//! `longshore workflow`: definitions in files checked and published, and what is published.

mod order;
mod test;

use std::{
    collections::HashMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use longshore::{cases, exit::Exit};
use longshore_core::{
    definition::{Definition, Problem},
    graph::Graph,
    session::Session,
    workflow,
};
use serde::Serialize;
use serde_json::Value;

use super::table::{table, time};
use crate::Global;

const STDIN: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish definitions; content that is published already stays the version it is
    Apply(Files),
    /// Check definitions without publishing them
    Validate(Files),
    /// Run the cases of test files, with mocks and without waiting for time to pass
    Test(test::Arguments),
    /// Every workflow with its latest version
    List,
    /// A version as it was published
    Show {
        /// The workflow's name
        workflow: String,
        /// The version [default: the latest]
        #[arg(long)]
        version: Option<i32>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Files {
    /// JSON files, folders of them, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A definition that was read, and where.
pub(crate) struct Source {
    file: String,
    definition: Result<Value, String>,
}

#[derive(Serialize)]
struct Applied {
    workflows: Vec<AppliedWorkflow>,
}

#[derive(Serialize)]
struct AppliedWorkflow {
    workflow: String,
    version: i32,
    created: bool,
    file: String,
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    workflows: Vec<CheckedWorkflow>,
    problems: Vec<FileProblem>,
}

#[derive(Serialize)]
struct CheckedWorkflow {
    workflow: String,
    nodes: usize,
    edges: usize,
    file: String,
}

#[derive(Serialize)]
struct FileProblem {
    file: String,
    #[serde(flatten)]
    problem: Problem,
}

#[derive(Serialize)]
struct Listed {
    workflows: Vec<ListedWorkflow>,
}

#[derive(Serialize)]
struct ListedWorkflow {
    workflow: String,
    version: i32,
    nodes: i64,
    published_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Shown {
    workflow: String,
    version: i32,
    published_at: DateTime<Utc>,
    content_hash: String,
    definition: Value,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Apply(files) => apply(global, files.read()?).await,
            Self::Validate(files) => validate(global, files.read()?),
            Self::Test(arguments) => arguments.run(global).await,
            Self::List => list(global).await,
            Self::Show { workflow, version } => show(global, &workflow, version).await,
        }
    }
}

impl Source {
    pub(crate) fn of(file: &Path, definition: Value) -> Self {
        Self { file: file.display().to_string(), definition: Ok(definition) }
    }

    fn parse(file: String, text: &str) -> Self {
        Self { file, definition: serde_json::from_str(text).map_err(|error| error.to_string()) }
    }

    /// What the file holds.
    fn json(self) -> Result<Value, FileProblem> {
        self.definition.map_err(|message| {
            let problem = Problem {
                path: String::new(),
                message: format!("not JSON: {message}"),
                fix: "write one JSON object".to_owned(),
            };
            FileProblem { file: self.file, problem }
        })
    }

    fn check(self) -> Result<(String, Definition), Vec<FileProblem>> {
        let file = self.file.clone();
        let value = self.json().map_err(|problem| vec![problem])?;
        let checked =
            Definition::from_json(&value).and_then(|definition| Graph::compile(&definition).map(|_| definition));
        match checked {
            Ok(definition) => Ok((file, definition)),
            Err(problems) => {
                Err(problems.0.into_iter().map(|problem| FileProblem { file: file.clone(), problem }).collect())
            }
        }
    }
}

impl Files {
    /// Every definition, in the order of the arguments; those of a folder by name.
    fn read(&self) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for path in &self.files {
            if path == Path::new(STDIN) {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
                sources.push(Source::parse(STDIN.to_owned(), &text));
            } else if path.is_dir() {
                let mut files = json_files(path)?;
                if files.is_empty() {
                    return Err(Exit::NotFound.error(format!("the folder {} has no .json file", path.display())));
                }
                files.sort();
                for file in files {
                    sources.push(read(&file)?);
                }
            } else {
                sources.push(read(path)?);
            }
        }
        Ok(sources)
    }
}

fn read(path: &Path) -> Result<Source> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Source::parse(path.display().to_string(), &text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Exit::NotFound.error(format!("there is no file {}", path.display())))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The definitions of a folder: its `.json` files, but for tests and state machines.
fn json_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let others = [cases::SUFFIX, ".asl.json"];
    files_of(folder, |name| name.ends_with(".json") && !others.iter().any(|other| name.ends_with(other)))
}

/// The test files of a folder, by name.
fn test_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_of(folder, |name| name.ends_with(cases::SUFFIX))?;
    files.sort();
    Ok(files)
}

fn files_of(folder: &Path, is_one: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let named = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(&is_one);
    Ok(paths.into_iter().filter(|path| path.is_file() && named(path)).collect())
}

/// The definitions, or every problem of all of them.
fn check(sources: Vec<Source>) -> (Vec<(String, Definition)>, Vec<FileProblem>) {
    let (mut good, mut problems) = (Vec::<(String, Definition)>::new(), Vec::new());
    let mut files: HashMap<String, String> = HashMap::new();
    for source in sources {
        match source.check() {
            Ok((file, definition)) => {
                if let Some(other) = files.insert(definition.name.clone(), file.clone()) {
                    let problem = Problem {
                        path: "name".to_owned(),
                        message: format!("{other} defines the workflow {:?}, too", definition.name),
                        fix: "give each its own name, or apply one of them".to_owned(),
                    };
                    problems.push(FileProblem { file: file.clone(), problem });
                }
                good.push((file, definition));
            }
            Err(found) => problems.extend(found),
        }
    }
    (good, problems)
}

/// Publish all of them, children first, or none if one has a problem.
pub(crate) async fn apply(global: &Global, sources: Vec<Source>) -> Result<()> {
    let (definitions, problems) = check(sources);
    if !problems.is_empty() {
        return report(global, definitions, problems, ", nothing is applied");
    }
    let mut connection = global.connect().await?;
    longshore_core::migrate::check(&mut Session::direct(&mut connection)).await?;
    let problems = order::unknown_children(&mut connection, &definitions).await?;
    if !problems.is_empty() {
        return report(global, definitions, problems, ", nothing is applied");
    }
    let mut applied = Applied { workflows: Vec::new() };
    for (file, definition) in order::children_first(definitions) {
        let published = workflow::publish(&mut connection, &definition).await.with_context(|| file.clone())?;
        let (version, created) = (published.version, published.created);
        applied.workflows.push(AppliedWorkflow { workflow: definition.name, version, created, file });
    }
    global.output.print(&applied, |applied| {
        let line = |workflow: &AppliedWorkflow| {
            let what = if workflow.created { "created" } else { "unchanged" };
            format!("{} version {} {what}", workflow.workflow, workflow.version)
        };
        applied.workflows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn validate(global: &Global, sources: Vec<Source>) -> Result<()> {
    let (definitions, problems) = check(sources);
    report(global, definitions, problems, "")
}

/// What was checked; fails where there are problems, and says what comes of that.
fn report(global: &Global, definitions: Vec<(String, Definition)>, problems: Vec<FileProblem>, so: &str) -> Result<()> {
    let checked = Checked {
        valid: problems.is_empty(),
        workflows: definitions
            .into_iter()
            .map(|(file, definition)| CheckedWorkflow {
                nodes: definition.size().nodes,
                edges: definition.size().edges,
                workflow: definition.name,
                file,
            })
            .collect(),
        problems,
    };
    global.output.print(&checked, |checked| {
        let good = |it: &CheckedWorkflow| format!("{} is valid: {} nodes, {} edges", it.workflow, it.nodes, it.edges);
        let bad = |it: &FileProblem| format!("{}: {}", it.file, it.problem);
        match checked.valid {
            true => checked.workflows.iter().map(good).collect::<Vec<_>>().join("\n"),
            false => checked.problems.iter().map(bad).collect::<Vec<_>>().join("\n"),
        }
    })?;
    match checked.problems.len() {
        0 => Ok(()),
        1 => Err(Exit::Failed.error(format!("1 problem{so}"))),
        count => Err(Exit::Failed.error(format!("{count} problems{so}"))),
    }
}

async fn list(global: &Global) -> Result<()> {
    let workflows = workflow::list(&mut global.connect().await?).await?;
    let listed = Listed {
        workflows: workflows
            .into_iter()
            .map(|listed| ListedWorkflow {
                workflow: listed.workflow,
                version: listed.version,
                nodes: listed.nodes,
                published_at: listed.published_at,
            })
            .collect(),
    };
    global.output.print(&listed, |listed| {
        let row = |workflow: &ListedWorkflow| {
            [
                workflow.workflow.clone(),
                workflow.version.to_string(),
                workflow.nodes.to_string(),
                time(workflow.published_at),
            ]
        };
        let rows = listed.workflows.iter().map(row).collect();
        table(["workflow", "version", "nodes", "published"], &[1, 2], rows)
    })
}

async fn show(global: &Global, name: &str, version: Option<i32>) -> Result<()> {
    let Some(shown) = workflow::show(&mut global.connect().await?, name, version).await? else {
        return Err(Exit::NotFound.error(match version {
            Some(version) => format!("there is no version {version} of a workflow {name:?}"),
            None => format!("there is no workflow {name:?}"),
        }));
    };
    let shown = Shown {
        workflow: shown.workflow,
        version: shown.version,
        published_at: shown.published_at,
        content_hash: shown.content_hash,
        definition: shown.definition,
    };
    let definition = serde_json::to_string_pretty(&shown.definition)?;
    global.output.print(&shown, |shown| {
        format!("{} version {}, published {}\n{definition}", shown.workflow, shown.version, time(shown.published_at))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn source(file: &str, value: Value) -> Source {
        Source::of(Path::new(file), value)
    }

    #[test]
    fn problems_of_all_files_are_found_at_once() {
        let good = json!({"name": "a", "nodes": [{"id": "n", "type": "task", "handler": "echo"}], "edges": []});
        let bad = json!({"name": "b", "nodes": [{"id": "n", "type": "task"}], "edges": [["n", "m"]]});
        let sources = vec![
            source("1.json", good.clone()),
            source("2.json", bad),
            Source::parse("3.json".to_owned(), "{"),
            source("4.json", good),
        ];
        let (definitions, problems) = check(sources);
        assert_eq!(definitions.len(), 2);
        let mut files: Vec<&str> = problems.iter().map(|problem| problem.file.as_str()).collect();
        files.dedup();
        assert_eq!(files, ["2.json", "3.json", "4.json"]);
        assert!(problems.iter().any(|problem| problem.problem.message.contains("not JSON")));
        assert!(problems.iter().any(|problem| problem.problem.message.contains("1.json defines the workflow \"a\"")));
    }
}
