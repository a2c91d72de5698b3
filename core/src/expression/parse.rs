//! Reads one expression: finds its references, bounds its size and writes it out for MiniJinja.
//!
//! The grammar is MiniJinja's without statements, function calls and chained comparisons. Operators are written
//! out as filters of `functions`, which bound their results; references become the variables `r0`, `r1`, …, so an
//! expression can read nothing but what is listed here.

use super::Reference;
use super::functions::{FILTERS, TESTS};

/// The longest expression in bytes.
pub(super) const MAX_SOURCE: usize = 8 * 1024;
/// The most tokens; it bounds the depth of MiniJinja's own recursion.
const MAX_TOKENS: usize = 500;
/// How deep brackets, `not`, `-` and `if` may nest.
const MAX_NESTING: usize = 32;

/// An expression that can be compiled.
pub(super) struct Parsed {
    /// The text for MiniJinja.
    pub source: String,
    /// What it reads; place *n* is the variable `r<n>`.
    pub references: Vec<Reference>,
    /// Set when the expression is one reference and constant steps into it.
    pub path: Option<Vec<Step>>,
    /// Where it ends in the text read: behind `}}` in a template, else the length.
    pub end: usize,
}

/// One constant step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Item(usize),
}

/// Reads a bare expression, the whole text.
pub(super) fn bare(text: &str) -> Result<Parsed, String> {
    Parser::start(text, false)?.whole()
}

