//! Paths into the document and into the context, as expressions of ours. Only what leads to one place is translated:
//! names and places in lists.

use super::{is_plain, literal};

/// What paths may begin with, as expressions.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// The document: `$`, or `$states.input`.
    pub document: String,
    /// The document is a part of another, which may not be there.
    pub part: bool,
    /// `$states.result`, where there is one.
    pub result: Option<String>,
    /// `$states.errorOutput`, where there is one.
    pub error: Option<String>,
    /// The state's name.
    pub state: String,
    /// Its task token, where it has one.
    pub token: Option<String>,
    /// A Map is around.
    pub map: bool,
    /// The paths are those of JSONata.
    pub jsonata: bool,
}

impl Scope {
    /// In which `$` is this.
    pub(super) fn of(document: &str) -> Self {
        Self { document: document.to_owned(), ..Self::default() }
    }

    /// The same, where `$` is something else.
    pub(super) fn on(&self, document: &str) -> Self {
        Self { document: document.to_owned(), part: false, ..self.clone() }
    }
}

/// The value at the end of a JSONPath, as an expression that fails where it leads nowhere.
pub(super) fn required(path: &str, scope: &Scope) -> Result<String, String> {
    let found = value(path, scope)?;
    Ok(if found == scope.document && !scope.part { found } else { format!("{found}|required") })
}

/// The value at the end of a JSONPath, as an expression to which `.a` may be added.
pub(super) fn value(path: &str, scope: &Scope) -> Result<String, String> {
    if let Some(rest) = path.strip_prefix("$$") {
        return context(rest, scope);
    }
    let Some(rest) = path.strip_prefix('$') else {
        return Err(format!("`{path}` is no path: one begins with `$`"));
    };
    if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return Err(format!("`{path}` names a variable, and runs have none"));
    }
    Ok(format!("{}{}", scope.document, members(rest)?))
}

/// A JSONata text `{% … %}`, which may only lead to a member of `$states`.
pub(super) fn jsonata(text: &str, scope: &Scope) -> Result<String, String> {
    let inside = text.strip_prefix("{%").and_then(|text| text.strip_suffix("%}")).map(str::trim);
    let Some(inside) = inside else {
        return Err("a JSONata expression is one `{% … %}` and nothing else".to_owned());
    };
    let only = || {
        format!(
            "`{inside}`: of JSONata only paths to members of $states.input, .result, .errorOutput and .context are translated"
        )
    };
    let rest = inside.strip_prefix("$states.").ok_or_else(only)?;
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (root, rest) = rest.split_at(end);
    let missing = || format!("`$states.{root}` is not known here");
    let base = match root {
        "input" => scope.document.clone(),
        "result" => scope.result.clone().ok_or_else(missing)?,
        "errorOutput" => scope.error.clone().ok_or_else(missing)?,
        "context" => return context(rest, scope).map(|found| format!("{found}|required")),
        _ => return Err(only()),
    };
    let steps = members(rest).map_err(|_| only())?;
    Ok(if steps.is_empty() { base } else { format!("{base}{steps}|required") })
}

/// A member of the context object; `path` begins behind its name.
fn context(path: &str, scope: &Scope) -> Result<String, String> {
    let known: [(&str, Option<String>); 9] = [
        (".Execution.Id", Some("run.id".to_owned())),
        (".Execution.Name", Some("(run.key|default(run.id))".to_owned())),
        (".Execution.Input", Some("run.input".to_owned())),
        (".StateMachine.Name", Some("run.workflow".to_owned())),
        (".StateMachine.Id", Some("run.workflow".to_owned())),
        (".State.Name", Some(format!("({})", literal(&scope.state)))),
        (".Task.Token", scope.token.clone()),
        (".Map.Item.Value", scope.map.then(|| "item".to_owned())),
        (".Map.Item.Index", scope.map.then(|| "index".to_owned())),
    ];
    for (name, found) in known {
        let Some(rest) = path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])) else {
            continue;
        };
        let found = found.ok_or_else(|| format!("`{name}` of the context is not known here"))?;
        return Ok(format!("{found}{}", members(rest)?));
    }
    Err(format!("`{path}` of the context has no counterpart"))
}

/// The steps of a path behind its root.
fn members(path: &str) -> Result<String, String> {
    let mut out = String::new();
    for step in steps(path)? {
        out.push_str(&match step {
            Step::Field(name) if is_plain(&name) => format!(".{name}"),
            Step::Field(name) => format!("[{}]", literal(&name)),
            Step::Item(place) => format!("[{place}]"),
        });
    }
    Ok(out)
}

/// One step of a path.
pub(super) enum Step {
    Field(String),
    Item(u32),
}

/// The steps of a path behind its root: `.name`, `['name']`, `[0]`.
pub(super) fn steps(path: &str) -> Result<Vec<Step>, String> {
    let several = || {
        format!(
            "`{path}` may lead to several places or computes something: only names and places in lists are translated"
        )
    };
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('[') {
            let end = match behind.chars().next() {
                Some(quote @ ('\'' | '"')) => {
                    let end = behind.get(1..).and_then(|text| text.find(quote)).ok_or_else(several)? + 2;
                    let name = behind.get(1..end - 1).unwrap_or_default();
                    if name.contains('\\') {
                        return Err(several());
                    }
                    steps.push(Step::Field(name.to_owned()));
                    end
                }
                _ => {
                    let end = behind.find(']').ok_or_else(several)?;
                    let place = behind.get(..end).unwrap_or_default().trim();
                    steps.push(Step::Item(place.parse().map_err(|_| several())?));
                    end
                }
            };
            rest = behind.get(end..).unwrap_or_default().trim_start().strip_prefix(']').ok_or_else(several)?;
        } else if let Some(behind) = rest.strip_prefix('.') {
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            let (name, more) = behind.split_at(end);
            if name.is_empty()
                || name.contains(|c: char| c.is_whitespace() || "*()?@,:'\"`|&!=<>+/%^~;{}\\$".contains(c))
            {
                return Err(several());
            }
            steps.push(Step::Field(name.to_owned()));
            rest = more;
        } else {
            return Err(several());
        }
    }
    Ok(steps)
}
