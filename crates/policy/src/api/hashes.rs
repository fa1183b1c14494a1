//! The forms in which passwords are stored, each with a bound on the work that it may ask for.
//!
//! Without bounds one stored hash could occupy the machine: whoever can write a user's hash could stop the mail.

use std::str::FromStr;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm as Argon2Kind, Argon2, Version};
use data_encoding::BASE64;
use md5::Md5;
use sha_crypt::ShaCrypt;
use sha1::{Digest as _, Sha1};
use subtle::ConstantTimeEq as _;

const ARGON2_MEMORY_KIB: u32 = 1024 * 1024;
const ARGON2_PASSES: u32 = 100;
const ARGON2_LANES: u32 = 16;
const BCRYPT_COST: u32 = 16;
const SCRYPT_BYTES: u64 = 1024 * 1024 * 1024;
const SCRYPT_LANES: u32 = 16;
/// What the lanes take beside [`SCRYPT_BYTES`].
const SCRYPT_LANE_BYTES: u64 = 64 * 1024 * 1024;
const PBKDF2_ROUNDS: u32 = 10_000_000;
const CRYPT_ROUNDS: u32 = 5_000_000;

/// The longest password that can be right, in bytes: the work of SHA-crypt grows with its square.
const LONGEST_PASSWORD: usize = 4096;

/// crypt(3) takes 16 letters of salt, which are 12 bytes.
const CRYPT_SALT: usize = 12;

/// The parameters of new argon2id hashes: of OWASP's equally strong choices (Password Storage Cheat Sheet) the one that needs
/// the least memory, since a sidecar has little.
const NEW_MEMORY_KIB: u32 = 7168;
const NEW_PASSES: u32 = 5;
const NEW_LANES: u32 = 1;

/// OWASP's least for bcrypt is 10.
const NEW_BCRYPT_COST: u32 = 12;

/// How a new password is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashAlgorithm {
    /// argon2id in PHC form, with 7 MiB and 5 passes.
    #[default]
    Argon2id,
    /// bcrypt with cost 12, `$2b$`. It takes 72 bytes of a password; longer ones are refused.
    Bcrypt,
    /// crypt(3)'s SHA-512, `$6$`, as Linux keeps passwords.
    Sha512Crypt,
}

impl HashAlgorithm {
    /// The names, for messages.
    pub const NAMES: [&'static str; 3] = ["argon2id", "bcrypt", "sha512-crypt"];
}

impl FromStr for HashAlgorithm {
    type Err = HashFault;

    fn from_str(name: &str) -> Result<Self, HashFault> {
        match name {
            "argon2id" => Ok(Self::Argon2id),
            "bcrypt" => Ok(Self::Bcrypt),
            "sha512-crypt" => Ok(Self::Sha512Crypt),
            _ => Err(HashFault::Algorithm),
        }
    }
}

/// Why a password cannot be checked or hashed. Never shows the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashFault {
    /// No form that is known here.
    #[error("the stored hash has an unknown format")]
    Format,
    /// Beyond the bounds.
    #[error("the stored hash asks for more work than is allowed")]
    Costs,
    /// Too long for bcrypt, or without randomness.
    #[error("the password cannot be hashed")]
    Hashing,
    /// No algorithm of this name.
    #[error("the algorithm must be argon2id, bcrypt or sha512-crypt")]
    Algorithm,
    /// It would wait too long for a core.
    #[error("too many password hashes are wanted at once")]
    Busy,
    /// The process is ending.
    #[error("the hash pool has ended")]
    Ended,
}

impl HashFault {
    /// The error that a policy gets. That there is no time for it is told from a fault of the policy even where it comes back
    /// through Lua: the client is told to come back.
    pub(super) fn raised_by(self, function: &str) -> mlua::Error {
        if self == Self::Busy {
            return mlua::Error::external(self);
        }
        mlua::Error::runtime(format!("{function}: {self}"))
    }

    /// Whether the call could not be answered for want of time to hash.
    pub(crate) fn is_why(fault: &mlua::Error) -> bool {
        fault.downcast_ref() == Some(&Self::Busy)
    }
}

