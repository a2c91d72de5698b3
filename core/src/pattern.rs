//! Texts in which `*` stands for any text, as the `catch` of a `try` and the test `matching` read them.

/// Whether the whole text is as the pattern says. Linear in both.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_any_text_where_its_star_is() {
        for (pattern, text, expected) in [
            ("timeout", "timeout", true),
            ("timeout", "timeouts", false),
            ("*", "", true),
            ("bad_*", "bad_luck", true),
            ("bad_*", "too_bad", false),
            ("*_bad", "too_bad", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
