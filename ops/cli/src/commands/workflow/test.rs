//! `longshore workflow test`: the cases of test files, and what of their definitions they went through.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use longshore::{
    cases::{SUFFIX, TestFile, beside},
    exit::Exit,
    postgres::{Embedded, Listen},
};
use longshore_core::{
    definition::{Definition, Problem},
    state::RunState,
};
use longshore_worker::testing::{Coverage, EdgeCoverage, TestBench, Went};
use serde::Serialize;
use uuid::Uuid;

use super::{FileProblem, Source, order, read, test_files};
use crate::{Global, commands::progress::Progress, commands::table::table, output::Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Test files (NAME.test.json), definitions with such a file beside them, or folders of test files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Fail if less of a definition is covered than this part of its nodes, edges and bodies
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    require_coverage: Option<u8>,
}

/// A test file that is sound, with the definitions it needs, children first.
struct Suite {
    file: PathBuf,
    tests: TestFile,
    workflow: String,
    definitions: Vec<Definition>,
}

#[derive(Default, Serialize)]
struct Outcome {
    files: Vec<FileOutcome>,
    passed: usize,
    failed: usize,
    problems: Vec<FileProblem>,
}

#[derive(Serialize)]
struct FileOutcome {
    file: String,
    workflow: String,
    cases: Vec<CaseOutcome>,
    coverage: FileCoverage,
}

#[derive(Serialize)]
struct CaseOutcome {
    name: String,
    passed: bool,
    failures: Vec<String>,
    run_id: Uuid,
    state: RunState,
    seconds: f64,
}

#[derive(Serialize)]
struct FileCoverage {
    covered: usize,
    total: usize,
    percent: f64,
    #[serde(flatten)]
    what: Coverage,
}

impl Arguments {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (suites, problems) = self.read()?;
        if !problems.is_empty() {
            let count = problems.len();
            global.output.print(&Outcome { problems, ..Outcome::default() }, Outcome::text)?;
            return Err(Exit::Usage.error(match count {
                1 => "1 problem, nothing is run".to_owned(),
                count => format!("{count} problems, nothing is run"),
            }));
        }
        let progress = Progress::new();
        let embedded = match global.named_database_url() {
            Some(_) => None,
            None => {
                let longshore = std::env::current_exe().context("cannot find this program")?;
                Some(Embedded::start(None, Listen::Socket, &longshore).await?)
            }
        };
        let url = embedded.as_ref().map(Embedded::url).or(global.named_database_url()).unwrap_or_default();
        progress.say(match embedded {
            Some(_) => "the cases run on a private Postgres, which is deleted afterwards",
            None => "the workflows are published and the cases run on the database of --database-url",
        });
        let mut outcome = Outcome::default();
        for suite in &suites {
            outcome.add(suite.run(url, global.output).await?);
        }
        global.output.print(&outcome, Outcome::text)?;
        outcome.verdict(self.require_coverage)
    }

    /// The files with their definitions, or everything that is wrong with them.
    fn read(&self) -> Result<(Vec<Suite>, Vec<FileProblem>)> {
        let (mut suites, mut problems) = (Vec::new(), Vec::new());
        for path in &self.files {
            let files = if path.is_dir() { test_files(path)? } else { vec![test_file(path)] };
            if files.is_empty() {
                return Err(
                    Exit::Usage.error(format!("the folder {} has no file that ends in {SUFFIX}", path.display()))
                );
            }
            for file in files {
                match suite(file)? {
                    Ok(suite) => suites.push(suite),
                    Err(found) => problems.extend(found),
                }
            }
        }
        Ok((suites, problems))
    }
}

/// The test file itself, or the one beside a definition.
fn test_file(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match (name.ends_with(SUFFIX), name.strip_suffix(".json")) {
        (false, Some(stem)) => path.with_file_name(format!("{stem}{SUFFIX}")),
        _ => path.to_owned(),
    }
}

