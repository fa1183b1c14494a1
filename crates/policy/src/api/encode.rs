//! `kumo.encode`: bytes as text and back.

use data_encoding::{
    BASE32, BASE32_NOPAD, BASE32HEX, BASE32HEX_NOPAD, BASE64, BASE64_NOPAD, BASE64URL,
    BASE64URL_NOPAD, DecodeError, Encoding, HEXLOWER, HEXLOWER_PERMISSIVE,
};
use mlua::{Lua, Table, Value};

use super::{Host, bytes, submodule};

/// The alphabets of RFC 4648.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    Base32,
    Base32Hex,
    Base64,
    Base64Url,
}

/// Whether the text is filled up with `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    With,
    Without,
}

/// What `kumo.digest` offers as well.
pub(super) const ALPHABETS: [(&str, Alphabet); 4] = [
    ("base32", Alphabet::Base32),
    ("base32hex", Alphabet::Base32Hex),
    ("base64", Alphabet::Base64),
    ("base64url", Alphabet::Base64Url),
];

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(super) fn encode(alphabet: Alphabet, padding: Padding, bytes: &[u8]) -> String {
    encoding(alphabet, padding).encode(bytes)
}

fn encoding(alphabet: Alphabet, padding: Padding) -> Encoding {
    match (alphabet, padding) {
        (Alphabet::Base32, Padding::With) => BASE32,
        (Alphabet::Base32, Padding::Without) => BASE32_NOPAD,
        (Alphabet::Base32Hex, Padding::With) => BASE32HEX,
        (Alphabet::Base32Hex, Padding::Without) => BASE32HEX_NOPAD,
        (Alphabet::Base64, Padding::With) => BASE64,
        (Alphabet::Base64, Padding::Without) => BASE64_NOPAD,
        (Alphabet::Base64Url, Padding::With) => BASE64URL,
        (Alphabet::Base64Url, Padding::Without) => BASE64URL_NOPAD,
    }
}

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.encode")?;
    pair(lua, &module, "hex", HEXLOWER, |text| {
        HEXLOWER_PERMISSIVE.decode(text)
    })?;
    for (name, alphabet) in ALPHABETS {
        for (suffix, padding) in [("", Padding::With), ("_nopad", Padding::Without)] {
            let name = format!("{name}{suffix}");
            pair(
                lua,
                &module,
                &name,
                encoding(alphabet, padding),
                move |text| decode(alphabet, padding, text),
            )?;
        }
    }
    Ok(())
}

/// A padded text may come without any of its padding, as many programs write it; one with a part of it was cut off.
fn decode(alphabet: Alphabet, padding: Padding, text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let padding = if text.contains(&b'=') {
        padding
    } else {
        Padding::Without
    };
    encoding(alphabet, padding).decode(text)
}

fn pair(
    lua: &Lua,
    module: &Table,
    name: &str,
    writing: Encoding,
    read: impl Fn(&[u8]) -> Result<Vec<u8>, DecodeError> + 'static,
) -> mlua::Result<()> {
    let called = format!("kumo.encode.{name}_encode");
    let encode = lua.create_function(move |lua, data: Value| {
        Ok(writing.encode(&bytes(lua, &data, 1, &called)?.as_bytes()))
    })?;
    let called = format!("kumo.encode.{name}_decode");
    let decode = lua.create_function(move |lua, text: Value| {
        let text = bytes(lua, &text, 1, &called)?;
        let decoded = read(&text.as_bytes())
            .map_err(|fault| mlua::Error::runtime(format!("{called}: {fault}")))?;
        lua.create_string(decoded)
    })?;
    module.set(format!("{name}_encode"), encode)?;
    module.set(format!("{name}_decode"), decode)
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    /// RFC 4648 §10.
    #[test]
    fn bytes_are_written_and_read_back() {
        for (name, plain, written) in [
            ("hex", "foob", "666f6f62"),
            ("base32", "foob", "MZXW6YQ="),
            ("base32_nopad", "foob", "MZXW6YQ"),
            ("base32hex", "foob", "CPNMUOG="),
            ("base32hex_nopad", "foob", "CPNMUOG"),
            ("base64", "foob", "Zm9vYg=="),
            ("base64_nopad", "foob", "Zm9vYg"),
            ("base64url", "\\xfb\\xff", "-_8="),
            ("base64url_nopad", "\\xfb\\xff", "-_8"),
            ("base64", "", ""),
        ] {
            check_body(&format!(
                "return kumo.encode.{name}_encode('{plain}') == '{written}' and kumo.encode.{name}_decode('{written}') == '{plain}'"
            ));
        }
        check_body("return kumo.encode.hex_decode 'AbCd' == '\\xab\\xcd'");
        check_body("return kumo.encode.hex_encode(12) == '3132'");
    }

    #[test]
    fn padding_may_be_left_out() {
        for (name, plain, bare) in [
            ("base32", "foob", "MZXW6YQ"),
            ("base32hex", "foob", "CPNMUOG"),
            ("base64", "foob", "Zm9vYg"),
            ("base64", "foo", "Zm9v"),
            ("base64url", "\\xfb\\xff", "-_8"),
        ] {
            check_body(&format!(
                "return kumo.encode.{name}_decode('{bare}') == '{plain}'"
            ));
        }
    }

    #[test]
    fn what_is_no_such_text_raises() {
        for call in [
            // Padded by half, more than once, in the middle, with bits that say nothing, with white space.
            "base64_decode 'Zg='",
            "base64_decode 'Zg==='",
            "base64_decode 'Z=g='",
            "base64_decode 'Zh'",
            "base64_decode 'Zh=='",
            "base64_decode 'Z'",
            "base64_decode 'Zg\\n'",
            "base64_decode '!'",
            "base32_decode 'MZXW6YQ=='",
            "base64_nopad_decode 'Zg=='",
            "hex_decode 'abc'",
            "base32_decode '1'",
        ] {
            let (function, _) = call.split_once(' ').unwrap();
            check_body(&format!(
                "local ok, fault = pcall(function() return kumo.encode.{call} end)
                 return not ok and tostring(fault):find('kumo.encode.{function}: ', 1, true) ~= nil"
            ));
        }
        check_body(
            "return not pcall(kumo.encode.base64_encode) and not pcall(kumo.encode.base64_encode, {})",
        );
    }
}
