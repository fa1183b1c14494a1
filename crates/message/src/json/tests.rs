//! What is JSON, what is refused with which place, and that serde_json agrees.

use proptest::prelude::*;

use super::text::Piece;
use super::*;
use crate::fault::FaultKind;

fn check(body: &[u8], expected: Result<(), (FaultKind, Option<&str>)>) {
    let read = read(body);
    let read = read
        .as_ref()
        .map(|_| ())
        .map_err(|fault| (fault.kind, fault.pointer.as_deref()));
    assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(body));
}

#[test]
fn what_is_json() {
    let deepest = format!("{}{}", "[".repeat(64), "]".repeat(64));
    for body in [
        "0",
        " -1.5e+3\r\n",
        "\"\"",
        "null",
        "[]",
        "{}",
        "[ ]",
        " { } ",
        r#"{"":1,"a":{"a":[{"a":1},{"a":[]}]},"b":"\u00fc\ud83d\ude00\"\\\/\b\f\n\r\t"}"#,
        "[1, 2 ,\t[3]\n,{}]",
        &deepest,
    ] {
        check(body.as_bytes(), Ok(()));
    }
}

#[test]
fn what_is_not() {
    let malformed = |pointer| Err((FaultKind::Malformed, Some(pointer)));
    for (body, pointer) in [
        ("", ""),
        ("hello", ""),
        ("<xml/>", ""),
        ("\u{feff}{}", ""),
        ("{", ""),
        (r#"{"a""#, "/a"),
        (r#"{"a":"#, "/a"),
        (r#"{"a":{"b":[1,2,"#, "/a/b/2"),
        (r#"{"a":{"b":[1,2,{"c":nul"#, "/a/b/2/c"),
        (r#"{"a":{"x":1},"b":01}"#, "/b"),
        (r#"{"a/b~":tru}"#, "/a~1b~0"),
        ("[1 2]", "/1"),
        ("[1,]", "/1"),
        ("[1}", "/1"),
        ("{'a':1}", ""),
        (r#"{"x":{"a":1,}}"#, "/x"),
        (r#"{"x":[{"a":{"b":1},"\x":1}]}"#, "/x/0"),
        (r#"{"a":{"#, "/a"),
        (r#"["\x"]"#, "/0"),
        (r#"["\u12g4"]"#, "/0"),
        (r#"["\u+123"]"#, "/0"),
        (r#"["\ud83d"]"#, "/0"),
        (r#"["\ude00\ud83d"]"#, "/0"),
        (r#"["\ud83dx"]"#, "/0"),
        ("[\"a\nb\"]", "/0"),
        ("[\"a", "/0"),
        ("[\"a\\", "/0"),
        ("[1e999]", "/0"),
        ("[.5]", "/0"),
        ("[1.]", "/0"),
        ("[+1]", "/0"),
        ("[NaN]", "/0"),
        ("[1] // a", ""),
    ] {
        let expected = if body == "[1] // a" {
            Err((FaultKind::Malformed, None))
        } else {
            malformed(pointer)
        };
        check(body.as_bytes(), expected);
    }
    check(b"{} {}", Err((FaultKind::Malformed, None)));
    check(b"{}\0", Err((FaultKind::Malformed, None)));
    check(b"[\"\xff\"]", Err((FaultKind::Malformed, None)));
}

#[test]
fn names_that_come_twice() {
    for (body, pointer) in [
        (r#"{"a":1,"a":1}"#, "/a"),
        (r#"{"a":1,"b":2,"\u0061":3}"#, "/a"),
        (r#"{"x":[0,{"y":{"a":1,"b":{},"a":2}}]}"#, "/x/1/y/a"),
        (r#"{"":1,"":1}"#, "/"),
        (r#"{"a/b":1,"a/b":1}"#, "/a~1b"),
    ] {
        check(body.as_bytes(), Err((FaultKind::Ambiguous, Some(pointer))));
    }
}

#[test]
fn depth_and_names_are_bounded() {
    let mut body = "[".repeat(65);
    let pointer = "/0".repeat(64);
    check(body.as_bytes(), Err((FaultKind::Malformed, Some(&pointer))));
    // Ends at once, however much there is.
    body = "{\"a\":".repeat(1_000_000);
    let pointer = "/a".repeat(64);
    check(body.as_bytes(), Err((FaultKind::Malformed, Some(&pointer))));
    body = format!("{{\"{}\":1}}", "a".repeat(2 << 20));
    check(body.as_bytes(), Err((FaultKind::TooLarge, None)));
    let names: Vec<_> = (0..70_000).map(|it| format!("\"{it}\":0")).collect();
    body = format!("{{{}}}", names.join(","));
    check(body.as_bytes(), Err((FaultKind::TooLarge, None)));
    // One after the other they are fine.
    body = format!("[{}]", vec![r#"{"a":1,"\u0062":2}"#; 200_000].join(","));
    check(body.as_bytes(), Ok(()));
}

#[test]
fn strings_are_read_in_pieces() {
    let Value::List(list) = read(br#" ["a\nb\"", "", "\u00e9"] "#).unwrap() else {
        panic!()
    };
    let pieces: Vec<Vec<_>> = list
        .items()
        .map(|item| item.string().unwrap().pieces().collect())
        .collect();
    use Piece::{Escaped, Plain};
    assert_eq!(
        pieces,
        [
            vec![Plain("a"), Escaped('\n'), Plain("b"), Escaped('"')],
            vec![],
            vec![Escaped('é')]
        ]
    );
}

/// What serde_json makes of a value, found with our walk.
fn tree(value: Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(it) => it.into(),
        Value::Number => 0.into(),
        Value::String(text) => text.whole().into(),
        Value::List(list) => list.items().map(tree).collect(),
        Value::Object(object) => object
            .members()
            .map(|(name, value)| (name.whole().into_owned(), tree(value)))
            .collect(),
    }
}

fn without_numbers(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(_) => 0.into(),
        serde_json::Value::Array(items) => items.into_iter().map(without_numbers).collect(),
        serde_json::Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| (name, without_numbers(value)))
            .collect(),
        other @ (serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::String(_)) => other,
    }
}

fn agree(body: &[u8]) {
    let theirs = serde_json::from_slice::<serde_json::Value>(body);
    match read(body) {
        Ok(value) => assert_eq!(tree(value), without_numbers(theirs.unwrap())),
        Err(fault) => assert!(
            theirs.is_err()
                || matches!(
                    fault.words,
                    "a member is named twice" | "the body nests too deeply"
                ),
            "{fault}"
        ),
    }
}

proptest! {
    #[test]
    fn serde_json_agrees(body in r#"([\[\]{},: "a0.eE+-]|"a"|"b":|\\u00|\\"|\\ud83d|true|null|12){0,24}"#) {
        agree(body.as_bytes());
    }

    #[test]
    fn serde_json_agrees_on_mutations(at in 0_usize..80, byte in any::<u8>()) {
        let mut body = br#"{"a":[1,-2.5e3,{"b\n":"c\ud83d\ude00"}],"d":{"e":null,"f":true},"a ":""} "#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        agree(&body);
    }
}
