//! As much YAML as the cases use: maps, lists, quoted and plain scalars, lists in brackets, comments.

use serde_json::{Map, Value, json};

/// The document.
pub(crate) fn parse(text: &str) -> Value {
    let lines = text.lines().map(|line| (line.len() - line.trim_start().len(), content(line)));
    let mut lines: Vec<(usize, String)> = lines.filter(|(_, content)| !content.is_empty()).collect();
    lines.reverse();
    let value = block(&mut lines);
    assert!(lines.is_empty(), "{lines:?} is left of {text}");
    value
}

/// A line without its comment and the spaces around it.
fn content(line: &str) -> String {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '#') if line[..at].ends_with([' ', '\t']) || at == 0 => return line[..at].trim().to_owned(),
            _ => {}
        }
    }
    line.trim().to_owned()
}

/// What stands at the indent of the next line; the lines in reverse.
fn block(lines: &mut Vec<(usize, String)>) -> Value {
    let Some((indent, first)) = lines.last().cloned() else { return Value::Null };
    if first.starts_with("- ") {
        let mut items = Vec::new();
        while let Some((at, line)) = lines.last_mut().filter(|(at, line)| *at == indent && line.starts_with("- ")) {
            (*at, *line) = (indent + 2, line[2..].trim().to_owned());
            items.push(block(lines));
        }
        return json!(items);
    }
    if !first.contains(": ") && !first.ends_with(':') {
        lines.pop();
        return scalar(&first);
    }
    let mut map = Map::new();
    while let Some((_, line)) = lines.last().filter(|(at, _)| *at == indent).cloned() {
        lines.pop();
        let (key, value) = line.split_once(':').unwrap();
        let value = match value.trim() {
            "" if lines.last().is_some_and(|(at, _)| *at > indent) => block(lines),
            "" => Value::Null,
            value => scalar(value),
        };
        map.insert(key.to_owned(), value);
    }
    Value::Object(map)
}

fn scalar(text: &str) -> Value {
    for quote in ['\'', '"'] {
        if let Some(inside) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return json!(inside);
        }
    }
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inside.split(',').map(|item| scalar(item.trim())).collect();
    }
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

#[test]
fn what_the_cases_use_is_read() {
    let text = "a:\n  - b: 1 #one\n    c: 'x: y'\n  - d:\n      e: [ red, 2 ]\nf: ${ .g } \n";
    assert_eq!(parse(text), json!({"a": [{"b": 1, "c": "x: y"}, {"d": {"e": ["red", 2]}}], "f": "${ .g }"}));
    assert_eq!(parse(" 1\n"), json!(1));
}
