//! Compiles the schema of an input or of a signal's payload, and refuses one that no start could afford to check.
//!
//! A schema is followed by recursion, and is looked at anew wherever it is referred to: forty schemas that each refer
//! to the one before twice are a trillion looks for a single value, and five thousand that refer to each other in a
//! row overflow the stack. Patterns cannot hang: the engine is the linear one.

use std::collections::HashMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::definition::Problem;

/// How deep schemas may nest and refer to each other.
const MAX_DEPTH: usize = 128;
/// How many schemas may be looked at for one value at one place.
const MAX_LOOKS: u64 = 10_000;
/// The largest pattern, compiled, in bytes. A schema may hold thousands.
const MAX_PATTERN: usize = 256 * 1024;

/// Keywords whose schemas are looked at for the same value.
const SAME_VALUE: [&str; 8] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"];

/// The validator, or nothing and a problem.
pub(super) fn compile(path: &str, schema: &Value, problems: &mut Vec<Problem>) -> Option<Validator> {
    let fix = "correct the JSON Schema; it may refer only to itself, and patterns may not look around";
    let mut measure = Measure { root: schema, known: HashMap::new() };
    if let Err(what) = measure.schema(schema, 0) {
        problems.push(Problem::new(path, what, "write it without repeating so many references"));
        return None;
    }
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN);
    match jsonschema::options().with_pattern_options(patterns).offline().build(schema) {
        Ok(validator) => Some(validator),
        Err(error) => {
            let message: String = error.to_string().chars().take(300).collect();
            problems.push(Problem::new(path, message, fix));
            None
        }
    }
}

/// What is known of a schema.
#[derive(Clone, Copy)]
struct Size {
    /// How many schemas below it follow each other.
    depth: usize,
    /// How many are looked at for one value, itself included.
    looks: u64,
}

struct Measure<'s> {
    root: &'s Value,
    /// By address; one that is being measured, and is reached again, counts once: the validator ends such circles.
    known: HashMap<*const Value, Size>,
}

impl<'s> Measure<'s> {
    fn schema(&mut self, schema: &'s Value, level: usize) -> Result<Size, String> {
        if let Some(known) = self.known.get(&std::ptr::from_ref(schema)) {
            return if level + known.depth > MAX_DEPTH { Err(too_deep()) } else { Ok(*known) };
        }
        if level > MAX_DEPTH {
            return Err(too_deep());
        }
        self.known.insert(schema, Size { depth: 1, looks: 1 });
        let mut size = Size { depth: 1, looks: 1 };
        let mut add = |part: Size, same_value: bool| {
            size.depth = size.depth.max(1 + part.depth);
            if same_value {
                size.looks = size.looks.saturating_add(part.looks);
            }
        };
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            if keyword == "$ref" || keyword == "$dynamicRef" || keyword == "$recursiveRef" {
                if let Some(target) = value.as_str().and_then(|reference| self.target(reference)) {
                    add(self.schema(target, level + 1)?, true);
                }
                continue;
            }
            // The schemas of a keyword are its value, or the items or fields of that. What is none is measured as well.
            let same_value = SAME_VALUE.contains(&keyword.as_str());
            match value {
                Value::Array(items) => {
                    for item in items.iter().filter(|item| item.is_object()) {
                        add(self.schema(item, level + 1)?, same_value);
                    }
                }
                Value::Object(_) if keyword != "dependentSchemas" => add(self.schema(value, level + 1)?, same_value),
                Value::Object(fields) => {
                    for item in fields.values().filter(|item| item.is_object()) {
                        add(self.schema(item, level + 1)?, same_value);
                    }
                }
                _ => {}
            }
        }
        if size.looks > MAX_LOOKS {
            return Err(format!(
                "it refers to itself so often that one value is looked at more than {MAX_LOOKS} times"
            ));
        }
        self.known.insert(schema, size);
        Ok(size)
    }

    /// What a reference within this schema leads to; none for one that is written otherwise than as a path.
    fn target(&self, reference: &str) -> Option<&'s Value> {
        let path = reference.strip_prefix('#')?.replace("%25", "%");
        self.root.pointer(&path)
    }
}

fn too_deep() -> String {
    format!("its schemas nest or refer to each other more than {MAX_DEPTH} levels deep")
}