/// Reads an expression up to the `}}` that closes it.
pub(super) fn until_close(text: &str) -> Result<Parsed, String> {
    Parser::start(text, true)?.whole()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Number(&'a str),
    /// A string literal with its quotes.
    Text(&'a str),
    Mark(&'static str),
    End,
}

/// Longest first.
const MARKS: [&str; 25] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "~", "*", "/", "%", "<", ">", "(", ")", "[", "]", "{", "}", ",", ":",
    "|", ".", "=",
];

struct Parser<'a> {
    text: &'a str,
    /// The current token, from `start` to `end`.
    token: Token<'a>,
    start: usize,
    end: usize,
    in_template: bool,
    /// Open braces, so that a map's `}}` does not close a template.
    braces: usize,
    tokens: usize,
    nesting: usize,
    references: Vec<Reference>,
}

/// Text for MiniJinja and what is known of it.
struct Code {
    text: String,
    /// `.x` and `[x]` may follow without parentheses.
    open: bool,
    path: Option<Vec<Step>>,
}

impl Code {
    fn closed(text: String) -> Self {
        Self { text, open: false, path: None }
    }

    fn open(text: String) -> Self {
        Self { text, open: true, path: None }
    }

    /// `self|filter(arguments)`.
    fn filter(self, name: &str, arguments: &str) -> Self {
        let mut text = self.text;
        text.push('|');
        text.push_str(name);
        if !arguments.is_empty() {
            text.push('(');
            text.push_str(arguments);
            text.push(')');
        }
        Self::closed(text)
    }

    /// The text to which `.x` or `[x]` may be added.
    fn opened(self) -> String {
        if self.open { self.text } else { format!("({})", self.text) }
    }
}

impl<'a> Parser<'a> {
    fn start(text: &'a str, in_template: bool) -> Result<Self, String> {
        let mut parser = Self {
            text,
            token: Token::End,
            start: 0,
            end: 0,
            in_template,
            braces: 0,
            tokens: 0,
            nesting: 0,
            references: Vec::new(),
        };
        parser.advance()?;
        Ok(parser)
    }

    fn whole(mut self) -> Result<Parsed, String> {
        if self.token == Token::End {
            return Err("the expression is empty".to_owned());
        }
        let code = self.ternary()?;
        if self.token != Token::End {
            return Err(self.expected("an operator or the end"));
        }
        if self.end > MAX_SOURCE {
            return Err(format!("the expression is longer than {MAX_SOURCE} bytes"));
        }
        Ok(Parsed { source: code.text, references: self.references, path: code.path, end: self.end })
    }

    // Tokens.

    fn rest(&self, from: usize) -> &'a str {
        self.text.get(from..).unwrap_or_default()
    }

    fn advance(&mut self) -> Result<(), String> {
        self.tokens += 1;
        if self.tokens > MAX_TOKENS {
            return Err(format!("the expression has more than {MAX_TOKENS} words and signs"));
        }
        let rest = self.rest(self.end);
        let skipped = rest.len() - rest.trim_start().len();
        self.start = self.end + skipped;
        let rest = self.rest(self.start);
        let Some(first) = rest.chars().next() else {
            if self.in_template {
                return Err("the closing `}}` is missing".to_owned());
            }
            return self.take(Token::End, 0);
        };
        if first.is_ascii_alphabetic() || first == '_' {
            let length = run(rest, |c| c.is_ascii_alphanumeric() || c == '_');
            return self.take(Token::Name(rest.split_at(length).0), length);
        }
        if first.is_ascii_digit() {
            let length = number(rest);
            return self.take(Token::Number(rest.split_at(length).0), length);
        }
        if first == '"' || first == '\'' {
            let length = literal(rest, first).ok_or_else(|| self.wrong("the text in quotes does not end"))?;
            return self.take(Token::Text(rest.split_at(length).0), length);
        }
        if self.in_template && self.braces == 0 && rest.starts_with("}}") {
            return self.take(Token::End, 2);
        }
        let Some(mark) = MARKS.into_iter().find(|mark| rest.starts_with(mark)) else {
            return Err(self.wrong(&format!("`{first}` has no meaning in an expression")));
        };
        match mark {
            "{" => self.braces += 1,
            "}" => self.braces = self.braces.saturating_sub(1),
            _ => {}
        }
        self.take(Token::Mark(mark), mark.len())
    }

    fn take(&mut self, token: Token<'a>, length: usize) -> Result<(), String> {
        self.token = token;
        self.end = self.start + length;
        Ok(())
    }

    fn wrong(&self, what: &str) -> String {
        format!("at character {}: {what}", self.text.get(..self.start).unwrap_or_default().chars().count() + 1)
    }

    fn expected(&self, what: &str) -> String {
        let found = match self.token {
            Token::End => "the end".to_owned(),
            Token::Name(text) | Token::Number(text) | Token::Text(text) => {
                format!("`{}`", text.chars().take(30).collect::<String>())
            }
            Token::Mark(mark) => format!("`{mark}`"),
        };
        self.wrong(&format!("expected {what}, found {found}"))
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.token, Token::Mark(text) if text == mark)
            || matches!(self.token, Token::Name(text) if text == mark)
    }

    /// Moves on if the current token is this mark or word.
    fn skip(&mut self, mark: &str) -> Result<bool, String> {
        let found = self.is(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn need(&mut self, mark: &str) -> Result<(), String> {
        if self.skip(mark)? { Ok(()) } else { Err(self.expected(&format!("`{mark}`"))) }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.wrong(&format!("it is nested more than {MAX_NESTING} levels deep")));
        }
        let read = read(self)?;
        self.nesting -= 1;
        Ok(read)
    }

    // The grammar, from loose to tight.

    fn ternary(&mut self) -> Result<Code, String> {
        self.nested(|this| {
            let value = this.any_of("or", Self::and)?;
            if !this.skip("if")? {
                return Ok(value);
            }
            let condition = this.any_of("or", Self::and)?;
            let other = if this.skip("else")? { this.ternary()?.text } else { "none".to_owned() };
            Ok(Code::open(format!("({} if {} else {other})", value.text, condition.text)))
        })
    }

    fn and(&mut self) -> Result<Code, String> {
        self.any_of("and", Self::not)
    }

    /// `a word b word c`, kept lazy and flat.
    fn any_of(&mut self, word: &str, part: fn(&mut Self) -> Result<Code, String>) -> Result<Code, String> {
        let first = part(self)?;
        if !self.is(word) {
            return Ok(first);
        }
        let mut text = format!("({}", first.text);
        while self.skip(word)? {
            text.push_str(&format!(" {word} {}", part(self)?.text));
        }
        text.push(')');
        Ok(Code::open(text))
    }

    fn not(&mut self) -> Result<Code, String> {
        if self.skip("not")? {
            return self.nested(|this| Ok(this.not()?.filter("_not", "")));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Code, String> {
        let left = self.sum()?;
        let Some(name) = self.comparison()? else {
            return Ok(left);
        };
        let right = self.sum()?;
        let code = match name {
            "_not_in" => left.filter("_in", &right.text).filter("_not", ""),
            name => left.filter(name, &right.text),
        };
        if self.comparison()?.is_some() {
            return Err(self.wrong("comparisons cannot be chained: join them with `and`"));
        }
        Ok(code)
    }

    fn comparison(&mut self) -> Result<Option<&'static str>, String> {
        let name = match self.token {
            Token::Mark("==") => "_eq",
            Token::Mark("!=") => "_ne",
            Token::Mark("<") => "_lt",
            Token::Mark("<=") => "_le",
            Token::Mark(">") => "_gt",
            Token::Mark(">=") => "_ge",
            Token::Name("in") => "_in",
            Token::Name("not") => {
                self.advance()?;
                if !self.is("in") {
                    return Err(self.expected("`in`"));
                }
                "_not_in"
            }
            Token::Mark("=") => {
                return Err(self.wrong("`=` has no meaning here: compare with `==`"));
            }
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(name))
    }

    fn sum(&mut self) -> Result<Code, String> {
        self.binary(&[("+", "_add"), ("-", "_sub")], Self::concat)
    }

    fn concat(&mut self) -> Result<Code, String> {
        self.binary(&[("~", "_concat")], Self::product)
    }

    fn product(&mut self) -> Result<Code, String> {
        self.binary(&[("*", "_mul"), ("/", "_div"), ("//", "_floordiv"), ("%", "_rem")], Self::power)
    }

    fn power(&mut self) -> Result<Code, String> {
        self.binary(&[("**", "_pow")], Self::filtered)
    }

    fn binary(
        &mut self,
        operators: &[(&str, &str)],
        part: fn(&mut Self) -> Result<Code, String>,
    ) -> Result<Code, String> {
        let mut left = part(self)?;
        while let Some((_, filter)) = operators.iter().find(|(mark, _)| self.is(mark)) {
            self.advance()?;
            left = left.filter(filter, &part(self)?.text);
        }
        Ok(left)
    }

    /// A value with its filters and tests.
    fn filtered(&mut self) -> Result<Code, String> {
        let mut code = self.negated()?;
        loop {
            if self.skip("|")? {
                let name = self.listed("filter", FILTERS)?;
                let arguments = if self.is("(") { self.arguments()? } else { String::new() };
                code = code.filter(name, &arguments);
            } else if self.skip("is")? {
                let negated = self.skip("not")?;
                let name = self.listed("test", TESTS)?;
                let mut arguments = format!("\"{name}\"");
                if self.is("(") {
                    arguments = format!("{arguments}, {}", self.arguments()?);
                } else if matches!(self.token, Token::Number(_) | Token::Text(_)) {
                    arguments = format!("{arguments}, {}", self.primary()?.text);
                }
                code = code.filter("_is", &arguments);
                if negated {
                    code = code.filter("_not", "");
                }
            } else {
                return Ok(code);
            }
        }
    }

    fn listed(&mut self, what: &str, known: &[&'static str]) -> Result<&'static str, String> {
        let Token::Name(name) = self.token else {
            return Err(self.expected(&format!("the name of a {what}")));
        };
        let Some(found) = known.iter().find(|known| **known == name) else {
            return Err(self.wrong(&format!("there is no {what} `{name}`; there are {}", known.join(", "))));
        };
        self.advance()?;
        Ok(found)
    }

    /// `(a, b, name=c)`, without the parentheses.
    fn arguments(&mut self) -> Result<String, String> {
        self.need("(")?;
        let mut texts = Vec::new();
        while !self.skip(")")? {
            if !texts.is_empty() {
                self.need(",")?;
            }
            let mut text = String::new();
            if let Token::Name(name) = self.token
                && self.rest(self.end).trim_start().starts_with('=')
                && !self.rest(self.end).trim_start().starts_with("==")
            {
                self.advance()?;
                self.advance()?;
                text = format!("{name}=");
            }
            text.push_str(&self.ternary()?.text);
            texts.push(text);
        }
        Ok(texts.join(", "))
    }

    fn negated(&mut self) -> Result<Code, String> {
        if self.skip("-")? {
            return self.nested(|this| Ok(this.negated()?.filter("_neg", "")));
        }
        let mut code = self.primary()?;
        loop {
            let mut path = code.path.take();
            if self.is(".") {
                let step = self.member()?;
                let text = match &step {
                    Step::Field(name) => format!("{}[\"{name}\"]", code.opened()),
                    Step::Item(place) => format!("{}[{place}]", code.opened()),
                };
                if let Some(path) = &mut path {
                    path.push(step);
                }
                code = Code { text, open: true, path };
            } else if self.is("[") {
                let (parts, step) = self.subscript()?;
                if let [index] = parts.as_slice() {
                    let path = path.zip(step).map(|(mut path, step)| {
                        path.push(step);
                        path
                    });
                    code = Code { text: format!("{}[{index}]", code.opened()), open: true, path };
                } else {
                    code = code.filter("_slice", &parts.join(", "));
                }
            } else if self.is("(") {
                return Err(self.wrong("functions and methods cannot be called: use a filter, such as `x|length`"));
            } else {
                code.path = path;
                return Ok(code);
            }
        }
    }

    /// Behind a dot: a name or a whole number. Read by hand, as `0.1` in `a.0.1` is no fraction.
    fn member(&mut self) -> Result<Step, String> {
        let rest = self.rest(self.end);
        let digits = run(rest, |c| c.is_ascii_digit());
        let name = run(rest, |c| c.is_ascii_alphanumeric() || c == '_');
        let (word, _) = rest.split_at(name);
        if name == 0 || digits > 0 && digits < name {
            return Err(
                self.wrong("a name or a number must follow the dot; other names go in brackets, as in x[\"a-b\"]")
            );
        }
        self.end += name;
        self.advance()?;
        if digits == 0 {
            return Ok(Step::Field(word.to_owned()));
        }
        word.parse().map(Step::Item).map_err(|_| self.wrong("the place is too large"))
    }

    /// `[index]`, or the two or three parts of `[from:to:step]`; the step when it is one constant index.
    fn subscript(&mut self) -> Result<(Vec<String>, Option<Step>), String> {
        self.need("[")?;
        let constant = match self.token {
            Token::Text(raw) => plain(raw).map(|text| Step::Field(text.to_owned())),
            Token::Number(raw) => raw.parse().ok().map(Step::Item),
            _ => None,
        };
        let alone = self.rest(self.end).trim_start().starts_with(']');
        let mut parts = vec![if self.is(":") { "none".to_owned() } else { self.ternary()?.text }];
        while parts.len() < 3 && self.skip(":")? {
            let left_out = self.is(":") || self.is("]");
            parts.push(if left_out { "none".to_owned() } else { self.ternary()?.text });
        }
        self.need("]")?;
        Ok((parts, constant.filter(|_| alone)))
    }

    fn primary(&mut self) -> Result<Code, String> {
        match self.token {
            Token::Number(text) => {
                // MiniJinja reads whole numbers into 128 bits and refuses what is longer.
                if text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u128>().is_err() {
                    return Err(
                        self.wrong("the number is too large for a whole one: write it with an exponent, as in 1e40")
                    );
                }
                self.advance()?;
                Ok(Code::closed(text.to_owned()))
            }
            Token::Text(text) => {
                self.advance()?;
                Ok(Code::open(text.to_owned()))
            }
            Token::Name(name) => self.name(name),
            Token::Mark("(") => {
                self.advance()?;
                let code = self.ternary()?;
                if self.is(",") {
                    return Err(self.wrong("there are no tuples: write a list in brackets"));
                }
                self.need(")")?;
                Ok(Code::open(format!("({})", code.text)))
            }
            Token::Mark("[") => {
                self.advance()?;
                let mut items = Vec::new();
                while !self.skip("]")? {
                    if !items.is_empty() {
                        self.need(",")?;
                        if self.skip("]")? {
                            break;
                        }
                    }
                    items.push(self.ternary()?.text);
                }
                Ok(Code::open(format!("[{}]", items.join(", "))))
            }
            Token::Mark("{") => self.map(),
            _ => Err(self.expected("a value")),
        }
    }

    fn map(&mut self) -> Result<Code, String> {
        self.need("{")?;
        let mut items = Vec::new();
        while !self.skip("}")? {
            if !items.is_empty() {
                self.need(",")?;
                if self.skip("}")? {
                    break;
                }
            }
            let Token::Text(key) = self.token else {
                return Err(self.expected("a key in quotes"));
            };
            self.advance()?;
            self.need(":")?;
            items.push(format!("{key}: {}", self.ternary()?.text));
        }
        Ok(Code::open(format!("{{{}}}", items.join(", "))))
    }

    fn name(&mut self, name: &str) -> Result<Code, String> {
        let constant = match name {
            "true" | "True" => Some("true"),
            "false" | "False" => Some("false"),
            "none" | "None" | "null" => Some("none"),
            _ => None,
        };
        if let Some(constant) = constant {
            self.advance()?;
            return Ok(Code::closed(constant.to_owned()));
        }
        let at = self.wrong("");
        let told = |what: String| format!("{at}{what}");
        self.advance()?;
        let reference = match name {
            "error" => Reference::Error,
            "input" => Reference::Input,
            "item" => Reference::Item,
            "index" => Reference::Index,
            "signal" => match self.part()?.as_deref() {
                Some("name") => Reference::SignalName,
                Some("payload") => Reference::SignalPayload,
                _ => return Err(told("`signal` must be followed by .name or .payload".to_owned())),
            },
            "frame" => match self.part()?.as_deref() {
                Some("input") => Reference::FrameInput(None),
                Some("index") => Reference::FrameIndex(None),
                _ => return Err(told("`frame` must be followed by .input or .index".to_owned())),
            },
            "frames" => {
                let Some(id) = self.part()? else {
                    return Err(told(
                        "`frames` must be followed by the id of a block around, as in frames.each.input or \
                         frames[\"each-order\"].input"
                            .to_owned(),
                    ));
                };
                match self.part()?.as_deref() {
                    Some("input") => Reference::FrameInput(Some(id)),
                    Some("index") => Reference::FrameIndex(Some(id)),
                    _ => {
                        let id: String = id.chars().take(60).collect();
                        return Err(told(format!("`frames.{id}` must be followed by .input or .index")));
                    }
                }
            }
            "run" => {
                let fix = "`run` must be followed by .id, .workflow, .version, .input, .key, .context or .parent";
                match self.part()?.as_deref() {
                    Some("id") => Reference::RunId,
                    Some("workflow") => Reference::RunWorkflow,
                    Some("version") => Reference::RunVersion,
                    Some("input") => Reference::RunInput,
                    Some("key") => Reference::RunKey,
                    Some("context") => Reference::RunContext,
                    Some("state") => Reference::RunState,
                    Some("parent") => Reference::RunParent,
                    _ => return Err(told(fix.to_owned())),
                }
            }
            "nodes" => {
                let Some(id) = self.part()? else {
                    return Err(told(
                        "`nodes` must be followed by a node's id written out, as in nodes.charge.output or \
                         nodes[\"charge-card\"].output; a computed reference cannot be read ahead"
                            .to_owned(),
                    ));
                };
                match self.part()?.as_deref() {
                    Some("output") => Reference::Output(id),
                    Some("error") => Reference::Failure(id),
                    Some("state") => Reference::State(id),
                    _ => {
                        let id: String = id.chars().take(60).collect();
                        return Err(told(format!("`nodes.{id}` must be followed by .output or .error")));
                    }
                }
            }
            _ if self.is("(") => {
                return Err(told(format!("the function `{name}` does not exist: use a filter, such as `x|length`")));
            }
            _ => {
                return Err(told(format!(
                    "there is no `{name}`: an expression reads run, nodes, error, input, item, index, frame and frames; \
                     text goes in quotes"
                )));
            }
        };
        let place = self.references.iter().position(|known| *known == reference).unwrap_or_else(|| {
            self.references.push(reference);
            self.references.len() - 1
        });
        Ok(Code { text: format!("r{place}"), open: true, path: Some(Vec::new()) })
    }

    /// One constant part of a reference: `.name` or `["name"]`.
    fn part(&mut self) -> Result<Option<String>, String> {
        if self.is(".") {
            return self.member().map(|step| match step {
                Step::Field(name) => Some(name),
                Step::Item(place) => Some(place.to_string()),
            });
        }
        if self.is("[") {
            let (_, step) = self.subscript()?;
            return Ok(step.and_then(|step| match step {
                Step::Field(name) => Some(name),
                Step::Item(_) => None,
            }));
        }
        Ok(None)
    }
}

/// Bytes at the start of `text` whose characters satisfy `which`.
fn run(text: &str, which: impl Fn(char) -> bool) -> usize {
    text.find(|c| !which(c)).unwrap_or(text.len())
}

/// Length of the number at the start of `text`: digits, a fraction and an exponent.
fn number(text: &str) -> usize {
    let digits = |from: usize| run(text.get(from..).unwrap_or_default(), |c| c.is_ascii_digit());
    let mut length = digits(0);
    if text.get(length..).is_some_and(|rest| rest.starts_with('.')) && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    if text.get(length..).is_some_and(|rest| rest.starts_with(['e', 'E'])) {
        let sign = usize::from(text.get(length + 1..).is_some_and(|rest| rest.starts_with(['+', '-'])));
        if digits(length + 1 + sign) > 0 {
            length += 1 + sign + digits(length + 1 + sign);
        }
    }
    length
}

/// Length of the string literal at the start of `text`, with its quotes.
fn literal(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The text of a string literal that has no escapes.
fn plain(raw: &str) -> Option<&str> {
    let inner = raw.get(1..raw.len().checked_sub(1)?)?;
    (!inner.contains('\\')).then_some(inner)
}