/// Whether the password belongs to the stored hash, whose form its beginning tells.
pub(super) fn verify(stored: &str, password: &str) -> Result<bool, HashFault> {
    let password = password.as_bytes();
    if password.len() > LONGEST_PASSWORD {
        return Ok(false);
    }
    match stored {
        it if it.starts_with("$argon2") => argon2(it, password),
        it if it.starts_with("$2a$") || it.starts_with("$2b$") || it.starts_with("$2y$") => {
            bcrypt(it, password)
        }
        it if it.starts_with("$scrypt$") => scrypt(it, password),
        it if it.starts_with("$pbkdf2") => pbkdf2(it, password),
        it if it.starts_with("$5$") || it.starts_with("$6$") => sha_crypt(it, password),
        it if it.starts_with("$apr1$") => apr1_matches(it, password),
        it if it.starts_with("{SHA}") || it.starts_with("{SSHA}") => ldap_sha(it, password),
        _ => Err(HashFault::Format),
    }
}

/// A fresh hash. Slow, as it is meant to be.
///
/// # Errors
///
/// [`HashFault::Hashing`] where the algorithm does not take the password, or the system gives no randomness.
pub fn hash_password(password: &str, algorithm: HashAlgorithm) -> Result<String, HashFault> {
    match algorithm {
        HashAlgorithm::Argon2id => {
            let params = argon2::Params::new(NEW_MEMORY_KIB, NEW_PASSES, NEW_LANES, None)
                .map_err(|_| HashFault::Hashing)?;
            let argon2 = Argon2::new(Argon2Kind::Argon2id, Version::V0x13, params);
            let hash: PasswordHash = argon2
                .hash_password(password.as_bytes())
                .map_err(|_| HashFault::Hashing)?;
            Ok(hash.to_string())
        }
        HashAlgorithm::Bcrypt => {
            if password.contains('\0') {
                return Err(HashFault::Hashing);
            }
            bcrypt::non_truncating_hash(password, NEW_BCRYPT_COST).map_err(|_| HashFault::Hashing)
        }
        HashAlgorithm::Sha512Crypt => {
            let mut salt = [0; CRYPT_SALT];
            getrandom::fill(&mut salt).map_err(|_| HashFault::Hashing)?;
            let hash = ShaCrypt::default()
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map_err(|_| HashFault::Hashing)?;
            Ok(hash.to_string())
        }
    }
}

fn answer(result: argon2::password_hash::Result<()>) -> Result<bool, HashFault> {
    match result {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(_) => Err(HashFault::Format),
    }
}

/// A hash in PHC form, whole. The library takes one that is cut off for a wrong password.
fn phc(stored: &str) -> Result<PasswordHash, HashFault> {
    let hash = PasswordHash::new(stored).map_err(|_| HashFault::Format)?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(HashFault::Format);
    }
    Ok(hash)
}

fn argon2(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let mut hash = phc(stored)?;
    let params = argon2::Params::try_from(&hash).map_err(|_| HashFault::Format)?;
    if params.m_cost() > ARGON2_MEMORY_KIB
        || params.t_cost() > ARGON2_PASSES
        || params.p_cost() > ARGON2_LANES
    {
        return Err(HashFault::Costs);
    }
    // A hash that names no version is of the time before there were two.
    hash.version = hash.version.or(Some(Version::V0x10.into()));
    answer(Argon2::default().verify_password(password, &hash))
}

fn bcrypt(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let cost = stored
        .get(4..6)
        .and_then(|cost| cost.parse::<u32>().ok())
        .ok_or(HashFault::Format)?;
    if cost > BCRYPT_COST {
        return Err(HashFault::Costs);
    }
    // Whoever made the hash took the first 72 bytes, so the same are compared.
    let matches = bcrypt::verify(password, stored).map_err(|_| HashFault::Format)?;
    // It repeats the password and a NUL to fill its key, so `tiger` and `tiger\0tiger` are the same to it.
    Ok(matches && !password.contains(&0))
}

