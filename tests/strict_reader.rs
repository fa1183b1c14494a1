//! What came to an upstream, read by a reader of the tests' own: it takes one spelling of everything and shares no code with gatepost or the
//! harness, so that it is another opinion on how many requests some bytes are.

/// A request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Method, target and version.
    pub(crate) line: String,
    /// `Name: value`, byte by byte (each a character, so that nothing is lost).
    pub(crate) fields: Vec<String>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The values of a field, whether it is spelled with `-` or `_`, large or small.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter_map(|it| it.split_once(": "));
        fields
            .filter(|(key, _)| key.replace('_', "-").eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

/// All requests in what one connection brought, and how many bytes are left that are the beginning of another.
///
/// # Errors
///
/// What is not as this reader would have it.
pub(crate) fn read(mut bytes: &[u8]) -> Result<(Vec<Request>, usize), String> {
    let mut requests = Vec::new();
    loop {
        match request(bytes)? {
            Some((request, rest)) => {
                requests.push(request);
                bytes = rest;
            }
            None => return Ok((requests, bytes.len())),
        }
    }
}

/// Something and the bytes behind it; nothing where it is not there as a whole.
type Taken<'a, T> = Result<Option<(T, &'a [u8])>, String>;

/// Up to CR LF, in which there is no other control character but tabs.
fn line(bytes: &[u8]) -> Taken<'_, String> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => {
                let text = bytes[..at].iter().map(|it| char::from(*it)).collect();
                return Ok(Some((text, &bytes[at + 2..])));
            }
            b'\r' if at + 1 == bytes.len() => return Ok(None),
            b'\t' => {}
            0..b' ' | 0x7f => return Err(format!("the control character {byte} in a line")),
            _ => {}
        }
    }
    Ok(None)
}

fn request(bytes: &[u8]) -> Taken<'_, Request> {
    let Some((first, mut rest)) = line(bytes)? else {
        return Ok(None);
    };
    let parts: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(format!("the request line {first:?}"));
    };
    let is_method = !method.is_empty() && method.bytes().all(|it| it.is_ascii_uppercase());
    let is_target = target.starts_with('/') && target.bytes().all(|it| it.is_ascii_graphic());
    if !is_method || !is_target {
        return Err(format!("the request line {first:?}"));
    }
    let mut request = Request {
        line: first,
        fields: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let Some((field, more)) = line(rest)? else {
            return Ok(None);
        };
        rest = more;
        if field.is_empty() {
            break;
        }
        let (name, value) = field
            .split_once(": ")
            .ok_or(format!("the field {field:?}"))?;
        let is_name = |it: u8| it.is_ascii_alphanumeric() || b"-_".contains(&it);
        if name.is_empty() || !name.bytes().all(is_name) || value != value.trim_matches([' ', '\t'])
        {
            return Err(format!("the field {field:?}"));
        }
        request.fields.push(field);
    }
    let Some((body, rest)) = body(&request, rest)? else {
        return Ok(None);
    };
    request.body = body;
    Ok(Some((request, rest)))
}

fn body<'a>(request: &Request, rest: &'a [u8]) -> Taken<'a, Vec<u8>> {
    if request.values("host").len() != 1 {
        return Err(format!("not one host: {request:?}"));
    }
    let (lengths, codings) = (
        request.values("content-length"),
        request.values("transfer-encoding"),
    );
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some((Vec::new(), rest))),
        ([length], []) if is_number(length, u8::is_ascii_digit) => {
            let length: usize = length.parse().map_err(|_| format!("a body of {length}"))?;
            Ok(rest
                .split_at_checked(length)
                .map(|(body, rest)| (body.to_vec(), rest)))
        }
        ([], ["chunked"]) => chunks(rest),
        _ => Err(format!("the framing {lengths:?} {codings:?}")),
    }
}

/// One spelling of each number: without zeros in front.
fn is_number(text: &str, is_digit: fn(&u8) -> bool) -> bool {
    !text.is_empty()
        && text.bytes().all(|it| is_digit(&it))
        && (text == "0" || !text.starts_with('0'))
}

/// Without extensions and trailers.
fn chunks(mut bytes: &[u8]) -> Taken<'_, Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some((size, rest)) = line(bytes)? else {
            return Ok(None);
        };
        if !is_number(&size, u8::is_ascii_hexdigit) {
            return Err(format!("a chunk of size {size:?}"));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("a chunk of {size}"))?;
        let Some((chunk, rest)) = rest.split_at_checked(size) else {
            return Ok(None);
        };
        match rest {
            [b'\r', b'\n', rest @ ..] => bytes = rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("a chunk that is longer than its size".to_owned()),
        }
        if size == 0 {
            return Ok(Some((body, bytes)));
        }
        body.extend_from_slice(chunk);
    }
}

/// A reader that sees nothing would agree with everybody.
#[test]
fn the_second_reader_is_strict() {
    let good = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    let chunked =
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for (text, requests, left) in [
        (String::new(), 0, 0),
        (good.to_owned(), 1, 0),
        ([good, chunked, good].concat(), 3, 0),
        ([good, &chunked[..60]].concat(), 1, 60),
        ([chunked, "GET / HT"].concat(), 1, 8),
    ] {
        let (found, rest) = read(text.as_bytes()).unwrap();
        assert_eq!((found.len(), rest), (requests, left), "{text:?}");
        assert!(found.iter().all(|it| it.body == b"{}"), "{found:?}");
    }
    for (old, new) in [
        ("\r\nHost", "\nHost"),
        ("Host: a", "Host: a\r"),
        ("Host: a", "Host : a"),
        ("Host: a", "Host:a"),
        ("Host: a", "Host: a\r\n b"),
        ("Host: a\r\n", ""),
        ("Host: a\r\n", "Host: a\r\nhost: a\r\n"),
        ("Length: 2", "Length: 2, 2"),
        ("Length: 2", "Length: +2"),
        ("Length: 2", "Length: 02"),
        ("Length: 2", "Length: 2\r\nTransfer-Encoding: chunked"),
        ("Length: 2", "Length: 2\r\nContent_Length: 2"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("/x", "/x y"),
        ("/x", "*"),
        ("POST", " POST"),
        ("{}", "{}\r\n"),
    ] {
        let text = good.replacen(old, new, 1);
        let again = [text.as_str(), good].concat();
        assert!(read(again.as_bytes()).is_err(), "{text:?}");
    }
    for (old, new) in [
        ("2\r\n", "2;a\r\n"),
        ("2\r\n", "2 \r\n"),
        ("2\r\n", "02\r\n"),
        ("2\r\n", "1\r\n"),
        ("\r\n0\r\n\r\n", "\r\n0\r\nX: y\r\n\r\n"),
        ("chunked", "gzip, chunked"),
        ("chunked", "chunked\r\nTransfer-Encoding: chunked"),
    ] {
        let text = chunked.replacen(old, new, 1);
        assert!(read(text.as_bytes()).is_err(), "{text:?}");
    }
}
