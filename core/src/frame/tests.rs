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

#[test]
fn items_keep_their_spelling() {
    let items = split(&Payload::trusted("[1.50, {\"a\": [1,2]} , null,\"x\"]".into()).clone()).unwrap_or_default();
    let texts: Vec<&str> = items.iter().map(Payload::as_str).collect();
    assert_eq!(texts, ["1.50", "{\"a\": [1,2]}", "null", "\"x\""]);
    assert_eq!(list(items.iter()).as_str(), "[1.50,{\"a\": [1,2]},null,\"x\"]");
    assert!(split(&Payload::null()).is_none());
}