fn scrypt(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let hash = phc(stored)?;
    // Before the library multiplies them, which overflows for large ones.
    let number = |name| hash.params.get_decimal(name).map(u64::from);
    let (Some(r), Some(p)) = (number("r"), number("p")) else {
        return Err(HashFault::Format);
    };
    let block = r.saturating_mul(128);
    if p > u64::from(SCRYPT_LANES) || block.saturating_mul(p) > SCRYPT_LANE_BYTES {
        return Err(HashFault::Costs);
    }
    let params = scrypt::Params::try_from(&hash).map_err(|_| HashFault::Format)?;
    if block.saturating_mul(params.n()) > SCRYPT_BYTES {
        return Err(HashFault::Costs);
    }
    answer(scrypt::Scrypt::default().verify_password(password, &hash))
}

fn pbkdf2(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let hash = phc(stored)?;
    let params = pbkdf2::Params::try_from(&hash).map_err(|_| HashFault::Format)?;
    if params.rounds() > PBKDF2_ROUNDS {
        return Err(HashFault::Costs);
    }
    answer(pbkdf2::Pbkdf2::default().verify_password(password, &hash))
}

fn sha_crypt(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let rounds = stored
        .split('$')
        .nth(2)
        .and_then(|part| part.strip_prefix("rounds="));
    if let Some(rounds) = rounds
        && rounds.parse::<u32>().map_err(|_| HashFault::Format)? > CRYPT_ROUNDS
    {
        return Err(HashFault::Costs);
    }
    answer(ShaCrypt::default().verify_password(password, stored))
}

/// RFC 2307's `{SHA}`, and `{SSHA}` with a salt behind the sum.
fn ldap_sha(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let (_, encoded) = stored.split_once('}').ok_or(HashFault::Format)?;
    let bytes = BASE64
        .decode(encoded.as_bytes())
        .map_err(|_| HashFault::Format)?;
    let (sum, salt) = bytes.split_at_checked(20).ok_or(HashFault::Format)?;
    if stored.starts_with("{SHA}") != salt.is_empty() {
        return Err(HashFault::Format);
    }
    let found = Sha1::new()
        .chain_update(password)
        .chain_update(salt)
        .finalize();
    Ok(bool::from(found.as_slice().ct_eq(sum)))
}

fn apr1_matches(stored: &str, password: &[u8]) -> Result<bool, HashFault> {
    let mut parts = stored.split('$').skip(2);
    let (Some(salt), Some(sum), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(HashFault::Format);
    };
    if salt.len() > 8 || sum.len() != 22 {
        return Err(HashFault::Format);
    }
    Ok(bool::from(
        apr1(password, salt.as_bytes())
            .as_bytes()
            .ct_eq(sum.as_bytes()),
    ))
}

/// Apache's variant of the MD5 crypt of Poul-Henning Kamp: a thousand rounds, and a base64 of its own.
fn apr1(password: &[u8], salt: &[u8]) -> String {
    let inner = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    let mut begin = Md5::new()
        .chain_update(password)
        .chain_update(b"$apr1$")
        .chain_update(salt);
    for start in (0..password.len()).step_by(16) {
        let length = (password.len() - start).min(16);
        begin.update(inner.get(..length).unwrap_or_default());
    }
    let mut bits = password.len();
    while bits > 0 {
        let first = password.first().copied().unwrap_or_default();
        begin.update(if bits & 1 == 1 { [0] } else { [first] });
        bits >>= 1;
    }
    let mut sum = begin.finalize();
    for round in 0..1000 {
        let odd = round % 2 == 1;
        let mut next = Md5::new();
        if odd {
            next.update(password)
        } else {
            next.update(sum)
        }
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        if odd {
            next.update(sum)
        } else {
            next.update(password)
        }
        sum = next.finalize();
    }
    crypt_base64(&sum)
}

