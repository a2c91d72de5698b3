//! Reads a recorded scientific workflow in WfCommons' format (WfFormat 1.5 and 1.6, plain or gzip) and
//! turns it into a workflow of ours that has its shape and sleeps for its run times. What is read here is
//! known to be a graph: unique ids, no dangling edge, no cycle, and no larger than a definition may be.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt, fs,
    io::Read,
    path::Path,
};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use longshore_core::definition::{MAX_EDGES, MAX_ID as LONGEST_ID, MAX_NODES};
use longshore_core::duration;
use serde::Deserialize;
use serde_json::{Value, json};

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The most a file may hold when unpacked, so that a small file cannot fill the memory.
const LARGEST: u64 = 512 * 1024 * 1024;
const VERSIONS: [&str; 2] = ["1.5", "1.6"];

/// The longest time a task may take, in seconds.
const LONGEST_SECONDS: f64 = duration::MAX.as_secs() as f64;

/// A recorded workflow: tasks, their run times, and who waits for whom.
#[derive(Clone, Debug)]
pub struct Graph {
    tasks: Vec<Task>,
    /// Pairs of task numbers, each once, ordered.
    edges: BTreeSet<(usize, usize)>,
    critical_path_seconds: f64,
}

#[derive(Clone, Debug)]
struct Task {
    /// The recorded id; in a definition's form where it was not.
    id: String,
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: Option<String>,
    workflow: Workflow,
}

#[derive(Deserialize)]
struct Workflow {
    specification: Option<Specification>,
    execution: Option<Execution>,
}

#[derive(Deserialize)]
struct Specification {
    tasks: Vec<SpecifiedTask>,
}

#[derive(Deserialize)]
struct SpecifiedTask {
    id: String,
    #[serde(default)]
    parents: Vec<String>,
    #[serde(default)]
    children: Vec<String>,
}

#[derive(Deserialize)]
struct Execution {
    tasks: Vec<ExecutedTask>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecutedTask {
    id: String,
    #[serde(default)]
    runtime_in_seconds: f64,
}

impl Graph {
    /// Read a file, gzipped or not.
    ///
    /// # Errors
    /// Names the file, and what in it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is not a workflow to import", path.display()))
    }

    /// Read the text of a file, gzipped or not. A task without a recorded execution takes no time.
    ///
    /// # Errors
    /// Names the task or the part of the file that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut unpacked = Vec::new();
        let text = if bytes.starts_with(&GZIP) {
            MultiGzDecoder::new(bytes).take(LARGEST + 1).read_to_end(&mut unpacked).context("damaged gzip data")?;
            if unpacked.len() as u64 > LARGEST {
                bail!("more than {LARGEST} bytes when unpacked");
            }
            &unpacked
        } else {
            bytes
        };
        let file: File = serde_json::from_slice(text).context("not WfFormat JSON")?;
        let version = file.schema_version.as_deref().unwrap_or("none");
        if !VERSIONS.contains(&version) {
            bail!(
                "schemaVersion is {}, not {}: convert the file with WfCommons first",
                Short(version),
                VERSIONS.join(" or ")
            );
        }
        let Some(specification) = file.workflow.specification else {
            bail!("workflow.specification is missing");
        };
        Self::build(specification.tasks, file.workflow.execution)
    }

    fn build(specified: Vec<SpecifiedTask>, execution: Option<Execution>) -> Result<Self> {
        if specified.is_empty() {
            bail!("workflow.specification.tasks is empty");
        }
        if specified.len() > MAX_NODES {
            bail!("{} tasks: a workflow has at most {MAX_NODES}", specified.len());
        }
        let mut numbers = HashMap::with_capacity(specified.len());
        for (number, task) in specified.iter().enumerate() {
            if numbers.insert(task.id.as_str(), number).is_some() {
                bail!("two tasks have the id \"{}\"", Short(&task.id));
            }
        }
        let number = |id: &str, of: &str, role: &str| {
            let found = numbers.get(id).copied();
            found.with_context(|| {
                format!("the task \"{}\" has the {role} \"{}\", which is no task", Short(of), Short(id))
            })
        };
        let mut edges = BTreeSet::new();
        for (this, task) in specified.iter().enumerate() {
            for parent in &task.parents {
                edges.insert((number(parent, &task.id, "parent")?, this));
            }
            for child in &task.children {
                edges.insert((this, number(child, &task.id, "child")?));
            }
        }
        if edges.len() > MAX_EDGES {
            bail!("{} edges: a workflow has at most {MAX_EDGES}", edges.len());
        }
        let mut seconds = vec![0.0; specified.len()];
        for task in execution.into_iter().flat_map(|execution| execution.tasks) {
            let Some(&number) = numbers.get(task.id.as_str()) else {
                bail!("workflow.execution has a task \"{}\", which is not specified", Short(&task.id));
            };
            if !(0.0..=LONGEST_SECONDS).contains(&task.runtime_in_seconds) {
                bail!(
                    "the task \"{}\" ran for {} s: a run time is 0 or more, and 100 years at most",
                    Short(&task.id),
                    task.runtime_in_seconds
                );
            }
            seconds[number] = task.runtime_in_seconds;
        }
        let ids = allowed_ids(specified.iter().map(|task| task.id.as_str()));
        let tasks: Vec<Task> = ids.into_iter().zip(seconds).map(|(id, seconds)| Task { id, seconds }).collect();
        let critical_path_seconds = critical_path(&tasks, &edges)?;
        Ok(Self { tasks, edges, critical_path_seconds })
    }

    /// How many tasks there are; at least one.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// The recorded run times along the path where they add up to most: no fleet is faster, at scale 1.
    pub fn critical_path_seconds(&self) -> f64 {
        self.critical_path_seconds
    }

    /// The scale at which the critical path takes `seconds` at most; never more than 1.
    pub fn scale_to(&self, seconds: f64) -> f64 {
        if self.critical_path_seconds <= seconds { 1.0 } else { seconds / self.critical_path_seconds }
    }

    /// The definition: each task a `task` node on `sleep`, for its run time × `time_scale`. Every node has
    /// an input of its own, so no step reads another's output.
    pub fn definition(&self, name: &str, time_scale: f64) -> Value {
        let nodes: Vec<Value> = self
            .tasks
            .iter()
            .map(|task| {
                // To the microsecond: more digits are noise in a definition.
                let seconds = ((task.seconds * time_scale).min(LONGEST_SECONDS) * 1e6).round() / 1e6;
                json!({"id": task.id, "type": "task", "handler": "sleep", "input": {"seconds": seconds}})
            })
            .collect();
        let edges: Vec<Value> =
            self.edges.iter().map(|&(from, to)| json!([self.tasks[from].id, self.tasks[to].id])).collect();
        json!({"name": name, "nodes": nodes, "edges": edges})
    }
}

