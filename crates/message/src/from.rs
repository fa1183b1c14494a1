//! The addresses of `From` (RFC 5322 §3.6.2), and of other headers that hold a list of them.
//!
//! Mail parsers differ about everything here that is not plain, and the one behind gatepost is not known. So three have
//! to agree: a strict look at the shape, and two parsers by different people. mail-parser reads forgivingly, as mailers
//! do; mailparse reads by the grammar.

use mail_parser::parsers::MessageStream;
use mailparse::MailAddr;

use crate::address::Address;
use crate::fault::MessageFault;
use crate::header::Header;

/// In bytes. Both parsers keep all of it.
const LONGEST: usize = 64 * 1024;

/// The addresses of the one `From`, none where there is no such header.
pub(crate) fn read(headers: &[Header]) -> Result<Vec<Address>, MessageFault> {
    let mut values = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("from"))
        .map(|(_, value)| value);
    let Some(value) = values.next() else {
        return Ok(Vec::new());
    };
    if values.next().is_some() {
        return Err(MessageFault::ambiguous(
            "the message has more than one From",
        ));
    }
    addresses(value)
}

/// The addresses of a value of `From`, at least one.
pub(crate) fn addresses(value: &str) -> Result<Vec<Address>, MessageFault> {
    list(value).map_err(|unread| match unread {
        Unread::TooLong => MessageFault::too_large("From is too long"),
        Unread::TwoWays => MessageFault::ambiguous("From can be read in two ways"),
    })
}

/// Why addresses are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The header is longer than is read.
    TooLong,
    /// The readers disagree, or it is of a shape that is not taken.
    TwoWays,
}

/// The addresses of a header that holds a list of them, at least one.
pub(crate) fn list(value: &str) -> Result<Vec<Address>, Unread> {
    if value.len() > LONGEST {
        return Err(Unread::TooLong);
    }
    let count = Shape::count(value);
    let one = by_mail_parser(value);
    let other = by_mailparse(value);
    match (count, one, other) {
        (Some(count), Some(one), Some(other)) if count == one.len() && one == other => Ok(one),
        _ => Err(Unread::TwoWays),
    }
}

fn by_mail_parser(value: &str) -> Option<Vec<Address>> {
    // Without the end of its line it would lose the last word.
    let line = format!("{value}\n");
    let parsed = MessageStream::new(line.as_bytes()).parse_address();
    let mail_parser::Address::List(list) = parsed.into_address()? else {
        return None;
    };
    list.iter()
        .map(|it| it.address.as_ref()?.parse().ok())
        .collect()
}

fn by_mailparse(value: &str) -> Option<Vec<Address>> {
    let list = mailparse::addrparse(value).ok()?;
    list.iter()
        .map(|it| match it {
            MailAddr::Single(single) => single.addr.parse().ok(),
            MailAddr::Group(_) => None,
        })
        .collect()
}

/// One mailbox while it is looked at.
#[derive(Default)]
struct Shape {
    /// What stands outside of quotes, comments and angle brackets; a blank stands for a comment.
    bare: String,
    /// Where in it the angle brackets stood.
    angle: Option<usize>,
    quoted: bool,
}

impl Shape {
    /// How many mailboxes there are, if all are a dot-atom address alone, or in angle brackets behind a name. That leaves
    /// out groups, routes, and comments and white space within an address.
    fn count(value: &str) -> Option<usize> {
        let mut count = 0;
        let mut shape = Self::default();
        let mut characters = value.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    quoted(&mut characters)?;
                    shape.quoted = true;
                    // What stands behind the brackets has to be nothing, and a quoted string is something.
                    shape.bare.push('"');
                }
                '(' => {
                    comment(&mut characters)?;
                    shape.bare.push(' ');
                }
                '<' => {
                    if shape.angle.replace(shape.bare.len()).is_some() {
                        return None;
                    }
                    in_angles(&mut characters)?;
                }
                ',' => {
                    shape.end()?;
                    shape = Self::default();
                    count += 1;
                }
                '>' | ')' | ':' | ';' | '\\' | '[' | ']' => return None,
                _ => shape.bare.push(character),
            }
        }
        shape.end()?;
        Some(count + 1)
    }

    fn end(&self) -> Option<()> {
        let fine = match self.angle {
            // An address in a name that is not quoted is what a forger would show.
            Some(at) => {
                !self.bare.contains('@') && self.bare.get(at..)?.chars().all(char::is_whitespace)
            }
            None => {
                let address = self.bare.trim();
                !self.quoted
                    && !address.contains(char::is_whitespace)
                    && !address.contains("=?")
                    && address.contains('@')
            }
        };
        fine.then_some(())
    }
}

fn quoted(characters: &mut impl Iterator<Item = char>) -> Option<()> {
    loop {
        match characters.next()? {
            '"' => return Some(()),
            '\\' => {
                characters.next()?;
            }
            _ => {}
        }
    }
}

