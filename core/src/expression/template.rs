//! A JSON value in which texts may hold `{{ expressions }}`.
//!
//! A text that is one expression and nothing else becomes that expression's value with its JSON type; in any other
//! text the values are written as text. What holds no expression is constant and rendered once.

use std::fmt;

use serde_json::Value;

use super::functions::MAX_TEXT;
use super::{Expression, Reference, Scope};
use crate::definition::Problem;
use crate::error::{EXPRESSION_FAILED, StepError};
use crate::payload::Payload;

/// A compiled template.
#[derive(Debug)]
pub struct Template(Part);

#[derive(Debug)]
enum Part {
    /// JSON text.
    Constant(String),
    Value(Expression),
    Text(Vec<Piece>),
    List(Vec<Part>),
    /// Keys as JSON text.
    Object(Vec<(String, Part)>),
}

#[derive(Debug)]
enum Piece {
    Plain(String),
    Value(Expression),
}

impl Template {
    /// Compiles a template; a part that is wrong is noted as a problem at its path and left null.
    pub(crate) fn compile(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Self {
        Self(compile(value, Place::Start(path), problems))
    }

    /// A template that gives this value.
    pub(crate) fn constant(value: &Value) -> Self {
        Self(Part::Constant(value.to_string()))
    }

    /// Tells `found` what each expression reads, with the path of the text it stands in, `path` being the template's.
    pub(crate) fn each_reference(&self, path: &str, found: &mut dyn FnMut(Place<'_>, &[Reference])) {
        each_reference(&self.0, Place::Start(path), found);
    }

    /// True if it holds no expression.
    pub fn is_constant(&self) -> bool {
        matches!(self.0, Part::Constant(_))
    }

    /// True if it is one expression and nothing else, so that it may give a value of any type.
    pub(crate) fn is_expression(&self) -> bool {
        matches!(self.0, Part::Value(_))
    }

    /// The value, as JSON that can be stored.
    pub fn render(&self, scope: &Scope<'_>) -> Result<Payload, StepError> {
        let mut out = String::new();
        write(&self.0, scope, &mut out)?;
        Payload::from_text(&out).map_err(|error| {
            StepError::permanent(
                EXPRESSION_FAILED,
                &format!("the template gave a value that cannot be stored: {error}"),
            )
        })
    }

    /// The value as text: of a text its characters, else as inside text.
    pub fn render_text(&self, scope: &Scope<'_>) -> Result<String, StepError> {
        let value = self.render(scope)?;
        Ok(match value.value() {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        })
    }
}

/// A template that gives this value: braces in its texts mean nothing.
pub fn plain(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain_text(text)),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
        other => other.clone(),
    }
}

/// A template that gives this text as it is.
pub fn plain_text(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match rest.peek() {
            Some(mark @ ('{' | '%' | '#')) if c == '{' => {
                out.push_str(&format!("{{{{ \"{{{mark}\" }}}}"));
                rest.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// Where a part of a template stands. Written out only where something is wrong: of each of a hundred thousand items
/// below long keys, paths would take minutes.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Start(&'a str),
    Item(&'a Place<'a>, usize),
    Key(&'a Place<'a>, &'a str),
}

/// The longest key in a path, in characters.
const KEY: usize = 60;
/// The longest path in bytes; of a longer one the middle is left out.
const PATH: usize = 500;

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut at = self;
        let start = loop {
            let (above, step) = match at {
                Place::Start(start) => break *start,
                Place::Item(above, place) => (above, format!("[{place}]")),
                Place::Key(above, key) => (above, format!(".{}", key.chars().take(KEY).collect::<String>())),
            };
            steps.push(step);
            at = above;
        };
        steps.reverse();
        f.write_str(start)?;
        let whole: usize = steps.iter().map(String::len).sum();
        let mut written = 0;
        let mut cut = false;
        for step in &steps {
            written += step.len();
            if whole <= PATH || written <= PATH / 2 || whole - written < PATH / 2 {
                f.write_str(step)?;
            } else if !std::mem::replace(&mut cut, true) {
                f.write_str("…")?;
            }
        }
        Ok(())
    }
}

fn compile(value: &Value, path: Place<'_>, problems: &mut Vec<Problem>) -> Part {
    match value {
        Value::String(text) => compile_text(text, path, problems),
        Value::Array(items) => {
            let parts: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(place, item)| compile(item, Place::Item(&path, place), problems))
                .collect();
            if parts.iter().all(|part| matches!(part, Part::Constant(_))) {
                return Part::Constant(value.to_string());
            }
            Part::List(parts)
        }
        Value::Object(map) => {
            let mut parts = Vec::new();
            for (key, item) in map {
                let path = Place::Key(&path, key);
                if key.contains("{{") {
                    let fix = "write the key out; only values may hold `{{ }}`";
                    problems.push(Problem::new(path.to_string(), "an object's key cannot be a template", fix));
                }
                parts.push((Value::from(key.as_str()).to_string(), compile(item, path, problems)));
            }
            if parts.iter().all(|(_, part)| matches!(part, Part::Constant(_))) {
                return Part::Constant(value.to_string());
            }
            Part::Object(parts)
        }
        plain => Part::Constant(plain.to_string()),
    }
}