/// The workflow name a file suggests: its name without `.json` and `.gz`, in the form a name must have.
pub fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file.strip_suffix(".gz").unwrap_or(&file);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    allowed(stem, LONGEST_ID)
}

/// The ids in the form a definition allows, still unique: an id that is allowed stays, another is spelled
/// with `_` and gets a number where that is taken.
pub(crate) fn allowed_ids<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let mut taken: HashSet<String> =
        ids.clone().filter(|id| allowed(id, LONGEST_ID) == **id).map(str::to_owned).collect();
    let mut numbers = HashMap::new();
    ids.map(|id| {
        let plain = allowed(id, LONGEST_ID);
        if plain == id {
            return plain;
        }
        // The counter ends: more numbers than ids cannot be taken. It goes on where it was for the last id that is
        // spelled so, or thousands of ids in another script, which are all spelled the same, would take minutes.
        let stem = allowed(id, LONGEST_ID - 12);
        let next = numbers.entry(stem.clone()).or_insert(1_usize);
        loop {
            let spelled = if *next == 1 { plain.clone() } else { format!("{stem}_{next}") };
            *next += 1;
            if taken.insert(spelled.clone()) {
                return spelled;
            }
        }
    })
    .collect()
}

/// A text of the file in a message, cut to a bearable length and escaped.
pub(crate) struct Short<'a>(pub(crate) &'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut: String = self.0.chars().take(64).collect();
        write!(f, "{}{}", cut.escape_debug(), if cut.len() < self.0.len() { "…" } else { "" })
    }
}

pub(crate) fn allowed(text: &str, longest: usize) -> String {
    let spelled: String = text
        .chars()
        .take(longest)
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' | ':' | '-' => c,
            _ => '_',
        })
        .collect();
    match spelled.is_empty() {
        true => "_".to_owned(),
        false => spelled,
    }
}

