//! Takes the part of a JSON text that constant steps lead to, as text, without building the rest.
//!
//! It keeps numbers digit for digit, which a JSON tree does not.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::parse::Step;

/// The JSON text at the end of the steps; `None` when nothing is there.
pub(super) fn walk<'j>(json: &'j str, steps: &[Step]) -> Option<&'j str> {
    let mut found = json;
    for step in steps {
        let mut deserializer = serde_json::Deserializer::from_str(found);
        found = Take(step).deserialize(&mut deserializer).ok()??;
    }
    Some(found.trim())
}

struct Take<'s>(&'s Step);

impl<'de> DeserializeSeed<'de> for Take<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Take<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Step::Field(name) = self.0 else {
            return Err(A::Error::custom("no field"));
        };
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            // The last of equal keys counts, as in jsonb.
            if key == name.as_str() {
                found = Some(map.next_value::<&'de RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Step::Item(place) = self.0 else {
            return Err(A::Error::custom("no item"));
        };
        let mut found = None;
        let mut at = 0;
        loop {
            if at == *place {
                let Some(item) = items.next_element::<&'de RawValue>()? else {
                    break;
                };
                found = Some(item.get());
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            at += 1;
        }
        Ok(found)
    }
}
