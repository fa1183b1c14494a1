//! What holds for every input, not only for those that somebody thought of.

use gatepost_auth::path::Target;
use gatepost_auth::wire::{HeadLimits, HeadScanner};
use gatepost_auth::{AuthInfo, CredentialRules, Credentials};
use proptest::prelude::*;

/// Bytes that look a little like what they should be, since pure noise is refused at the first byte.
fn bytes_like(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    bytes_like(&[
        "POST ",
        "GET ",
        "/a",
        "/",
        "..",
        "%2e",
        " ",
        "HTTP/1.1",
        "HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: ",
        "5",
        ",",
        "Transfer-Encoding: chunked\r\n",
        "X: y\r\n",
        ":",
        "\0",
    ])
}

proptest! {
    /// It makes no difference where the network cuts a head into pieces.
    #[test]
    fn a_head_reads_the_same_in_pieces(head in head(), cuts in proptest::collection::vec(0usize..400, 0..4)) {
        let whole = HeadScanner::new(HeadLimits::default()).advance(&head);
        let mut scanner = HeadScanner::new(HeadLimits::default());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(head.len())).collect();
        cuts.sort_unstable();
        cuts.push(head.len());
        let mut got = Ok(None);
        for cut in cuts {
            got = scanner.advance(&head[..cut]);
            if got != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(got, whole);
    }

    /// A head that passes has one Host at the most, one framing, and ends where its first empty line is.
    #[test]
    fn a_head_that_passes_has_one_meaning(head in head()) {
        if let Ok(Some(end)) = HeadScanner::new(HeadLimits::default()).advance(&head) {
            let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
            prop_assert!(text.ends_with("\r\n\r\n"));
            prop_assert!(text.matches("content-length:").count() <= 1, "{text}");
            prop_assert!(!(text.contains("content-length:") && text.contains("transfer-encoding:")), "{text}");
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
        }
    }

    /// A path that passes cannot be spelt in another way: decoding and resolving it changes nothing.
    #[test]
    fn a_path_that_passes_is_its_own_normal_form(
        target in bytes_like(&["/", "a", ".", "..", "%2e", "%2F", "%41", "%c3%a9", "?", ";", "//", "\\", "%", "#", "api", "%00"])
    ) {
        if let Ok(parsed) = Target::parse(&target) {
            let path = parsed.path();
            prop_assert!(path.starts_with('/'));
            prop_assert!(!path.contains("//") && !path.contains('\\') && path.is_ascii());
            prop_assert!(path.split('/').all(|segment| !segment.ends_with('.')));
            let mut rest = path;
            while let Some((_, behind)) = rest.split_once('%') {
                let byte = u8::from_str_radix(&behind[..2], 16).unwrap();
                prop_assert!(!byte.is_ascii_alphanumeric() && !b"-._~/\\%\0 ".contains(&byte), "{path}");
                rest = &behind[2..];
            }
        }
    }

    /// Whatever a client sends as credentials: a user name that comes out can be forwarded and logged.
    #[test]
    fn a_user_name_that_passes_is_harmless(text in ".{0,40}", scheme in proptest::sample::select(vec!["Basic", "basic", "Bearer"])) {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
        let header = format!("{scheme} {encoded}");
        if let Ok(Credentials::Basic { user, .. }) = Credentials::parse(header.as_bytes(), &CredentialRules::default()) {
            prop_assert!(!user.is_empty() && user.len() <= 256 && user.trim() == user);
            prop_assert!(!user.contains(['/', '\\', '\r', '\n', '\0', ':']));
            prop_assert!(user.parse::<std::net::IpAddr>().is_err());
            prop_assert!(http::HeaderValue::from_bytes(user.as_bytes()).is_ok());
            prop_assert!(AuthInfo::basic(&user).is_ok());
        }
    }
}