/// The largest sum of run times along a path, by going through the tasks in an order in which every task
/// comes after those it waits for.
fn critical_path(tasks: &[Task], edges: &BTreeSet<(usize, usize)>) -> Result<f64> {
    let mut waits_for = vec![0_usize; tasks.len()];
    for &(_, to) in edges {
        waits_for[to] += 1;
    }
    let mut ready: Vec<usize> = (0..tasks.len()).filter(|&task| waits_for[task] == 0).collect();
    let mut starts_at = vec![0.0_f64; tasks.len()];
    let mut longest = 0.0_f64;
    let mut seen = 0;
    while let Some(task) = ready.pop() {
        seen += 1;
        let ends_at = starts_at[task] + tasks[task].seconds;
        longest = longest.max(ends_at);
        for &(_, next) in edges.range((task, 0)..=(task, usize::MAX)) {
            starts_at[next] = starts_at[next].max(ends_at);
            waits_for[next] -= 1;
            if waits_for[next] == 0 {
                ready.push(next);
            }
        }
    }
    if seen < tasks.len() {
        let stuck = waits_for.iter().position(|&count| count > 0).unwrap_or(0);
        bail!("the tasks wait for each other in a circle, {:?} among them or behind it", tasks[stuck].id);
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn file(version: &str, tasks: &Value, executed: &Value) -> Vec<u8> {
        let file = json!({"name": "w", "schemaVersion": version,
            "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": executed}}});
        file.to_string().into_bytes()
    }

    fn diamond() -> Vec<u8> {
        file(
            "1.5",
            &json!([
                {"id": "a", "children": ["b"]},
                {"id": "b", "parents": ["a"], "children": ["d"]},
                {"id": "c", "parents": ["a"]},
                {"id": "d", "parents": ["c"]}]),
            &json!([
                {"id": "a", "runtimeInSeconds": 1.0}, {"id": "b", "runtimeInSeconds": 2.5},
                {"id": "c", "runtimeInSeconds": 1}, {"id": "d", "runtimeInSeconds": 3.0}]),
        )
    }

    fn refusal(bytes: &[u8]) -> String {
        format!("{:#}", Graph::parse(bytes).unwrap_err())
    }

    #[test]
    fn parents_and_children_are_united() {
        let graph = Graph::parse(&diamond()).unwrap();
        assert_eq!((graph.tasks(), graph.edges()), (4, 4));
        assert!((graph.critical_path_seconds() - 6.5).abs() < 1e-9);
        assert!((graph.scale_to(5.0) * 6.5 - 5.0).abs() < 1e-9);
        assert!((graph.scale_to(100.0) - 1.0).abs() < 1e-9);
        let definition = graph.definition("d", 0.1);
        assert_eq!(
            definition["nodes"][1],
            json!({"id": "b", "type": "task", "handler": "sleep", "input": {"seconds": 0.25}})
        );
        assert_eq!(definition["edges"], json!([["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"]]));
    }

    #[test]
    fn gzip_is_recognized_by_its_content() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&diamond()).unwrap();
        let packed = packer.finish().unwrap();
        assert_eq!(Graph::parse(&packed).unwrap().tasks(), 4);
        assert!(refusal(&packed[..20]).contains("damaged gzip"));
    }

    #[test]
    fn ids_are_spelled_in_the_allowed_form_and_stay_unique() {
        let long = "x".repeat(200);
        let ids = allowed_ids(["a b", "a_b", "a/b", "", &long, "fine"].into_iter());
        assert_eq!(ids[0], "a_b_2");
        assert_eq!(&ids[1..4], ["a_b", "a_b_3", "_"]);
        assert_eq!(ids[4].len(), 128);
        assert_eq!(ids[5], "fine");
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let none = json!([]);
        assert!(refusal(b"{").contains("not WfFormat JSON"));
        assert!(refusal(&file("1.4", &none, &none)).contains("schemaVersion is 1.4"));
        assert!(refusal(&file("1.5", &none, &none)).contains("tasks is empty"));
        let twice = json!([{"id": "a"}, {"id": "a"}]);
        assert!(refusal(&file("1.5", &twice, &none)).contains("two tasks have the id \"a\""));
        let dangling = json!([{"id": "a", "children": ["b"]}]);
        assert!(refusal(&file("1.5", &dangling, &none)).contains("the child \"b\", which is no task"));
        let circle = json!([{"id": "s"}, {"id": "a", "parents": ["b", "s"]}, {"id": "b", "parents": ["a"]}]);
        assert!(refusal(&file("1.6", &circle, &none)).contains("in a circle, \"a\""));
        let own = json!([{"id": "a", "parents": ["a"]}]);
        assert!(refusal(&file("1.6", &own, &none)).contains("in a circle"));
        let one = json!([{"id": "a"}]);
        let backwards = json!([{"id": "a", "runtimeInSeconds": -1}]);
        assert!(refusal(&file("1.5", &one, &backwards)).contains("ran for -1 s"));
        let stranger = json!([{"id": "z", "runtimeInSeconds": 1}]);
        assert!(refusal(&file("1.5", &one, &stranger)).contains("\"z\", which is not specified"));
    }

    #[test]
    fn a_file_suggests_its_workflow_name() {
        assert_eq!(name_of(Path::new("/x/montage 04d.json.gz")), "montage_04d");
        assert_eq!(name_of(Path::new("plain")), "plain");
    }
}