/// The order and the alphabet of crypt(3).
fn crypt_base64(sum: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let byte = |index: usize| u32::from(sum.get(index).copied().unwrap_or_default());
    let mut text = String::with_capacity(22);
    let mut put = |mut bits: u32, letters: usize| {
        for _ in 0..letters {
            let index = usize::try_from(bits & 0x3f).unwrap_or_default();
            text.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'.')));
            bits >>= 6;
        }
    };
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        put(byte(a) << 16 | byte(b) << 8 | byte(c), 4);
    }
    put(byte(11), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by crypt(3), OpenSSL and Python's hashlib, of the password `grüße`.
    const MADE_ELSEWHERE: &[&str] = &[
        "$6$saltsalt$MSdmCK51lJjMpTz5N3aU5vb0jpPXztyruwBRt8o.ZecvnlwVPiRqJgV.TP3nG1tB/9sMjuGzdcGQUjkTPL3qK.",
        "$6$rounds=1000$saltsalt$swycZeqLhYjKESoAA5g.z7jTxnH.NFggINiDSozPnLPnPXIic7wNyti718xAykEmmwB4QP0KssH9i1ov8bujR/",
        "$5$saltsalt$grZXer6.f9kochmLhdgw7mI75Gr7PoNWu1/EUqJb.u8",
        "$2a$04$abcdefghijklmnopqrstuuukcFUuF1uD2.SsVXl2Kxf7oTFxL3IEq",
        "$2b$04$abcdefghijklmnopqrstuuukcFUuF1uD2.SsVXl2Kxf7oTFxL3IEq",
        "$2y$04$abcdefghijklmnopqrstuuukcFUuF1uD2.SsVXl2Kxf7oTFxL3IEq",
        "{SHA}zVbLCsRWkHMa/td/9mZV39+Fdto=",
        "{SSHA}ZWCKFC7pEqy4fAHyxPnFRH9/rexzYWx0MTIzNA==",
        "$pbkdf2-sha256$i=1000,l=32$c2FsdHNhbHRzYWx0c2FsdA$YYw6X5sW5GSsDVyefVKhZQy+LjiI8FKkq4clePs9hnQ",
        "$pbkdf2-sha512$i=1000,l=32$c2FsdHNhbHRzYWx0c2FsdA$QkjDeHpXmizEXELp9BRX4Mdd1nhAnbkiKwr3KzY3ZbI",
        "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$L9tqWqfU5ZVVX23dkinzLoDKM7NieNXV5uW5gYhMXpU",
        "$apr1$abcdefgh$msN752xwLas66Z5urL5fF.",
    ];

    #[test]
    fn hashes_made_elsewhere_are_understood() {
        for hash in MADE_ELSEWHERE {
            assert_eq!(verify(hash, "grüße"), Ok(true), "{hash}");
            assert_eq!(verify(hash, "grüsse"), Ok(false), "{hash}");
            assert_eq!(verify(hash, ""), Ok(false), "{hash}");
        }
        for (hash, password) in [
            ("$apr1$abcdefgh$L.PT565ESX4Tp2bqNs7Ie.", ""),
            (
                "$apr1$abcdefgh$LHysLcKx.psAigCLmLeCQ0",
                "a-rather-long-password-of-more-than-sixteen-bytes",
            ),
        ] {
            assert_eq!(verify(hash, password), Ok(true), "{hash}");
        }
    }

    #[test]
    fn hashes_made_here_are_understood() {
        for name in HashAlgorithm::NAMES {
            let hash = hash_password("tiger", name.parse().unwrap()).unwrap();
            assert_eq!(
                (verify(&hash, "tiger"), verify(&hash, "lion")),
                (Ok(true), Ok(false)),
                "{hash}"
            );
        }
        assert_eq!("md5".parse::<HashAlgorithm>(), Err(HashFault::Algorithm));
        assert_eq!(
            hash_password(&"x".repeat(73), HashAlgorithm::Bcrypt),
            Err(HashFault::Hashing)
        );
    }

    /// The attack: a stored hash that would keep the machine busy for minutes, or take all its memory.
    #[test]
    fn work_is_bounded() {
        let salt = "c29tZXNhbHRzb21lc2FsdA";
        let sum = "YYw6X5sW5GSsDVyefVKhZQy+LjiI8FKkq4clePs9hnQ";
        for hash in [
            format!("$argon2id$v=19$m=99999999,t=5,p=1${salt}${sum}"),
            format!("$argon2id$v=19$m=7168,t=9999,p=1${salt}${sum}"),
            "$2b$17$abcdefghijklmnopqrstuuukcFUuF1uD2.SsVXl2Kxf7oTFxL3IEq".to_owned(),
            format!("$scrypt$ln=30,r=8,p=1${salt}${sum}"),
            format!("$scrypt$ln=1,r=4194304,p=16${salt}${sum}"),
            format!("$scrypt$ln=1,r=4294967295,p=4294967295${salt}${sum}"),
            format!("$pbkdf2-sha256$i=99999999,l=32${salt}${sum}"),
            "$6$rounds=99999999$saltsalt$swycZeqLhYjKESoAA5g.z7jTxnH.NFggINiDSozPnLPnPXIic7wNyti718xAykEmmwB4QP0KssH9i1ov8bujR/".to_owned(),
        ] {
            assert_eq!(verify(&hash, "x"), Err(HashFault::Costs), "{hash}");
        }
    }

    #[test]
    fn what_is_no_hash_is_no_match_but_an_error() {
        for stored in [
            "",
            "plain",
            "rqXexS6ZhobKA",
            "$1$salt$sum",
            "$argon2id$",
            "$argon2id$v=19$m=7168,t=5,p=1$c29tZXNhbHRzb21lc2FsdA",
            "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA",
            "$2b$",
            "$2b$xx$",
            "$2b$04$short",
            "$scrypt$",
            "$pbkdf2$",
            "$6$",
            "$apr1$",
            "$apr1$a$b",
            "$apr1$abcdefghi$msN752xwLas66Z5urL5fF.",
            "{SHA}",
            "{SHA}!",
            "{SHA}AAAA",
            "{SSHA}zVbLCsRWkHMa/td/9mZV39+Fdto=",
            "{MD5}x",
        ] {
            assert_eq!(verify(stored, "x"), Err(HashFault::Format), "{stored}");
        }
    }

    /// The vector of Argon2's reference implementation for its first version, which the hash does not name.
    #[test]
    fn argon2_of_the_first_version_is_understood() {
        let hash =
            "$argon2i$m=65536,t=2,p=1$c29tZXNhbHQ$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";
        assert_eq!(verify(hash, "password"), Ok(true));
        assert_eq!(verify(hash, "passwore"), Ok(false));
    }

    #[test]
    fn crypt_elsewhere_takes_the_salt_of_new_hashes() {
        let hash = hash_password("tiger", HashAlgorithm::Sha512Crypt).unwrap();
        let salt = hash.rsplit('$').nth(1).unwrap();
        assert_eq!(salt.len(), 16, "{hash}");
    }

    /// The attack: a password that bcrypt takes for another one.
    #[test]
    fn a_nul_does_not_repeat_a_password() {
        let hash = bcrypt::hash("tiger", 4).unwrap();
        assert_eq!(verify(&hash, "tiger"), Ok(true));
        assert_eq!(verify(&hash, "tiger\0tiger"), Ok(false));
        assert!(hash_password("tiger\0", HashAlgorithm::Bcrypt).is_err());
    }

    #[test]
    fn a_password_without_end_is_wrong() {
        for algorithm in HashAlgorithm::NAMES {
            let hash = hash_password("tiger", algorithm.parse().unwrap()).unwrap();
            assert_eq!(verify(&hash, &"x".repeat(1_000_000)), Ok(false));
        }
    }

    #[test]
    fn odd_passwords_do_no_harm() {
        for hash in MADE_ELSEWHERE {
            for password in ["a\0b", &"x".repeat(1024), "\u{1f600}"] {
                assert_eq!(verify(hash, password), Ok(false), "{hash} {password}");
            }
        }
    }
}
