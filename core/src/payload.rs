//! JSON text on its way to a `jsonb` column.
//!
//! A `Payload` holds text that Postgres will store: one linear scan finds what `jsonb` or a later reader would
//! refuse (`\u0000`, lone surrogates, huge numbers, deep nesting). It is cheap to clone and is passed on verbatim,
//! so a step's output becomes the next step's input without being parsed.

use std::sync::Arc;
use std::sync::LazyLock;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The deepest nesting a payload may have. `serde_json` reads no deeper, so a deeper payload could be stored but
/// no handler could take it.
pub const MAX_DEPTH: usize = 127;

/// The longest number in bytes. `numeric` takes more digits than anyone needs, but not any count of them.
const MAX_NUMBER: usize = 1_000;

/// The largest exponent in either direction, a little beyond what a double can hold.
const MAX_EXPONENT: u32 = 400;

/// Why a value cannot be stored. The handler's output or the caller's input has to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or a value that cannot become JSON (for example a map whose keys are not text).
    #[error("not valid JSON: {0}")]
    Invalid(#[from] serde_json::Error),
    /// Postgres' text cannot hold the character U+0000.
    #[error("the character \\u0000 at byte {at} cannot be stored in Postgres: remove it or encode the text")]
    NulCharacter {
        /// Byte offset of the escape in the JSON text.
        at: usize,
    },
    /// Half of a UTF-16 pair stands alone, so the text is no Unicode.
    #[error("the lone surrogate at byte {at} is not valid Unicode: write both halves of the pair")]
    LoneSurrogate {
        /// Byte offset of the escape in the JSON text.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} levels deep at byte {at}: flatten the value")]
    TooDeep {
        /// Byte offset of the bracket that is one too many.
        at: usize,
    },
    /// A number beyond what a double holds, or with too many digits.
    #[error("the number at byte {at} is too large to store: send it as text")]
    NumberTooLarge {
        /// Byte offset of the number in the JSON text.
        at: usize,
    },
}

/// JSON text that Postgres stores as it is. Cloning it copies a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Payload(Arc<str>);

impl Payload {
    /// The payload `null`.
    pub fn null() -> Self {
        static NULL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("null"));
        Self(Arc::clone(&NULL))
    }

    /// The JSON of a Rust value. Fails if the value cannot be JSON or `jsonb` would refuse it.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        let text = serde_json::to_string(value)?;
        scan(text.as_bytes())?;
        Ok(Self(Arc::from(text)))
    }

    /// JSON text from outside, checked whole.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        serde_json::from_str::<IgnoredAny>(text)?;
        scan(text.as_bytes())?;
        Ok(Self(Arc::from(text)))
    }

    /// Text that Postgres itself printed from `jsonb`: not checked again.
    pub fn trusted(text: Arc<str>) -> Self {
        Self(text)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn text(&self) -> &Arc<str> {
        &self.0
    }

    /// The value read as `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The value as a JSON tree; `null` if the text cannot be read (only trusted text can be so).
    pub fn value(&self) -> serde_json::Value {
        self.parse().unwrap_or_default()
    }

    /// Length of the text in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true for JSON; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True for the payload `null`.
    pub fn is_null(&self) -> bool {
        self.0.trim() == "null"
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::null()
    }
}

