//! Where a value is not what was expected.

use std::fmt;

use serde_json::Value;

/// Longest text of a value in a message.
const SHOWN: usize = 400;

/// How much of a value must be as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// All of it.
    Whole,
    /// What is named: members of objects that are not named are left aside.
    Named,
}

/// The first place where a value is not what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where, such as `output.items[2].price`.
    pub path: String,
    /// What was expected; none: nothing.
    pub expected: Option<Value>,
    /// What came; none: nothing.
    pub came: Option<Value>,
}

/// The first difference between what was expected and what came, if there is one; `path` is where the whole value is. Numbers are equal if their values are.
pub fn difference(path: &str, expected: &Value, came: &Value, compare: Compare) -> Option<Difference> {
    match (expected, came) {
        (Value::Object(members), Value::Object(others)) => {
            let named = members.iter().find_map(|(name, expected)| {
                let path = format!("{path}.{name}");
                match others.get(name) {
                    Some(came) => difference(&path, expected, came, compare),
                    None => Some(Difference { path, expected: Some(expected.clone()), came: None }),
                }
            });
            let others = others.iter().filter(|(name, _)| compare == Compare::Whole && !members.contains_key(*name));
            named.or_else(|| {
                let unexpected = |(name, came): (&String, &Value)| Difference {
                    path: format!("{path}.{name}"),
                    expected: None,
                    came: Some(came.clone()),
                };
                others.map(unexpected).next()
            })
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => items
            .iter()
            .zip(others)
            .enumerate()
            .find_map(|(at, (expected, came))| difference(&format!("{path}[{at}]"), expected, came, compare)),
        (Value::Number(one), Value::Number(other)) if one == other || one.as_f64() == other.as_f64() => None,
        (expected, came) if expected == came => None,
        (expected, came) => {
            Some(Difference { path: path.to_owned(), expected: Some(expected.clone()), came: Some(came.clone()) })
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, came {}", self.path, Short(self.expected.as_ref()), Short(self.came.as_ref()))
    }
}

/// A value in a message, cut to a bearable length.
struct Short<'v>(Option<&'v Value>);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(value) = self.0 else { return f.write_str("nothing") };
        let text = value.to_string();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}…", text.get(..end).unwrap_or_default()),
            None => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn whole(expected: Value, came: Value) -> Option<String> {
        difference("output", &expected, &came, Compare::Whole).map(|it| it.to_string())
    }

    #[test]
    fn the_first_difference_is_named_with_its_place() {
        assert_eq!(whole(json!({"a": [1, {"b": 2.0}]}), json!({"a": [1.0, {"b": 2}]})), None);
        let found = whole(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": "2"}]}));
        assert_eq!(found.unwrap(), "output.a[1].b: expected 2, came \"2\"");
        assert_eq!(whole(json!([1, 2]), json!([1])).unwrap(), "output: expected [1,2], came [1]");
        assert_eq!(whole(json!({"a": 1}), json!({})).unwrap(), "output.a: expected 1, came nothing");
        assert_eq!(whole(json!({}), json!({"a": null})).unwrap(), "output.a: expected nothing, came null");
        let long = whole(json!("é".repeat(1000)), json!(1)).unwrap();
        assert!(long.contains('…') && long.chars().count() < 500, "{long}");
    }

    #[test]
    fn what_is_not_named_is_left_aside() {
        let came = json!({"a": 1, "list": [{"b": 1, "c": 2}]});
        assert_eq!(difference("output", &json!({"list": [{"b": 1}]}), &came, Compare::Named), None);
        assert!(difference("output", &json!({"list": [{"b": 2}]}), &came, Compare::Named).is_some());
    }
}
