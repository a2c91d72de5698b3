//! The rules of a Choice as expressions. A value of another type than the rule compares with makes it false; a path
//! that leads nowhere is an error, but for `IsPresent`.

use chrono::DateTime;
use longshore_core::expression::Expression;
use serde_json::{Map, Value, json};

use super::flow::{Arrival, Exit};
use super::graph::{Graph, Way};
use super::machine::State;
use super::path::{self, Scope};
use super::{Translation, literal, output, template};

/// How deep And, Or and Not may nest: less than expressions do.
const MAX_DEPTH: usize = 20;

/// The expression that is true where the rule matches. `Next`, `Comment` and the like are not its business.
pub(super) fn rule(rule: &Value, scope: &Scope) -> Result<String, String> {
    let map = rule.as_object().ok_or("a rule is an object")?;
    if scope.jsonata {
        if let Some(field) = map.keys().find(|field| !["Condition", "Next", "Comment"].contains(&field.as_str())) {
            return Err(format!("{field} is not translated"));
        }
        let condition = map.get("Condition").and_then(Value::as_str).ok_or("its Condition is no text")?;
        return path::jsonata(condition, scope).map(|found| format!("({found}) is true"));
    }
    matches(map, scope, 0)
}

fn matches(map: &Map<String, Value>, scope: &Scope, depth: usize) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("And, Or and Not are nested more than {MAX_DEPTH} levels deep"));
    }
    let own: Vec<_> =
        map.iter().filter(|(field, _)| !["Next", "Comment", "Variable"].contains(&field.as_str())).collect();
    let [(operator, comparand)] = own.as_slice() else {
        return Err("a rule has one operator".to_owned());
    };
    let all = |word: &str| {
        let rules = comparand.as_array().filter(|rules| !rules.is_empty());
        let rules = rules.ok_or_else(|| format!("{operator} is no list of rules"))?;
        let parts: Result<Vec<_>, _> = rules.iter().map(|rule| inner(rule, scope, depth)).collect();
        Ok(format!("({})", parts?.join(word)))
    };
    match operator.as_str() {
        "And" => all(" and "),
        "Or" => all(" or "),
        "Not" => Ok(format!("not {}", inner(comparand, scope, depth)?)),
        operator => {
            let variable = map.get("Variable").and_then(Value::as_str).ok_or("its Variable is no path")?;
            compare(operator, variable, comparand, scope)
        }
    }
}

fn inner(rule: &Value, scope: &Scope, depth: usize) -> Result<String, String> {
    let map = rule.as_object().ok_or("a rule is an object")?;
    Ok(format!("({})", matches(map, scope, depth + 1)?))
}

fn compare(operator: &str, variable: &str, comparand: &Value, scope: &Scope) -> Result<String, String> {
    let left = path::required(variable, scope)?;
    if let Some(what) = operator.strip_prefix("Is") {
        let expected = comparand.as_bool().ok_or_else(|| format!("{operator} is neither true nor false"))?;
        let is = if expected { "is" } else { "is not" };
        return Ok(match what {
            "Null" => format!("{left} {is} none"),
            "Present" => format!("{} {is} present", path::value(variable, scope)?),
            "Numeric" => format!("{left} {is} number"),
            "String" => format!("{left} {is} string"),
            "Boolean" => format!("{left} {is} boolean"),
            "Timestamp" => format!("{left}|timestamp {is} number"),
            _ => return Err(format!("there is no operator {operator}")),
        });
    }
    if operator == "StringMatches" {
        let pattern = comparand.as_str().ok_or("StringMatches is no text")?;
        if pattern.contains('\\') {
            return Err("StringMatches: `\\` is not translated".to_owned());
        }
        return Ok(format!("{left} is matching {}", literal(pattern)));
    }
    let (plain, path) = operator.strip_suffix("Path").map_or((operator, false), |plain| (plain, true));
    let unknown = || format!("there is no operator {operator}");
    let (kind, sign) = ["String", "Numeric", "Timestamp", "Boolean"]
        .into_iter()
        .find_map(|kind| Some((kind, sign(plain.strip_prefix(kind)?)?)))
        .filter(|(kind, sign)| *kind != "Boolean" || *sign == "==")
        .ok_or_else(unknown)?;
    let wrong = || format!("{operator} compares with no such value as {comparand}");
    let right = match (path, kind) {
        (true, _) => path::required(comparand.as_str().ok_or_else(wrong)?, scope)?,
        (_, "Numeric") if comparand.is_number() => comparand.to_string(),
        (_, "Boolean") if comparand.is_boolean() => comparand.to_string(),
        (_, "Timestamp") if comparand.as_str().is_none_or(|time| DateTime::parse_from_rfc3339(time).is_err()) => {
            return Err(wrong());
        }
        (_, "String" | "Timestamp") => literal(comparand.as_str().ok_or_else(wrong)?),
        _ => return Err(wrong()),
    };
    let (of_kind, left, right) = match kind {
        "Timestamp" => ("number", format!("{left}|timestamp"), format!("{right}|timestamp")),
        "Numeric" => ("number", left, right),
        "Boolean" => ("boolean", left, right),
        _ => ("string", left, right),
    };
    let also = if path || kind == "Timestamp" { format!(" and {right} is {of_kind}") } else { String::new() };
    Ok(format!("({left} is {of_kind}{also} and {left} {sign} {right})"))
}

