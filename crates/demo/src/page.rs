//! The pages for people with a browser.
//!
//! INVARIANT: every value goes into a page through [`Escaped`]. All of them are strangers' words, and
//! some of the strangers test for exactly this.

use std::fmt::{self, Display, Write};

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use serde_json::Value;

use crate::store::{Message, Summary};

/// `GET /`.
pub(crate) const ABOUT: &str = concat!(
    page_start!("gatepost demo"),
    "<h1>gatepost demo</h1>\n",
    "<p>This is a demo of an injection API, with the JSON of KumoMTA's. It stores the messages that \
     are injected and <strong>never sends</strong> any.</p>\n",
    "<p>Inject with <code>POST /api/inject/v1</code>; see <a href=\"/messages\">the messages</a>. \
     Everyone who reaches this address may read them.</p>\n"
);

/// The answer to a browser that asks for what is not there.
pub(crate) const NOT_FOUND: &str = concat!(
    page_start!("not found"),
    "<h1>Not found</h1>\n<p>There is nothing here. See <a href=\"/messages\">the messages</a>.</p>\n"
);

/// `GET /style.css`. A file of its own, so that the pages may forbid all inline style.
pub(crate) const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid #8884; overflow-wrap: anywhere; unicode-bidi: isolate; }
pre { padding: .75rem; border: 1px solid #8884; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: plaintext; }
";

/// Whether the client would rather have HTML than JSON (RFC 9110 §12.5.1). Who says nothing, or
/// likes both alike, gets JSON.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let accept: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let ranges = accept.join(",");
    quality(&ranges, "text", "html") > quality(&ranges, "application", "json")
}

/// The quality that the most specific range gives a media type.
fn quality(ranges: &str, kind: &str, subtype: &str) -> f32 {
    let mut best = (0, 0.0);
    for range in ranges.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_subtype)) = parts.next().and_then(|m| m.split_once('/')) else {
            continue;
        };
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let specificity = match (same(range_kind, kind), same(range_subtype, subtype)) {
            (true, true) => 3,
            (true, false) if range_subtype == "*" => 2,
            (false, _) if range_kind == "*" && range_subtype == "*" => 1,
            (true | false, _) => continue,
        };
        if specificity > best.0 {
            let quality = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
            best = (
                specificity,
                quality.and_then(|q| q.parse().ok()).unwrap_or(1.0),
            );
        }
    }
    best.1
}

/// `GET /messages`.
pub(crate) fn list(messages: &[Summary]) -> String {
    render(|page| {
        page.write_str(page_start!("messages - gatepost demo"))?;
        page.write_str("<h1>Messages</h1>\n")?;
        if messages.is_empty() {
            page.write_str("<p>None yet.</p>\n")?;
            return Ok(());
        }
        page.write_str(
            "<p>Newest first.</p>\n<table>\n<tr><th>id<th>time<th>sender<th>recipient<th>http_auth\
             <th>size</tr>\n",
        )?;
        for message in messages {
            let Summary {
                id,
                time,
                sender,
                recipient,
                http_auth,
                size,
            } = message;
            let http_auth = http_auth.as_deref().unwrap_or("-");
            write!(page, "<tr><td><a href=\"/messages/{id}\">{id}</a>")?;
            for text in [time, sender, recipient, http_auth] {
                write!(page, "<td>{}", Escaped(text))?;
            }
            writeln!(page, "<td>{size}</tr>")?;
        }
        page.write_str("</table>\n")
    })
}

