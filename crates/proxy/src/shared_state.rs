//! What the two users of Redis, throttle and quotas, have in common; and the hash that stands for names.

use sha2::{Digest as _, Sha256};

/// The first half of SHA-256, for names that are not to be shown: people paste passwords where a name belongs.
pub(crate) fn name_hash(name: &str) -> u128 {
    let digest = Sha256::digest(name.as_bytes());
    let (half, _) = digest.split_at(16);
    half.iter()
        .fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// What kind of fault it is. The rest of the text may hold what was sent.
pub(crate) fn plain(fault: &redis::RedisError) -> String {
    fault
        .code()
        .map_or_else(|| format!("{:?}", fault.kind()), str::to_owned)
}
