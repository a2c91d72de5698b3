#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;

fn body(iteration: i32) -> Frame {
    let facts = FrameFacts {
        frame: 100 + iteration,
        parent: 1,
        block: 0,
        attempt: 1,
        iteration,
        whole: false,
        failed: 0,
        bounds: None,
        input: Payload::null(),
        before: Vec::new(),
        live: true,
        finally: false,
        created_at: None,
    };
    Frame { facts, completed: true, failed: false, error: None, path: vec![1] }
}

/// The iterations of a row that begins later.
fn iterations(chunk: &Chunk) -> Vec<i32> {
    let items = chunk.items.as_ref().expect("its iterations").as_str();
    crate::frame::chunk_items(&Payload::trusted(items.into())).1.expect("an object that names them")
}

/// What Postgres does with these rows as iterations end, one after the other: each begins once, all of them, and never more at a time than may.
fn all_begin_once(bounds: Bounds, completed: &[i32], others: &[i32]) {
    let ended = count(completed.len());
    let first = usize::try_from(room(bounds, ended)).expect("some room").min(others.len());
    let (going, waiting) = others.split_at(first);
    let begun: Vec<Frame> = completed.iter().chain(going).copied().map(body).collect();
    let begun: Vec<&Frame> = begun.iter().collect();
    let known: Vec<i32> = completed.iter().chain(others).copied().collect();
    let mut later: Vec<i32> =
        (0..bounds.count).filter(|one| !known.contains(one)).chain(waiting.iter().copied()).collect();
    later.sort_unstable();
    let later: Vec<Later> = later.into_iter().map(|iteration| Later { iteration, item: None }).collect();
    let mut course = Course::default();
    chunks(&mut course, 1, bounds, ended, &begun, &later);

    let mut rows: BTreeMap<i32, &Chunk> = BTreeMap::new();
    for chunk in &course.chunks {
        assert!(rows.insert(chunk.chunk, chunk).is_none(), "two rows of one number");
    }
    let mut began = completed.to_vec();
    let mut running: Vec<i32> = going.to_vec();
    let mut open: Vec<i32> = course.jobs.iter().map(|job| job.attempt).collect();
    let mut resolved = ended;
    loop {
        for chunk in open.drain(..) {
            running.extend(iterations(rows.get(&chunk).unwrap_or_else(|| panic!("no row {chunk}: {bounds:?}"))));
        }
        assert!(running.len() <= usize::try_from(bounds.chunk * bounds.ahead).unwrap_or(0), "{bounds:?}: {running:?}");
        let Some(one) = running.pop() else { break };
        began.push(one);
        let before = resolved;
        resolved += 1;
        let crossed = before / bounds.chunk + bounds.ahead..resolved / bounds.chunk + bounds.ahead;
        open.extend(crossed.filter(|chunk| chunk * bounds.chunk < bounds.count));
    }
    began.sort_unstable();
    assert_eq!(began, (0..bounds.count).collect::<Vec<_>>(), "{bounds:?}: {completed:?}, {others:?}");
    let kept: i32 = course.chunks.iter().filter(|chunk| chunk.first.is_some()).map(|chunk| chunk.count).sum();
    assert_eq!(kept, count(begun.len()), "each that began is in a row");
}

#[test]
fn whatever_had_begun_every_iteration_begins_once_and_the_window_holds() {
    let mut state = 9_u32;
    let mut random = |below: i32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        i32::try_from(state >> 8).unwrap_or(0) % below.max(1)
    };
    for case in 0..4000 {
        let total = 1 + random(90);
        let window = 1 + random(total.min(40));
        let (chunk, ahead) = match case % 3 {
            0 => (total, 1),
            _ if window <= 16 => (1, window),
            _ => (window / 4, 4),
        };
        let bounds = Bounds { count: total, chunk, ahead, tolerated: 0, need: 0 };
        let begun = random(total + 1);
        let (mut completed, mut others) = (Vec::new(), Vec::new());
        for iteration in 0..begun {
            if random(3) == 0 { others.push(iteration) } else { completed.push(iteration) }
        }
        all_begin_once(bounds, &completed, &others);
    }
}