fn compile_text(text: &str, path: Place<'_>, problems: &mut Vec<Problem>) -> Part {
    match pieces(text) {
        Err(why) => {
            problems.push(Problem::new(
                path.to_string(),
                why,
                "write `{{ expression }}`, such as {{ run.input.order }}",
            ));
            Part::Constant("null".to_owned())
        }
        Ok(mut pieces) => match pieces.pop() {
            Some(Piece::Value(expression)) if pieces.is_empty() => Part::Value(expression),
            Some(Piece::Plain(_)) if pieces.is_empty() => Part::Constant(Value::from(text).to_string()),
            Some(last) => {
                pieces.push(last);
                Part::Text(pieces)
            }
            None => Part::Constant("\"\"".to_owned()),
        },
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let open = rest.find("{{").unwrap_or(rest.len());
        let (plain, tail) = rest.split_at(open);
        for (mark, what) in [("{%", "statements"), ("{#", "comments")] {
            if plain.contains(mark) {
                return Err(format!(
                    "`{mark}` {what} are not part of the language; to write it as it is, use {{{{ \"{mark}\" }}}}"
                ));
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Plain(plain.to_owned()));
        }
        let Some(inside) = tail.strip_prefix("{{") else {
            return Ok(pieces);
        };
        if inside.starts_with('-') {
            return Err("`{{-` is not part of the language; to negate a number leave a space: `{{ -x }}`".to_owned());
        }
        let (expression, length) = Expression::compile_until_close(inside)?;
        pieces.push(Piece::Value(expression));
        rest = inside.get(length..).unwrap_or_default();
    }
}

fn each_reference(part: &Part, path: Place<'_>, found: &mut dyn FnMut(Place<'_>, &[Reference])) {
    match part {
        Part::Constant(_) => {}
        Part::Value(expression) => found(path, expression.references()),
        Part::Text(pieces) => {
            for piece in pieces {
                if let Piece::Value(expression) = piece {
                    found(path, expression.references());
                }
            }
        }
        Part::List(items) => {
            for (place, item) in items.iter().enumerate() {
                each_reference(item, Place::Item(&path, place), found);
            }
        }
        Part::Object(items) => {
            for (key, item) in items {
                each_reference(item, Place::Key(&path, key.trim_matches('"')), found);
            }
        }
    }
}

fn write(part: &Part, scope: &Scope<'_>, out: &mut String) -> Result<(), StepError> {
    match part {
        Part::Constant(json) => out.push_str(json),
        Part::Value(expression) => out.push_str(&expression.json(scope)?),
        Part::Text(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Plain(plain) => text.push_str(plain),
                    Piece::Value(expression) => expression.add_text(scope, &mut text)?,
                }
                bounded(&text)?;
            }
            out.push_str(&Value::from(text).to_string());
        }
        Part::List(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write(item, scope, out)?;
            }
            out.push(']');
        }
        Part::Object(items) => {
            out.push('{');
            for (place, (key, item)) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(key);
                out.push(':');
                write(item, scope, out)?;
            }
            out.push('}');
        }
    }
    bounded(out)
}

fn bounded(text: &str) -> Result<(), StepError> {
    if text.len() > MAX_TEXT {
        let message = format!("the template gave more than {MAX_TEXT} bytes");
        return Err(StepError::permanent(EXPRESSION_FAILED, &message));
    }
    Ok(())
}
