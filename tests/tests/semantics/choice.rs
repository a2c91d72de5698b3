//! The comparisons of choice rules, each with what it was recorded to give.

use longshore::asl;
use longshore_core::expression::{Expression, Found, Reference, Scope};
use longshore_core::payload::Payload;
use serde_json::{Value, json};

use super::{Told, cases, json as read};

/// Whether an expression is true, `run.input` being this.
pub(crate) fn holds(expression: &str, input: &Value) -> bool {
    let payload = Payload::of(input).unwrap();
    let find = |_: &Reference| Found::Json(payload.clone());
    Expression::compile(expression).expect(expression).is_true(&Scope::new(&find)).expect(expression)
}

/// `numeric_equals_path` as the operator `NumericEqualsPath`.
fn operator(word: &str) -> String {
    let part = |part: &str| part[..1].to_uppercase() + &part[1..];
    word.split('_').map(part).collect()
}

#[test]
fn every_comparison_gives_what_was_recorded() {
    let Some(cases) = cases() else { return };
    let table = read(&cases.join("aws-choice-operators.json"));
    let rows = table["rows"].as_array().unwrap();
    let mut told = Told::default();
    for (place, row) in rows.iter().enumerate() {
        let operator = operator(row[0].as_str().unwrap());
        let comparand = if operator.ends_with("Path") { json!("$.other") } else { row[2].clone() };
        let rule = json!({"Variable": "$.value", operator.as_str(): comparand, "Next": "x"});
        let expression = asl::rule(&rule, "run.input").unwrap();
        let given = holds(&expression, &json!({"value": row[1], "other": row[2]}));
        let case = format!("row {place}: {row}");
        told.tell(&case, super::same("result", &given, &row[3].as_bool().unwrap()).map(|()| expression));
    }
    told.end(206);
}
