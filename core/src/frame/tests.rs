use super::*;

#[test]
fn items_keep_their_spelling() {
    let items = split(&Payload::trusted("[1.50, {\"a\": [1,2]} , null,\"x\"]".into()).clone()).unwrap_or_default();
    let texts: Vec<&str> = items.iter().map(Payload::as_str).collect();
    assert_eq!(texts, ["1.50", "{\"a\": [1,2]}", "null", "\"x\""]);
    assert_eq!(list(items.iter()).as_str(), "[1.50,{\"a\": [1,2]},null,\"x\"]");
    assert!(split(&Payload::null()).is_none());
}
