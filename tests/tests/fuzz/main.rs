//! Everything that reads outside input, fed with what is kept in `tests/corpus`, with mutations of that, and with inputs grown from their
//! grammars, on a thread with the stack of a runtime's worker. `LONGSHORE_FUZZ_SECONDS` says how long each target takes (2), and
//! `LONGSHORE_FUZZ_SEED` repeats a failure. An input that fails is added to the corpus, which each run replays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod grow;
mod mutate;
mod nasty;
mod start_run;
mod stored;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use longshore_tests::fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The stack of a worker thread of tokio's runtime, where lanes evaluate.
pub(crate) const STACK: usize = 2 * 1024 * 1024;
/// The longest that one input may take, in the debug profile, on a busy machine. What gives no answer for three times as long has hung.
const LONGEST: Duration = Duration::from_secs(2);
/// The largest file taken from the cases as a seed.
const LARGEST_SEED: u64 = 16 * 1024;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The kept inputs of a target, in the order of their names.
fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus(target)).expect("a corpus").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// More seeds, where there are cases: recorded graphs and other systems' workflows.
fn cases(target: &str) -> Vec<Vec<u8>> {
    let Some(cases) = std::env::var_os("LONGSHORE_CASES").map(PathBuf::from) else { return Vec::new() };
    let folders: &[&str] = match target {
        "wfformat" => &["dags"],
        "definition" | "payload" => &["seed-workflows"],
        "asl" => &["semantics/aws"],
        _ => &[],
    };
    let entries = folders.iter().filter_map(|folder| fs::read_dir(cases.join(folder)).ok()).flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.metadata().is_ok_and(|data| data.is_file() && data.len() <= LARGEST_SEED))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no whole number")))
}

/// What a thread tells of the input it is at.
enum Event {
    Began,
    Ended(Duration),
    Failed(Vec<u8>),
}

/// Replays what is kept, then makes inputs until the time is over.
fn fuzz(name: &'static str) {
    let target = *TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seconds = setting("LONGSHORE_FUZZ_SECONDS").unwrap_or(2);
    let seed = setting("LONGSHORE_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    // A stack overflow ends the process, so what was being read must be known without it.
    let at_work = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    let (events, told) = mpsc::channel();
    let began = Instant::now();
    let inputs = at_work.clone();
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let kept = kept(name);
        for (file, input) in &kept {
            eprintln!("{}", file.display());
            run(target, input, &inputs, &events);
        }
        let mut seeds: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
        seeds.extend(cases(name));
        let mut rng = StdRng::seed_from_u64(seed);
        while began.elapsed() < Duration::from_secs(seconds) {
            let mut input = match rng.random_range(0..2) {
                0 => grow::grow(&mut rng, name),
                _ => seeds[rng.random_range(0..seeds.len())].clone(),
            };
            if rng.random_range(0..4) > 0 {
                input = mutate::mutate(&mut rng, &input, &seeds);
            }
            run(target, &input, &inputs, &events);
        }
    });
    let thread = thread.unwrap();
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    let hint = format!("LONGSHORE_FUZZ_SEED={seed} repeats it");
    loop {
        match told.recv_timeout(3 * LONGEST) {
            Ok(Event::Began) => {}
            Ok(Event::Ended(took)) => {
                (count, slowest) = (count + 1, slowest.max(took));
                assert!(took < LONGEST, "an input took {took:?}: {}; {hint}", at_work.display());
            }
            Ok(Event::Failed(input)) => panic!("{name} failed: {}; {hint}", keep(name, &input).display()),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name} hangs on {}; {hint}", at_work.display()),
        }
    }
    thread.join().unwrap();
    fs::remove_file(&at_work).ok();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{name}: {count} inputs, {rate:.0} a second, the slowest {slowest:?}");
}

fn run(target: Target, input: &[u8], at_work: &Path, events: &mpsc::Sender<Event>) {
    fs::write(at_work, input).unwrap();
    events.send(Event::Began).ok();
    let began = Instant::now();
    if catch_unwind(|| (target.run)(input)).is_err() {
        events.send(Event::Failed(input.to_vec())).ok();
        return;
    }
    events.send(Event::Ended(began.elapsed())).ok();
}

/// Adds an input to the corpus of a target.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = corpus(target).join(format!("failed-{:016x}", hasher.finish()));
    fs::write(&file, input).unwrap();
    file
}

#[test]
fn any_definition_is_refused_with_its_problems_or_is_the_same_version_when_it_is_stored() {
    fuzz("definition");
}

#[test]
fn any_expression_is_refused_or_gives_the_same_answer_twice() {
    fuzz("expression");
}

#[test]
fn any_template_is_refused_or_gives_a_storable_value_or_a_permanent_error() {
    fuzz("template");
}

#[test]
fn any_duration_is_refused_or_reads_back_from_its_shortest_text() {
    fuzz("duration");
}

#[test]
fn any_wfformat_file_is_refused_or_is_a_definition_that_passes_the_check() {
    fuzz("wfformat");
}

#[test]
fn any_state_machine_is_refused_or_is_a_definition_that_passes_the_check() {
    fuzz("asl");
}

#[test]
fn any_json_text_is_accepted_exactly_when_it_can_be_stored_and_read() {
    fuzz("payload");
}