fn comment(characters: &mut impl Iterator<Item = char>) -> Option<()> {
    let mut open = 1_usize;
    while open > 0 {
        match characters.next()? {
            '(' => open += 1,
            ')' => open -= 1,
            '\\' => {
                characters.next()?;
            }
            _ => {}
        }
    }
    Some(())
}

fn in_angles(characters: &mut impl Iterator<Item = char>) -> Option<()> {
    let mut before = ' ';
    loop {
        let character = characters.next()?;
        match character {
            '>' => return Some(()),
            '<' | '(' | ')' | ',' | ':' | ';' | '"' | '\\' | '[' | ']' => return None,
            '?' if before == '=' => return None,
            _ if character.is_whitespace() => return None,
            _ => before = character,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, expected: Option<&[&str]>) {
        let read = addresses(value).ok();
        let read = read
            .as_ref()
            .map(|list| list.iter().map(Address::email).collect::<Vec<_>>());
        assert_eq!(read.as_deref(), expected, "{value:?}");
    }

    #[test]
    fn what_has_one_meaning() {
        for (value, addresses) in [
            ("a@example.com", &["a@example.com"][..]),
            ("<a@example.com>", &["a@example.com"]),
            ("Scott <A.b+c@Example.COM>", &["A.b+c@example.com"]),
            ("John Q. Public <a@example.com>", &["a@example.com"]),
            ("\"Doe, John\" <a@example.com>", &["a@example.com"]),
            ("\"evil@x.example\" <a@example.com>", &["a@example.com"]),
            ("\"<e@x.example>, \" <a@example.com>", &["a@example.com"]),
            ("\"a \\\" b\" <a@example.com>", &["a@example.com"]),
            (
                "=?utf-8?Q?J=C3=BCrgen?= <a@example.com>",
                &["a@example.com"],
            ),
            (
                "=?utf-8?B?SsO8cmdlbg==?= =?utf-8?Q?x?= <a@example.com>",
                &["a@example.com"],
            ),
            ("Jürgen <a@example.com>", &["a@example.com"]),
            ("jürgen@example.com", &["jürgen@example.com"]),
            ("a@example.com (Scott)", &["a@example.com"]),
            ("Scott <a@example.com> (home)", &["a@example.com"]),
            ("Scott (the cat) <a@example.com>", &["a@example.com"]),
            ("Scott \t  <a@example.com>", &["a@example.com"]),
            (
                "a@example.com, B <b@example.com>,\t\"C, D\" <c@example.com>",
                &["a@example.com", "b@example.com", "c@example.com"],
            ),
        ] {
            check(value, Some(addresses));
        }
        let many: Vec<_> = (0..1000).map(|it| format!("a{it}@example.com")).collect();
        let expected: Vec<_> = many.iter().map(String::as_str).collect();
        check(&many.join(", "), Some(&expected));
    }

    #[test]
    fn what_has_two() {
        for value in [
            "",
            " ",
            "Scott",
            "a@example.com,",
            ",a@example.com",
            "a@example.com,,b@example.com",
            "a@example.com b@example.com",
            "a@example.com; b@example.com",
            "friends: a@example.com, b@example.com;",
            "undisclosed:;",
            "<@x.example,@y.example:a@example.com>",
            "<@x.example:a@example.com>",
            "e@x.example <a@example.com>",
            "<a@example.com> <b@example.com>",
            "<a@example.com> b@example.com",
            "<a@example.com> \"b\"",
            "<a@example.com",
            "a@example.com>",
            "<<a@example.com>>",
            "<a@example.com,b@example.com>",
            "\"a <a@example.com>",
            "a (b <a@example.com>",
            "a) <a@example.com>",
            "a@example.com (b",
            "a @ example.com",
            "a(b)@example.com",
            "a@(b)example.com",
            "<a (b)@example.com>",
            "=?utf-8?Q?a=40example.com?=",
            "=?utf-8?Q?a?=@example.com",
            "<=?utf-8?Q?a?=@example.com>",
            "=?utf-8?Q?a,b?= <a@example.com>",
            "\"a b\"@example.com",
            "\"a\" \"b\"@example.com",
            "a@[192.0.2.1]",
            "a@b@example.com",
            "a..b@example.com",
            "a\\@b@example.com",
            "<>",
            "Scott <>",
            "Scott: <a@example.com>",
        ] {
            check(value, None);
        }
        check(&"a".repeat(LONGEST + 1), None);
    }

    #[test]
    fn only_one_from() {
        let header = |name: &str| (name.to_owned(), "a@example.com".to_owned());
        assert_eq!(read(&[header("To")]), Ok(Vec::new()));
        assert_eq!(read(&[header("FROM"), header("To")]).unwrap().len(), 1);
        assert!(read(&[header("From"), header("from")]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(value in r#"(a@b\.c|[<>(),:;"\\@ =?]|=\?utf-8\?Q\?|x|ü|\t){0,16}"#) {
            let _ = addresses(&value);
        }
    }
}