fn sign(word: &str) -> Option<&'static str> {
    Some(match word {
        "Equals" => "==",
        "LessThan" => "<",
        "GreaterThan" => ">",
        "LessThanEquals" => "<=",
        "GreaterThanEquals" => ">=",
        _ => return None,
    })
}

impl Translation {
    /// A Choice: its node gives the name of the state that the first matching rule leads to, and the edges go by that.
    /// Rules that are too many for one expression go on in the next node.
    pub(super) fn choice(
        &mut self,
        state: &State<'_>,
        id: &str,
        arrival: &Arrival,
        graph: &mut Graph,
    ) -> (String, Vec<Exit>) {
        let mut before = Vec::new();
        let mut scope = arrival.scope.clone();
        if state.get("InputPath").is_some() {
            let made = self.input(state, "", &scope);
            let at = self.id(id, "input");
            graph.set(&at, made);
            scope = scope.on(&output(&at));
            before.push(at);
        }
        let mut document = scope.document.clone();
        if let Some((field, value)) =
            ["OutputPath", "Output"].iter().find_map(|field| Some((*field, state.get(field)?)))
        {
            let made = match value {
                _ if state.jsonata => self.payload(state, field, value, &scope),
                Value::Null => Value::Object(Map::new()),
                Value::String(path) => {
                    let found = path::required(path, &scope);
                    template(&self.or_refuse(state.name, field, found, "none".to_owned()))
                }
                _ => {
                    self.refuse(state.name, format!("{field}: it is no path"));
                    Value::Null
                }
            };
            let at = self.id(id, "output");
            graph.set(&at, made);
            document = output(&at);
            before.push(at);
        }
        let exits = self.rules(state, id, &scope, &document, graph);
        before.push(id.to_owned());
        for pair in before.windows(2) {
            if let [from, to] = pair {
                graph.follow(from, to);
            }
        }
        (before.swap_remove(0), exits)
    }

    fn rules(&mut self, state: &State<'_>, id: &str, scope: &Scope, document: &str, graph: &mut Graph) -> Vec<Exit> {
        let mut rules = Vec::new();
        for (place, written) in state.list("Choices").enumerate() {
            let field = format!("Choices[{place}]");
            let found = rule(written, scope);
            let found = self.or_refuse(state.name, &field, found, "true".to_owned());
            match written.get("Next").and_then(Value::as_str) {
                Some(next) => rules.push((found, next)),
                None => self.refuse(state.name, format!("{field}: Next is missing")),
            }
        }
        if rules.is_empty() {
            self.refuse(state.name, "Choices has no rule");
        }
        let default = state.get("Default").and_then(Value::as_str);
        let mut exits = Vec::new();
        let mut at = id.to_owned();
        let mut rest = rules.as_slice();
        loop {
            let fits = |count: &usize| compile(rest.get(..*count).unwrap_or_default(), default).is_ok();
            let Some(count) = (1..=rest.len()).take_while(fits).last() else {
                let why = compile(rest.get(..1).unwrap_or_default(), default).err().unwrap_or_default();
                self.refuse(state.name, format!("a rule is too long: {why}"));
                return exits;
            };
            let (here, more) = rest.split_at(count);
            let last = if more.is_empty() { default } else { None };
            graph.set(&at, template(&text(here, last)));
            let mut targets: Vec<&str> = here.iter().map(|(_, next)| *next).chain(last).collect();
            targets.sort_unstable();
            targets.dedup();
            exits.extend(targets.into_iter().map(|to| Exit {
                from: at.clone(),
                way: Way::when(format!("{} == {}", output(&at), literal(to))),
                document: document.to_owned(),
                to: Some(to.to_owned()),
            }));
            if last.is_some() {
                return exits;
            }
            let otherwise = Way::when(format!("{} is none", output(&at)));
            if more.is_empty() {
                let none = self.id(id, "none");
                let message = "no rule of the Choice matches, and it has no Default";
                graph.nodes.push(json!({"id": none, "type": "fail", "name": "States.NoChoiceMatched", "message": message, "retryable": true}));
                graph.edge(&at, &otherwise, &none);
                return exits;
            }
            let next = self.id(id, "more");
            graph.edge(&at, &otherwise, &next);
            at = next;
            rest = more;
        }
    }
}

/// The name of the state that the first matching rule leads to; null when none matches and there is no default.
fn text(rules: &[(String, &str)], default: Option<&str>) -> String {
    let chosen: String = rules.iter().map(|(when, next)| format!("{} if {when} else ", literal(next))).collect();
    format!("{chosen}{}", default.map_or_else(|| "none".to_owned(), literal))
}

fn compile(rules: &[(String, &str)], default: Option<&str>) -> Result<(), String> {
    Expression::compile(&text(rules, default)).map(|_| ())
}
