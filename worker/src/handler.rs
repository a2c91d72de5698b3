//! Typed handlers and their erased form: JSON in, JSON out.
//! What a handler's types refuse becomes a permanent failure with a name (`input_invalid`, `output_invalid`,
//! `output_too_large`), never a panic. Timeouts, panics and cancellation are the lane's business (`execute.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use longshore_core::error::{INPUT_INVALID, OUTPUT_INVALID, OUTPUT_TOO_LARGE};
use longshore_core::payload::Payload;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::failure::Failure;
use crate::step::Step;

/// Largest output of a handler, in bytes of JSON, unless [`Handlers::with_output_limit`] says otherwise.
pub const DEFAULT_OUTPUT_LIMIT: usize = 1024 * 1024;

/// What runs a node: an async function or closure from a [`Step`] and an input to an output.
///
/// Implemented for every `Fn(Step, I) -> impl Future<Output = Result<O, Failure>>`; there is nothing to implement by hand.
/// A handler may run more than once for one step (see [`Step::idempotency_key`]).
pub trait Handler<I, O>: Send + Sync + 'static {
    /// Run the handler once.
    fn call(&self, step: Step, input: I) -> impl Future<Output = Result<O, Failure>> + Send;
}

impl<F, R, I, O> Handler<I, O> for F
where
    F: Fn(Step, I) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, Failure>> + Send,
{
    fn call(&self, step: Step, input: I) -> impl Future<Output = Result<O, Failure>> + Send {
        self(step, input)
    }
}

/// A handler whose input and output types are behind it.
pub(crate) type ErasedHandler =
    Arc<dyn Fn(Step, Payload) -> BoxFuture<'static, Result<Payload, Failure>> + Send + Sync>;

/// The handlers a worker knows, by the name that `task` nodes use.
#[derive(Clone)]
pub struct Handlers {
    by_name: BTreeMap<Arc<str>, ErasedHandler>,
    output_limit: usize,
}

impl Handlers {
    /// None yet; outputs may have 1 MiB.
    pub fn new() -> Self {
        Self::with_output_limit(DEFAULT_OUTPUT_LIMIT)
    }

    /// None yet; handlers added from here on may return at most `bytes` of JSON.
    pub fn with_output_limit(bytes: usize) -> Self {
        Self { by_name: BTreeMap::new(), output_limit: bytes }
    }

    /// Register `handler` under `name`; an earlier one of that name is replaced.
    pub fn add<I, O>(&mut self, name: &str, handler: impl Handler<I, O>)
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
    {
        self.by_name.insert(Arc::from(name), erase(handler, self.output_limit));
    }

    /// As [`Handlers::add`] for one whose types are behind it.
    pub(crate) fn add_erased(&mut self, name: &str, handler: ErasedHandler) {
        self.by_name.insert(Arc::from(name), handler);
    }

    /// Take in all handlers of `others`; a handler that is here already stays.
    pub fn add_missing(&mut self, others: Handlers) {
        for (name, handler) in others.by_name {
            self.by_name.entry(name).or_insert(handler);
        }
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().map(|name| name.to_string()).collect()
    }

    /// How many bytes of JSON an output may have.
    pub(crate) fn output_limit(&self) -> usize {
        self.output_limit
    }

    /// The handler of that name; none means that steps for it belong to another worker.
    pub(crate) fn get(&self, name: &str) -> Option<&ErasedHandler> {
        self.by_name.get(name)
    }
}

impl Default for Handlers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handlers").field(&self.names()).finish()
    }
}

fn erase<I, O>(handler: impl Handler<I, O>, output_limit: usize) -> ErasedHandler
where
    I: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |step, input| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let input = read_input(&input)?;
            let output = handler.call(step, input).await?;
            write_output(&output, output_limit)
        })
    })
}

fn read_input<I: DeserializeOwned>(input: &Payload) -> Result<I, Failure> {
    input.parse().map_err(|error| {
        let path = path_at(input.as_str(), error.line(), error.column());
        Failure::permanent(format!("input does not fit the handler at {path}: {error}"))
            .named(INPUT_INVALID)
            .details(json!({ "path": path }))
    })
}

fn write_output<O: Serialize>(output: &O, limit: usize) -> Result<Payload, Failure> {
    let output = Payload::of(output)
        .map_err(|error| Failure::permanent(format!("output of the handler: {error}")).named(OUTPUT_INVALID))?;
    let bytes = output.len();
    if bytes > limit {
        let message = format!(
            "output of the handler has {bytes} bytes, at most {limit} are stored: store it elsewhere and return where"
        );
        return Err(Failure::permanent(message).named(OUTPUT_TOO_LARGE));
    }
    Ok(output)
}

