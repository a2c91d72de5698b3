//! Durations as people write them: `1h30m`, `250ms`, `0.5s`, `2d`.
//!
//! Units go from large to small, each at most once; a fraction is allowed on the last. Nothing is longer than
//! 100 years, so sums with a time never overflow.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// The longest duration: 100 years of 365.25 days.
pub const MAX: Duration = Duration::from_secs(100 * 36_525 * 864);

/// Units from large to small, in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("w", 7 * 86_400 * SECOND),
    ("d", 86_400 * SECOND),
    ("h", 3_600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", SECOND / 1_000),
    ("us", SECOND / 1_000_000),
];
const SECOND: u128 = 1_000_000_000;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no duration: {why}")]
pub struct Error {
    text: String,
    why: &'static str,
}

/// The duration that `text` says.
pub fn parse(text: &str) -> Result<Duration, Error> {
    read(text).map_err(|why| Error { text: text.chars().take(60).collect(), why })
}

fn read(text: &str) -> Result<Duration, &'static str> {
    const HOW: &str = "write numbers with units from large to small, such as `1h30m`, `250ms` or `0.5s`";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    let mut units = UNITS.as_slice();
    let mut fraction_seen = false;
    if rest.is_empty() {
        return Err(HOW);
    }
    while !rest.is_empty() {
        if fraction_seen {
            return Err("only the last number may have a fraction");
        }
        let digits =
            rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("the unit is missing (w d h m s ms us)")?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let place = UNITS.iter().position(|(name, _)| *name == unit).ok_or(HOW)?;
        let place = place.checked_sub(UNITS.len() - units.len()).ok_or("units go from large to small, each once")?;
        let (_, size) = units.get(place).ok_or(HOW)?;
        units = units.get(place + 1..).unwrap_or_default();
        let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
        if whole.is_empty() || whole.len() > 20 {
            return Err(if whole.is_empty() { HOW } else { "it is longer than 100 years" });
        }
        nanos += whole.parse::<u128>().map_err(|_| HOW)? * size;
        if let Some(fraction) = fraction {
            fraction_seen = true;
            if fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
                return Err("a fraction has one to nine digits");
            }
            let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
            nanos += fraction.parse::<u128>().map_err(|_| HOW)? * size / scale;
        }
        if nanos > MAX.as_nanos() {
            return Err("it is longer than 100 years");
        }
        rest = tail;
    }
    let secs = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    Ok(Duration::new(secs, u32::try_from(nanos % SECOND).unwrap_or_default()))
}

/// The shortest text that [`parse`] reads back as the same duration.
pub fn format(duration: Duration) -> String {
    let mut text = String::new();
    let mut nanos = duration.as_nanos();
    for (unit, size) in UNITS.into_iter().filter(|(unit, _)| *unit != "w") {
        if nanos >= size {
            text.push_str(&format!("{}{unit}", nanos / size));
            nanos %= size;
        }
    }
    if nanos > 0 {
        // Below a microsecond: say the last part as a fraction of it.
        let head = text.strip_suffix("us").map_or_else(
            || (text.clone(), 0),
            |head| {
                let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
                let (front, micros) = head.split_at(digits);
                (front.to_owned(), micros.parse().unwrap_or(0_u128))
            },
        );
        let fraction = format!("{nanos:03}");
        text = format!("{}{}.{}us", head.0, head.1, fraction.trim_end_matches('0'));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `#[serde(with = "longshore_core::duration")]`: writes the text of [`format()`].
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For `#[serde(with = "longshore_core::duration")]`: reads what [`parse`] reads.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// For `#[serde(with = "longshore_core::duration::option")]` on an `Option<Duration>`.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text, or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_spellings_are_read() {
        for (text, millis) in [
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1s", 1_000),
            ("0.5s", 500),
            ("1d", 86_400_000),
            ("1w1d", 691_200_000),
            ("1m0.25s", 60_250),
            ("0", 0),
            ("0s", 0),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("36500d").map(|d| d < MAX), Ok(true));
    }

    #[test]
    fn the_others_are_refused_with_a_reason() {
        for (text, why) in [
            ("", "such as"),
            ("5", "unit is missing"),
            ("5 s", "such as"),
            ("s", "such as"),
            ("-1s", "such as"),
            ("1y", "such as"),
            ("1m1h", "large to small"),
            ("1s1s", "large to small"),
            ("1.5h30m", "fraction"),
            ("1.s", "fraction"),
            ("1.2.3s", "fraction"),
            ("101y", "such as"),
            ("36526d", "100 years"),
            ("99999999999999999999999w", "100 years"),
            ("1é", "such as"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn texts_are_the_shortest_usual_ones() {
        assert_eq!(format(Duration::from_secs(5_400)), "1h30m");
        assert_eq!(format(Duration::from_millis(1_250)), "1s250ms");
        assert_eq!(format(Duration::ZERO), "0s");
        assert_eq!(format(Duration::from_nanos(1_500)), "1.5us");
        assert_eq!(format(Duration::new(1, 5)), "1s0.005us");
    }

    proptest! {
        #[test]
        fn every_duration_reads_back(secs in 0_u64..3_000_000_000, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(secs, nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}|[0-9.wdhmsu]{0,30}") {
            let _ = parse(&text);
        }
    }
}
