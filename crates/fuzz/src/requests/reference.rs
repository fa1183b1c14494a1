//! A second reader of HTTP/1 requests: simple, strict, and without a word of gatepost's own. Where it does not know what to make of
//! something, there is no request for it, and gatepost must not have seen one either.

/// A request, and how it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) head: Head,
    /// As far as it came, without its chunks.
    pub(crate) body: Vec<u8>,
    /// Whether it came to its end.
    pub(crate) is_whole: bool,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in small letters.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Body,
    /// In bytes, with an empty line before it.
    pub(crate) length: usize,
}

/// How one knows where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunks,
}

impl Body {
    pub(crate) fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::Chunks => None,
        }
    }
}

impl Head {
    /// The values of a field.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// All requests of one connection. After one that is not whole nothing can follow.
pub(crate) fn requests(mut bytes: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    while let Some((request, length)) = request(bytes) {
        let is_whole = request.is_whole;
        requests.push(request);
        bytes = bytes.get(length..).unwrap_or_default();
        if !is_whole {
            break;
        }
    }
    requests
}

/// The first request, and how many bytes it takes.
pub(crate) fn request(bytes: &[u8]) -> Option<(Request, usize)> {
    let head = head(bytes)?;
    let rest = bytes.get(head.length..)?;
    let (body, end) = match head.body {
        Body::Length(length) => {
            let length = usize::try_from(length).ok()?;
            match rest.get(..length) {
                Some(body) => (body.to_vec(), Some(length)),
                None => (rest.to_vec(), None),
            }
        }
        Body::Chunks => {
            let chunks = chunks(rest);
            (chunks.data, chunks.end)
        }
    };
    let length = head.length + end.unwrap_or(rest.len());
    let request = Request {
        head,
        body,
        is_whole: end.is_some(),
    };
    Some((request, length))
}

/// The head that the bytes begin with.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let blank = usize::from(bytes.starts_with(b"\r\n")) * 2;
    let rest = bytes.get(blank..)?;
    let end = rest.windows(4).position(|it| it == b"\r\n\r\n")?;
    let text = rest.get(..end)?;
    let mut lines = split(text, b"\r\n").into_iter();
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_plain = |it: &[u8]| !it.is_empty() && it.iter().all(u8::is_ascii_graphic);
    let is_http11 = version == b"HTTP/1.1";
    if words.next().is_some()
        || !(is_http11 || version == b"HTTP/1.0")
        || !is_plain(method)
        || !is_plain(target)
    {
        return None;
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let value = padding_off(value.get(1..)?);
        // Line ends and NUL within a line among them.
        let has_control = value
            .iter()
            .any(|it| *it < b' ' && *it != b'\t' || *it == 0x7f);
        if !is_plain(name) || has_control {
            return None;
        }
        let name = text_of(name)?.to_ascii_lowercase();
        // Some read `_` as `-`.
        if name == "content_length" || name == "transfer_encoding" {
            return None;
        }
        fields.push((name, value.to_vec()));
    }
    let mut head = Head {
        method: text_of(method)?,
        target: text_of(target)?,
        fields,
        body: Body::Length(0),
        length: blank + end + 4,
    };
    let lengths: Vec<&[u8]> = head.all("content-length").collect();
    let codings: Vec<&[u8]> = head.all("transfer-encoding").collect();
    head.body = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Body::Length(0),
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            Body::Length(text_of(length)?.parse().ok()?)
        }
        ([], [coding]) if is_http11 && coding.eq_ignore_ascii_case(b"chunked") => Body::Chunks,
        _ => return None,
    };
    Some(head)
}

/// A body in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// What they hold, as far as they are good.
    pub(crate) data: Vec<u8>,
    /// How many bytes they take, where they come to an end.
    pub(crate) end: Option<usize>,
}

/// The chunks that the bytes begin with.
pub(crate) fn chunks(bytes: &[u8]) -> Chunks {
    let mut data = Vec::new();
    let end = all_chunks(bytes, &mut data);
    Chunks { data, end }
}

fn all_chunks(bytes: &[u8], data: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(bytes.get(at..)?)?;
        at += line.len() + 2;
        let size = line.split(|byte| *byte == b';').next()?;
        if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = u64::from_str_radix(&text_of(size)?, 16).ok()?;
        if size == 0 {
            break;
        }
        let rest = bytes.get(at..)?;
        let size = usize::try_from(size).ok()?;
        let here = rest.len().min(size);
        data.extend_from_slice(rest.get(..here)?);
        at = at.checked_add(size)?;
        if bytes.get(at..at.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    // Trailers, and the empty line behind them.
    loop {
        let line = line(bytes.get(at..)?)?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
        if !line.contains(&b':') {
            return None;
        }
    }
}

/// Up to the next line end, which is CR LF; one that is not is none.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes.get(..end)?.strip_suffix(b"\r")?;
    (!line.contains(&b'\r')).then_some(line)
}

fn split<'a>(text: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(separator.len()).position(|it| it == separator) {
        parts.push(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + separator.len()..).unwrap_or_default();
    }
    parts.push(rest);
    parts
}

fn padding_off(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn text_of(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_what_is_there() {
        let bytes = b"POST /a?b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n\
            \r\nGET /c HTTP/1.0\r\nX_Y: \tz \r\n\r\nPUT /d HTTP/1.1\r\nContent-Length: 5\r\n\r\nab";
        let requests = requests(bytes);
        let seen: Vec<_> = requests
            .iter()
            .map(|it| (it.head.path(), it.body.as_slice(), it.is_whole))
            .collect();
        let expected: [(&str, &[u8], bool); 3] = [
            ("/a", b"abc", true),
            ("/c", b"", true),
            ("/d", b"ab", false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(requests[1].head.all("x_y").collect::<Vec<_>>(), [b"z"]);
    }

    #[test]
    fn what_has_two_meanings_is_no_request() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent_Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nA: b\n c: d\r\n\r\n",
            "POST / HTTP/1.1\r\nA : b\r\n\r\n",
            "POST  / HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            assert_eq!(super::head(head.as_bytes()), None, "{head:?}");
        }
        for body in [
            "\r\n",
            "3 \r\nabc\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "g\r\n",
        ] {
            assert_eq!(chunks(body.as_bytes()).end, None, "{body:?}");
        }
    }
}