/// Where in the JSON text a line and column (from 1) lie, as `input.items[3].price`. serde_json reports where its reader
/// stood, which for a value of the wrong type is at that value or its end.
fn path_at(text: &str, line: usize, column: usize) -> String {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (line_start + column).min(text.len());
    let mut open: Vec<Place<'_>> = Vec::new();
    let mut bytes = text.as_bytes()[..end].iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' => open.push(Place::Object { key: None }),
            b'[' => open.push(Place::Array { index: 0 }),
            b'}' | b']' if at + 1 < end => {
                open.pop();
            }
            b',' if at + 1 < end => match open.last_mut() {
                Some(Place::Array { index }) => *index += 1,
                Some(Place::Object { key }) => *key = None,
                None => {}
            },
            b'"' => {
                let mut last = at;
                while let Some((next, byte)) = bytes.next() {
                    last = next;
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
                if let Some(Place::Object { key: key @ None }) = open.last_mut() {
                    *key = text.get(at + 1..last);
                }
            }
            _ => {}
        }
    }
    let mut path = String::from("input");
    for place in open {
        match place {
            Place::Object { key: Some(key) } => {
                path.push('.');
                path.push_str(key);
            }
            Place::Object { key: None } => {}
            Place::Array { index } => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// An object or array that was open at the place looked for, and how far it was read.
enum Place<'t> {
    Object { key: Option<&'t str> },
    Array { index: usize },
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use longshore_core::error::{ErrorKind, StepError};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;
    use crate::step::tests::a_step;

    /// Run a registered handler on a JSON input, as a lane does.
    pub(crate) async fn run(handlers: &Handlers, name: &str, step: Step, input: &Value) -> Result<Value, Failure> {
        let handler = handlers.get(name).expect("the handler is registered");
        let input = Payload::of(input).expect("the input is a payload");
        let output = handler(step, input).await?;
        Ok(serde_json::from_str(output.as_str()).expect("the output is JSON"))
    }

    #[derive(Deserialize)]
    struct Order {
        items: Vec<Item>,
    }

    #[derive(Deserialize)]
    struct Item {
        price: u64,
    }

    async fn total(_: Step, order: Order) -> Result<u64, Failure> {
        Ok(order.items.iter().map(|item| item.price).sum())
    }

    async fn error_of(handlers: &Handlers, input: &Value) -> StepError {
        let failure = run(handlers, "total", a_step(), input).await.unwrap_err();
        failure.into_error("sum", 1).0
    }

    fn totals() -> Handlers {
        let mut handlers = Handlers::new();
        handlers.add("total", total);
        handlers
    }

    #[tokio::test]
    async fn functions_and_closures_are_handlers() {
        let mut handlers = totals();
        let offset = 10;
        handlers.add("plus", move |step: Step, n: i32| async move { Ok::<_, Failure>(n + offset + step.attempt()) });
        assert_eq!(handlers.names(), ["plus", "total"]);
        let input = json!({ "items": [{ "price": 2 }, { "price": 3 }] });
        assert_eq!(run(&handlers, "total", a_step(), &input).await.unwrap(), json!(5));
        assert_eq!(run(&handlers, "plus", a_step(), &json!(1)).await.unwrap(), json!(12));
        assert!(handlers.get("minus").is_none());
    }

    #[tokio::test]
    async fn an_input_that_does_not_fit_names_its_path() {
        let input = json!({ "items": [{ "price": 2 }, { "name": "a, [b", "price": "three" }] });
        let error = error_of(&totals(), &input).await;
        assert_eq!((error.name.as_str(), error.kind), ("input_invalid", ErrorKind::Permanent));
        assert!(error.message.contains("input.items[1].price"), "{}", error.message);
        assert_eq!(error.details, Some(json!({ "path": "input.items[1].price" })));

        let error = error_of(&totals(), &json!({ "items": [{}] })).await;
        assert!(error.message.contains("input.items[0]") && error.message.contains("`price`"), "{}", error.message);
        assert!(error_of(&totals(), &json!(7)).await.message.contains("at input:"));
    }

    #[test]
    fn a_path_is_found_over_several_lines_and_in_broken_text() {
        let text = "{\n \"a\": [1, {\"b\\\"c\": 2}],\n \"d\": {\"e\": tru}\n}";
        assert_eq!(path_at(text, 2, 20), "input.a[1].b\\\"c");
        assert_eq!(path_at(text, 3, 15), "input.d.e");
        assert_eq!(path_at("", 1, 0), "input");
        assert_eq!(path_at("[\"ü", 9, 9), "input[0]");
    }

    #[tokio::test]
    async fn an_output_over_the_limit_is_a_permanent_failure() {
        let mut handlers = Handlers::with_output_limit(10);
        handlers.add("total", async |_: Step, _: Value| Ok::<_, Failure>("x".repeat(9)));
        let error = error_of(&handlers, &json!(null)).await;
        assert_eq!((error.name.as_str(), error.kind), ("output_too_large", ErrorKind::Permanent));
    }

    #[tokio::test]
    async fn an_output_that_cannot_be_stored_is_a_permanent_failure() {
        let mut handlers = Handlers::new();
        handlers.add("total", async |_: Step, _: Value| Ok::<_, Failure>("a\0b"));
        let error = error_of(&handlers, &json!(null)).await;
        assert_eq!((error.name.as_str(), error.kind), ("output_invalid", ErrorKind::Permanent));
    }

    #[tokio::test]
    async fn a_name_that_is_taken_stays_when_others_are_taken_in() {
        let mut handlers = totals();
        let mut others = Handlers::new();
        others.add("total", async |_: Step, _: Value| Ok::<_, Failure>(0));
        others.add("zero", async |_: Step, _: Value| Ok::<_, Failure>(0));
        handlers.add_missing(others);
        let input = json!({ "items": [{ "price": 2 }] });
        assert_eq!(run(&handlers, "total", a_step(), &input).await.unwrap(), json!(2));
        assert_eq!(run(&handlers, "zero", a_step(), &input).await.unwrap(), json!(0));
    }
}
