//! `kumo.digest`: hashes and message authentication codes.

use hmac::{Hmac, KeyInit, Mac};
use mlua::{
    Function, Lua, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, Value, Variadic,
};
use sha2::Digest;

use super::encode::{self, Padding};
use super::secrets::KeySource;
use super::{Host, bytes, submodule};

/// What errors call the functions.
const NAME: &str = "kumo.digest";

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let digest = submodule(lua, host, kumo, "kumo.digest")?;
    digest.set("sha1", hash::<sha1::Sha1>(lua)?)?;
    digest.set("sha224", hash::<sha2::Sha224>(lua)?)?;
    digest.set("sha256", hash::<sha2::Sha256>(lua)?)?;
    digest.set("sha384", hash::<sha2::Sha384>(lua)?)?;
    digest.set("sha512", hash::<sha2::Sha512>(lua)?)?;
    digest.set("sha512_256", hash::<sha2::Sha512_256>(lua)?)?;
    digest.set("sha3_256", hash::<sha3::Sha3_256>(lua)?)?;
    digest.set("sha3_384", hash::<sha3::Sha3_384>(lua)?)?;
    digest.set("sha3_512", hash::<sha3::Sha3_512>(lua)?)?;
    digest.set("crc32", crc32(lua)?)?;
    digest.set("hmac_sha1", keyed::<Hmac<sha1::Sha1>>(lua, host)?)?;
    digest.set("hmac_sha224", keyed::<Hmac<sha2::Sha224>>(lua, host)?)?;
    digest.set("hmac_sha256", keyed::<Hmac<sha2::Sha256>>(lua, host)?)?;
    digest.set("hmac_sha384", keyed::<Hmac<sha2::Sha384>>(lua, host)?)?;
    digest.set("hmac_sha512", keyed::<Hmac<sha2::Sha512>>(lua, host)?)
}

/// The arguments, one after the other, as `KumoMTA` takes them.
fn hash<D: Digest + 'static>(lua: &Lua) -> mlua::Result<Function> {
    lua.create_function(|lua, parts: Variadic<Value>| {
        let mut hasher = D::new();
        for (index, part) in parts.iter().enumerate() {
            hasher.update(&*bytes(lua, part, index + 1, NAME)?.as_bytes());
        }
        Ok(Sum(hasher.finalize().to_vec()))
    })
}

fn crc32(lua: &Lua) -> mlua::Result<Function> {
    lua.create_function(|lua, parts: Variadic<Value>| {
        let mut hasher = crc32fast::Hasher::new();
        for (index, part) in parts.iter().enumerate() {
            hasher.update(&bytes(lua, part, index + 1, NAME)?.as_bytes());
        }
        Ok(Sum(hasher.finalize().to_be_bytes().to_vec()))
    })
}

/// The key may have to be fetched, so these wait.
fn keyed<M: Mac + KeyInit + 'static>(lua: &Lua, host: &Host<'_>) -> mlua::Result<Function> {
    let (folder, clients) = (host.folder.to_owned(), host.clients.clone());
    lua.create_async_function(move |lua, (key, message): (Value, Value)| {
        let (folder, clients) = (folder.clone(), clients.clone());
        async move {
            let message = bytes(&lua, &message, 2, NAME)?;
            let key = KeySource::read(&key, "kumo.digest.hmac")?
                .load(&folder, &clients)
                .await?;
            let unfit = |_| mlua::Error::runtime("kumo.digest: the key cannot be used");
            let mut mac = <M as KeyInit>::new_from_slice(&key).map_err(unfit)?;
            mac.update(&message.as_bytes());
            Ok(Sum(mac.finalize().into_bytes().to_vec()))
        }
    })
}

/// The result: its bytes, and every way to write them.
struct Sum(Vec<u8>);

impl UserData for Sum {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("bytes", |lua, this| lua.create_string(&this.0));
        fields.add_field_method_get("hex", |_, this| Ok(encode::hex(&this.0)));
        for (name, alphabet) in encode::ALPHABETS {
            for (suffix, padding) in [("", Padding::With), ("_nopad", Padding::Without)] {
                fields.add_field_method_get(format!("{name}{suffix}"), move |_, this: &Self| {
                    Ok(encode::encode(alphabet, padding, &this.0))
                });
            }
        }
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(encode::hex(&this.0)));
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    /// FIPS 180-4, FIPS 202, RFC 4231 test case 2, and the check value of CRC-32.
    #[test]
    fn known_answers() {
        for (call, hex) in [
            ("sha1('abc')", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "sha1('a', 'bc')",
                "a9993e364706816aba3e25717850c26c9cd0d89d",
            ),
            (
                "sha224('abc')",
                "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
            ),
            (
                "sha256('abc')",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "sha256()",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "sha384('abc')",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                "sha3_256('abc')",
                "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
            ),
            (
                "sha512_256('abc')",
                "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
            ),
            ("crc32('123456789')", "cbf43926"),
            // Numbers are what Lua makes of them where it wants a text.
            ("crc32(123456789)", "cbf43926"),
            ("crc32(1234, '56', 789)", "cbf43926"),
            (
                "hmac_sha256({ key_data = 'Jefe' }, 12)",
                "1f5a7f3a047669c34436745c0055713d03ee351464e4d5879aec6824820a7092",
            ),
            (
                "hmac_sha256({ key_data = 'Jefe' }, 'what do ya want for nothing?')",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                "hmac_sha1({ key_data = 'Jefe' }, 'what do ya want for nothing?')",
                "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            ),
            (
                "hmac_sha224({ key_data = 'Jefe' }, 'what do ya want for nothing?')",
                "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
            ),
        ] {
            check_body(&format!(
                "return tostring(kumo.digest.{call}) == '{hex}' and kumo.digest.{call}.hex == '{hex}'"
            ));
        }
    }

    #[test]
    fn a_result_can_be_written_in_every_way() {
        check_body(
            "local d = kumo.digest.crc32 '123456789' return #d.bytes == 4 and d.base64 == 'y/Q5Jg==' and d.base64_nopad == 'y/Q5Jg' and d.base64url == 'y_Q5Jg==' and d.base64url_nopad == 'y_Q5Jg' and d.base32 == 'ZP2DSJQ=' and d.base32_nopad == 'ZP2DSJQ' and d.base32hex == 'PFQ3I9G=' and d.base32hex_nopad == 'PFQ3I9G'",
        );
        check_body("return #kumo.digest.sha512('\\0\\xff').bytes == 64");
        check_body("return kumo.digest.sha256(1.5).hex == kumo.digest.sha256('1.5').hex");
        check_body(
            "return not pcall(kumo.digest.sha256, nil) and not pcall(kumo.digest.sha256, true)",
        );
        check_body(
            "local ok, fault = pcall(kumo.digest.sha256, {}) return not ok and tostring(fault):find 'bad argument #1' ~= nil",
        );
        check_body(
            "return not pcall(kumo.digest.hmac_sha256, { key_data = 'x' }) and not pcall(kumo.digest.hmac_sha256, nil, 'x')",
        );
    }
}