/// Finds what `jsonb` refuses in text that is valid JSON.
fn scan(text: &[u8]) -> Result<(), Error> {
    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => at = scan_string(text, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Error::TooDeep { at });
                }
                at += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b'-' | b'0'..=b'9' => at = scan_number(text, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Scans a string from behind its opening quote; the position behind the closing one.
fn scan_string(text: &[u8], mut at: usize) -> Result<usize, Error> {
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if text.get(at + 1) == Some(&b'u') => match hex(text, at + 2) {
                0 => return Err(Error::NulCharacter { at }),
                0xD800..=0xDBFF => {
                    let pair = text.get(at + 6) == Some(&b'\\') && text.get(at + 7) == Some(&b'u');
                    if !pair || !(0xDC00..=0xDFFF).contains(&hex(text, at + 8)) {
                        return Err(Error::LoneSurrogate { at });
                    }
                    at += 12;
                }
                0xDC00..=0xDFFF => return Err(Error::LoneSurrogate { at }),
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// The four hexadecimal digits at `at`; the JSON is valid, so they are there.
fn hex(text: &[u8], at: usize) -> u32 {
    text.iter().skip(at).take(4).fold(0, |sum, &digit| sum * 16 + char::from(digit).to_digit(16).unwrap_or_default())
}

/// Scans a number from its first byte; the position behind it.
fn scan_number(text: &[u8], start: usize) -> Result<usize, Error> {
    let mut at = start;
    let mut exponent = None;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'0'..=b'9' | b'-' | b'+' | b'.' => at += 1,
            b'e' | b'E' => {
                exponent = Some(at + 1);
                at += 1;
            }
            _ => break,
        }
    }
    if at - start < 19 && exponent.is_none() {
        return Ok(at);
    }
    let too_large = || Error::NumberTooLarge { at: start };
    let read = |from: usize| std::str::from_utf8(text.get(from..at).unwrap_or_default()).unwrap_or_default();
    if at - start > MAX_NUMBER {
        return Err(too_large());
    }
    if let Some(exponent) = exponent {
        let digits = read(exponent).trim_start_matches(['+', '-']).trim_start_matches('0');
        if digits.len() > 4 || digits.parse::<u32>().unwrap_or(0) > MAX_EXPONENT {
            return Err(too_large());
        }
    }
    match read(start).parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(at),
        _ => Err(too_large()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn refusal(text: &str) -> String {
        Payload::from_text(text).unwrap_err().to_string()
    }

    #[test]
    fn what_jsonb_refuses_is_named_with_its_place() {
        assert!(refusal(r#"{"a": "x\u0000"}"#).contains("\\u0000 at byte 8"));
        assert!(refusal(r#""\ud83d""#).contains("lone surrogate at byte 1"));
        assert!(refusal(r#""\ude00\ud83d""#).contains("lone surrogate at byte 1"));
        assert!(refusal(r#""\ud83d\u0041""#).contains("lone surrogate"));
        assert!(refusal("[1, 1e401]").contains("number at byte 4"));
        assert!(refusal("1e-5000").contains("too large"));
        assert!(refusal(&"9".repeat(400)).contains("too large"));
        assert!(refusal(&format!("0.{}", "9".repeat(2000))).contains("too large"));
        assert!(refusal(&"[".repeat(200_000)).contains("not valid JSON"));
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(refusal(&deep(MAX_DEPTH + 1)).contains("nested more than"));
        assert!(refusal(&deep(100_000)).contains("nested more than"));
        assert!(Payload::from_text(&deep(MAX_DEPTH)).unwrap().value().is_array());
        assert!(refusal("{'a': 1}").contains("not valid JSON"));
        assert!(refusal("1 2").contains("not valid JSON"));
    }

    #[test]
    fn what_only_looks_bad_is_stored() {
        for text in [
            r#""\\u0000""#,
            r#""\ud83d\ude00""#,
            r#""[[[[1e999""#,
            "1e308",
            "1e-330",
            "123456789012345678901234567890",
            "-0.5E+3",
            r#"{"\"}{": "\\"}"#,
        ] {
            assert_eq!(Payload::from_text(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_rust_value_is_checked_too() {
        assert_eq!(Payload::of(&json!({"ok": true})).unwrap().as_str(), r#"{"ok":true}"#);
        assert!(matches!(Payload::of("a\0b"), Err(Error::NulCharacter { at: 2 })));
        let mut deep = json!(1);
        for _ in 0..200 {
            deep = json!([deep]);
        }
        assert!(matches!(Payload::of(&deep), Err(Error::TooDeep { .. })));
        let raw = serde_json::value::RawValue::from_string("1e999999".into()).unwrap();
        assert!(matches!(Payload::of(&raw), Err(Error::NumberTooLarge { .. })));
        assert_eq!(Payload::of(&f64::NAN).unwrap(), Payload::null());
        assert!(Payload::null().is_null() && !Payload::of("null").unwrap().is_null());
    }

    proptest! {
        /// Random text close to JSON: accepted exactly when `serde_json` reads it and it holds no U+0000.
        /// (`serde_json` itself refuses lone surrogates, numbers beyond a double and 128 levels.)
        #[test]
        fn accepts_what_serde_json_reads_but_nul(
            parts in prop::collection::vec(prop_oneof![
                Just("\"".to_owned()), Just("[".into()), Just("]".into()), Just("{".into()), Just("}".into()),
                Just(",".into()), Just(":".into()), Just("\\".into()), Just("\\u0000".into()), Just("\\ud83d".into()),
                Just("\\ude00".into()), Just("1e308".into()), Just("1e309".into()), Just("12".into()), Just(".5".into()),
                Just("null".into()), Just("\"a\"".into()), Just("\"\\n\"".into()), Just("é".into()),
            ], 0..8),
            wrap in any::<bool>(),
        ) {
            let inner: String = parts.concat();
            let text = if wrap { format!("[\"{inner}\"]") } else { inner };
            let read = serde_json::from_str::<Value>(&text);
            let fine = matches!(&read, Ok(value) if !holds_nul(value));
            prop_assert_eq!(Payload::from_text(&text).is_ok(), fine, "{} {:?}", text, read);
        }
    }

    fn holds_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(holds_nul),
            Value::Object(map) => map.iter().any(|(key, item)| key.contains('\0') || holds_nul(item)),
            _ => false,
        }
    }
}