fn suite(file: PathBuf) -> Result<Result<Suite, Vec<FileProblem>>> {
    let name = file.display().to_string();
    let in_file = |problem: Problem| FileProblem { file: name.clone(), problem };
    let tests = match found(&file)?.json() {
        Ok(value) => TestFile::from_json(&value).map_err(|problems| problems.into_iter().map(in_file).collect()),
        Err(problem) => Err(vec![problem]),
    };
    let tests = match tests {
        Ok(tests) => tests,
        Err(problems) => return Ok(Err(problems)),
    };
    let paths: Vec<PathBuf> = [tests.definition_at(&file)]
        .into_iter()
        .chain(tests.workflows.iter().map(|path| beside(&file, path)))
        .collect();
    let (mut definitions, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match found(&path)?.check() {
            Ok(definition) => definitions.push(definition),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        let plain: Vec<Definition> = definitions.iter().map(|(_, definition)| definition.clone()).collect();
        problems.extend(tests.check(&plain).into_iter().map(in_file));
    }
    let workflow = definitions.first().map(|(_, definition)| definition.name.clone()).unwrap_or_default();
    let definitions = order::children_first(definitions).into_iter().map(|(_, definition)| definition).collect();
    Ok(if problems.is_empty() { Ok(Suite { file, tests, workflow, definitions }) } else { Err(problems) })
}

/// A file that is missing is a mistake of whoever names it, like any in a file.
fn found(path: &Path) -> Result<Source> {
    read(path).map_err(|error| match Exit::of(&error) {
        Exit::NotFound => Exit::Usage.error(error.to_string()),
        _ => error,
    })
}

impl Suite {
    async fn run(&self, url: &str, format: Format) -> Result<FileOutcome> {
        let file = self.file.display().to_string();
        let mut bench = TestBench::connect(url).await?;
        for definition in &self.definitions {
            bench.apply(definition)?;
        }
        let mut coverage = Coverage::default();
        let mut cases = Vec::with_capacity(self.tests.cases.len());
        for case in &self.tests.cases {
            let began = Instant::now();
            let run = bench.run(&case.case(&self.workflow)).await;
            let tested = run.with_context(|| format!("{file}, case {:?}", case.name))?;
            coverage.add(&tested.coverage);
            let failures = case.failures(&tested);
            let seconds = began.elapsed().as_secs_f64();
            if format == Format::Text && !failures.is_empty() {
                Progress::new().say(&format!("{file}: {} fails", case.name));
            }
            cases.push(CaseOutcome {
                name: case.name.clone(),
                passed: failures.is_empty(),
                failures,
                run_id: tested.run_id,
                state: tested.state,
                seconds,
            });
        }
        let coverage = FileCoverage {
            covered: coverage.covered(),
            total: coverage.total(),
            percent: coverage.percent(),
            what: coverage,
        };
        Ok(FileOutcome { file, workflow: self.workflow.clone(), cases, coverage })
    }
}

impl Outcome {
    fn add(&mut self, file: FileOutcome) {
        let passed = file.cases.iter().filter(|case| case.passed).count();
        self.passed += passed;
        self.failed += file.cases.len() - passed;
        self.files.push(file);
    }

    fn verdict(&self, required: Option<u8>) -> Result<()> {
        let (failed, all) = (self.failed, self.failed + self.passed);
        let mut wrong = if failed > 0 { vec![format!("{failed} of {all} cases failed")] } else { Vec::new() };
        let required = required.map(f64::from).unwrap_or_default();
        let too_little = self.files.iter().filter(|file| file.coverage.percent < required);
        wrong.extend(too_little.map(|file| {
            format!(
                "{} covers {:.1} % of {}, {required} % are required",
                file.file, file.coverage.percent, file.workflow
            )
        }));
        if wrong.is_empty() { Ok(()) } else { Err(Exit::Failed.error(wrong.join("; "))) }
    }

    fn text(&self) -> String {
        if !self.problems.is_empty() {
            let problem = |it: &FileProblem| format!("{}: {}", it.file, it.problem);
            return self.problems.iter().map(problem).collect::<Vec<_>>().join("\n");
        }
        self.files.iter().map(FileOutcome::text).collect::<Vec<_>>().join("\n\n")
    }
}

impl FileOutcome {
    fn text(&self) -> String {
        let mut text = format!("{} ({})", self.file, self.workflow);
        for case in &self.cases {
            let word = if case.passed { "ok    " } else { "FAILED" };
            text += &format!("\n  {word}  {}", case.name);
            for failure in &case.failures {
                text += &format!("\n            {failure}");
            }
        }
        let Coverage { nodes, edges, bodies } = &self.coverage.what;
        let row = |what: &str, covered: usize, all: usize, other: String| {
            [what.to_owned(), covered.to_string(), all.to_string(), other]
        };
        let went = |went: Went| nodes.iter().filter(move |node| node.went == went).map(|node| node.node.clone());
        let untaken = edges.iter().filter(|edge| !edge.taken).map(edge_text);
        let unrun = bodies.iter().filter(|body| !body.run).map(|body| body.body.clone());
        let missing = went(Went::Skipped).map(|node| format!("{node} (skipped)")).chain(went(Went::Never));
        let mut rows = vec![
            row("nodes run", went(Went::Run).count(), nodes.len(), join(missing)),
            row("edges taken", edges.iter().filter(|edge| edge.taken).count(), edges.len(), join(untaken)),
        ];
        if !bodies.is_empty() {
            rows.push(row("bodies run", bodies.iter().filter(|body| body.run).count(), bodies.len(), join(unrun)));
        }
        rows.push(row("all", self.coverage.covered, self.coverage.total, format!("{:.1} %", self.coverage.percent)));
        let table = table(["covered", "", "of", "not"], &[1, 2], rows);
        let table = table.lines().map(|line| format!("\n  {line}")).collect::<String>();
        text + &table
    }
}

fn edge_text(edge: &EdgeCoverage) -> String {
    let on = if edge.on == "success" { String::new() } else { format!(" on {}", edge.on) };
    format!("{} -> {}{on}", edge.from, edge.to)
}

fn join(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
