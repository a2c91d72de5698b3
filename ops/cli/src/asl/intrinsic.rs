//! Intrinsic functions in payload templates: those that expressions of ours can say.

use super::literal;
use super::path::{self, Scope};

/// How deep calls may nest.
const MAX_DEPTH: usize = 10;

/// A call as an expression.
pub(super) fn call(text: &str, scope: &Scope) -> Result<String, String> {
    let mut reader = Reader { rest: text, scope, depth: 0 };
    let found = reader.call()?;
    if !reader.rest.trim().is_empty() {
        return Err(format!("`{}` follows the call", reader.rest.trim()));
    }
    Ok(found)
}

struct Reader<'r> {
    rest: &'r str,
    scope: &'r Scope,
    depth: usize,
}

/// An argument: the text itself where it is a constant text.
struct Argument {
    expression: String,
    text: Option<String>,
}

impl Reader<'_> {
    fn call(&mut self) -> Result<String, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("calls are nested more than {MAX_DEPTH} levels deep"));
        }
        let (name, behind) = self.rest.split_once('(').ok_or("a call ends in `(…)`")?;
        self.rest = behind;
        let mut arguments = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(behind) = self.rest.strip_prefix(')') {
                self.rest = behind;
                break;
            }
            if !arguments.is_empty() {
                self.rest = self.rest.strip_prefix(',').ok_or("a `,` is missing between arguments")?.trim_start();
            }
            arguments.push(self.argument()?);
        }
        self.depth -= 1;
        let all: Vec<_> = arguments.iter().map(|argument| argument.expression.as_str()).collect();
        match (name.trim(), all.as_slice()) {
            ("States.Array", all) => Ok(format!("[{}]", all.join(", "))),
            ("States.ArrayContains", [list, item]) => Ok(format!("({item} in {list})")),
            ("States.ArrayGetItem", [list, place]) => Ok(format!("({list})[{place}]|required")),
            ("States.ArrayLength", [list]) => Ok(format!("({list})|length")),
            ("States.JsonToString", [value]) => Ok(format!("({value})|tojson")),
            ("States.MathAdd", [a, b]) => Ok(format!("({a} + {b})")),
            ("States.Format", [_, values @ ..]) => {
                let template = arguments.first().and_then(|argument| argument.text.as_deref());
                let template = template.ok_or("States.Format: its first argument is no constant text")?;
                let parts: Vec<_> = template.split("{}").collect();
                if parts.len() != values.len() + 1 {
                    return Err("States.Format: there are not as many `{}` as values".to_owned());
                }
                let mut pieces = Vec::new();
                for (place, part) in parts.iter().enumerate() {
                    pieces.push(literal(part));
                    pieces.extend(values.get(place).map(|value| format!("({value})")));
                }
                Ok(format!("({})", pieces.join(" ~ ")))
            }
            (name, _) => Err(format!("`{name}` with {} arguments is not translated", all.len())),
        }
    }

    fn argument(&mut self) -> Result<Argument, String> {
        let plain = |expression: String| Argument { expression, text: None };
        if let Some(behind) = self.rest.strip_prefix('\'') {
            let mut text = String::new();
            let mut escaped = false;
            for (at, c) in behind.char_indices() {
                match c {
                    '\\' if !escaped => {
                        escaped = true;
                        continue;
                    }
                    '\'' if !escaped => {
                        self.rest = behind.get(at + 1..).unwrap_or_default();
                        return Ok(Argument { expression: literal(&text), text: Some(text) });
                    }
                    c => text.push(c),
                }
                escaped = false;
            }
            return Err("a text in quotes does not end".to_owned());
        }
        if self.rest.starts_with("States.") {
            return self.call().map(plain);
        }
        let end = self.rest.find([',', ')']).unwrap_or(self.rest.len());
        let (word, behind) = self.rest.split_at(end);
        self.rest = behind;
        match word.trim() {
            word @ ("true" | "false" | "null") => Ok(plain(word.to_owned())),
            word if word.starts_with('$') => path::required(word, self.scope).map(plain),
            word if word.parse::<f64>().is_ok_and(f64::is_finite) && !word.starts_with(['+', '.']) => {
                Ok(plain(word.to_owned()))
            }
            word => Err(format!("`{word}` is no argument")),
        }
    }
}