/// `GET /messages/ID`.
pub(crate) fn message(message: &Message) -> String {
    let Message {
        summary,
        own,
        common,
    } = message;
    render(|page| {
        page.write_str(page_start!("message - gatepost demo"))?;
        writeln!(page, "<p><a href=\"/messages\">all messages</a></p>")?;
        writeln!(page, "<h1>Message {}</h1>", summary.id)?;

        page.write_str("<h2>Meta</h2>\n<table>\n")?;
        let identity = &common.meta.identity;
        row(
            page,
            "http_auth",
            identity.http_auth.as_deref().unwrap_or("-"),
        )?;
        if identity.http_auth_conflict {
            row(
                page,
                "http_auth_conflict",
                "true: the header came more than once",
            )?;
        }
        row(page, "received_from", &common.meta.received_from)?;
        row(page, "reception_protocol", &common.meta.reception_protocol)?;
        row(page, "time", &summary.time)?;

        page.write_str("</table>\n<h2>Envelope</h2>\n<table>\n")?;
        row(page, "sender", &summary.sender)?;
        row(page, "recipient", &summary.recipient)?;
        row(page, "name", own.name.as_deref().unwrap_or("-"))?;
        row(page, "substitutions", &pretty(&own.substitutions))?;
        row(page, "metadata", &pretty(&own.metadata))?;
        row(
            page,
            "substitutions of the request",
            &pretty(&common.request_substitutions),
        )?;

        page.write_str("</table>\n<h2>Content</h2>\n")?;
        if common.truncated {
            writeln!(
                page,
                "<p>Only the beginning of {} bytes was kept.</p>",
                summary.size
            )?;
        }
        content(page, &common.content)?;

        page.write_str("<h2>Headers of the request</h2>\n<table>\n")?;
        for (name, value) in &common.headers {
            row(page, name, value)?;
        }
        page.write_str("</table>\n")
    })
}

fn content(page: &mut String, content: &Value) -> fmt::Result {
    let Some(parts) = content.as_object() else {
        return preformatted(page, content);
    };
    for (name, part) in parts {
        writeln!(page, "<h3>{}</h3>", Escaped(name))?;
        preformatted(page, part)?;
    }
    Ok(())
}

fn preformatted(page: &mut String, value: &Value) -> fmt::Result {
    match value.as_str() {
        // The line break is the one that a parser drops after the tag (HTML §13.1.2.5).
        Some(text) => writeln!(page, "<pre>\n{}</pre>", Escaped(text)),
        None => writeln!(page, "<pre>\n{}</pre>", Escaped(&pretty(value))),
    }
}

fn row(page: &mut String, name: &str, value: &str) -> fmt::Result {
    writeln!(page, "<tr><th>{}<td>{}</tr>", Escaped(name), Escaped(value))
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Writing to a `String` does not fail, so there is always a page.
fn render(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut page = String::new();
    match write(&mut page) {
        Ok(()) => page,
        Err(fmt::Error) => String::new(),
    }
}

/// Text that means itself in HTML, in an element as in a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            let (plain, from_special) = rest.split_at(at);
            let mut after = from_special.chars();
            formatter.write_str(plain)?;
            formatter.write_str(match after.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                Some(_) | None => "&#39;",
            })?;
            rest = after.as_str();
        }
        formatter.write_str(rest)
    }
}

/// What every page begins with. A macro because `concat!` takes literals only.
macro_rules! page_start {
    ($title:literal) => {
        concat!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n",
            "<meta name=\"viewport\" content=\"width=device-width\">\n",
            "<title>",
            $title,
            "</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n"
        )
    };
}
use page_start;

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn who_gets_html() {
        let cases = [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("text/html", true),
            ("TEXT/HTML;q=0.3", true),
            ("text/*", true),
            ("application/json;q=0.5, text/html;q=0.6", true),
            ("application/json;q=0, */*", true),
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("application/json, text/html", false),
            ("application/json, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("image/png", false),
            ("nonsense", false),
        ];
        for (accept, html) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_html(&headers), html, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn escaping() {
        let cases = [
            ("", ""),
            ("plain ü", "plain ü"),
            ("<script>\"&'", "&lt;script&gt;&quot;&amp;&#39;"),
            ("&amp;", "&amp;amp;"),
        ];
        for (text, expected) in cases {
            assert_eq!(Escaped(text).to_string(), expected);
        }
    }
}
