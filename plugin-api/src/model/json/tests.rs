//! What canonical JSON promises: one text for one value, as serde_json would write it, sorted.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn strings_are_written_as_serde_json_writes_them(text in any::<String>()) {
        prop_assert_eq!(canonical_string(&text), serde_json::to_string(&text).expect("a text is JSON"));
    }
}

fn value(depth: u32) -> impl Strategy<Value = Value> {
    let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number.prop_map(|digits| Value::Number(serde_json::from_str(&digits).expect("the digits are a number"))),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(depth, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn canonical_text(text: &str) -> Result<String, NotCanonical> {
    canonical_raw(serde_json::from_str(text).expect("the syntax is right"))
}

proptest! {
    #[test]
    fn a_text_is_rewritten_as_its_parsed_value_is(value in value(6)) {
        let pretty = serde_json::to_string_pretty(&value).expect("a value can be written");

        prop_assert_eq!(canonical_text(&pretty), Ok(canonical(&value)));
    }
}

#[test]
fn a_text_is_rewritten_sorted_and_whole() {
    for (text, expected) in [
        (r#" { "b" : [ 1 , {"d":1,"c":2} ] , "a" : "\u0061\/\u00e9" } "#, r#"{"a":"a/é","b":[1,{"c":2,"d":1}]}"#),
        (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
        (r#"{"\u0061":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"$serde_json::private::Number":"7"}"#, r#"{"$serde_json::private::Number":"7"}"#),
        (r#"[{"$serde_json::private::RawValue":"[]"}]"#, r#"[{"$serde_json::private::RawValue":"[]"}]"#),
        (r"[ -0.10E+7 ,true,null,[],{},false]", r"[-0.10E+7,true,null,[],{},false]"),
        (r#""\ud83d\ude00 \u0000\u000A\"\b""#, "\"😀 \\u0000\\n\\\"\\b\""),
        (r#"{"":{"":""}}"#, r#"{"":{"":""}}"#),
    ] {
        assert_eq!(canonical_text(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn depth_and_halves_of_surrogate_pairs_are_refused() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));

    assert_eq!(canonical_text(&nested(MAX_DEPTH)), Ok(nested(MAX_DEPTH)));
    assert_eq!(canonical_text(&nested(MAX_DEPTH + 1)), Err(NotCanonical::TooDeep));
    assert_eq!(canonical_text(&nested(100_000)), Err(NotCanonical::TooDeep));
    for text in [r#""\ud800""#, r#"{"\udc00":1}"#, r#"["\ud800\ud800"]"#] {
        assert!(matches!(canonical_text(text), Err(NotCanonical::HalfOfPair { .. })), "{text}");
    }
}

#[test]
fn control_characters_are_escaped_as_serde_json_does() {
    let all: String = (0..=0x7f_u8).map(char::from).collect();

    // At every place of the words that are looked at at once.
    for text in (0..=16).map(|start| format!("{}{all}", "x".repeat(start))) {
        assert_eq!(canonical_string(&text), serde_json::to_string(&text).expect("a text is JSON"));
    }
}
