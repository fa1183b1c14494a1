//! The small functions of `kumo`: refusing, waiting, time, random names, and what this is.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlua::{Lua, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, Value};

use super::{Host, bad_argument, number, submodule, text};

/// What `kumo.reject` raises. In an authentication handler it is a failure like any other error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {text}")]
pub(crate) struct Rejection {
    /// The SMTP-like code, 400 to 599.
    pub(crate) code: u16,
    /// What the client is told.
    pub(crate) text: String,
}

/// The longest sleep. A call ends long before.
const LONGEST_SLEEP: f64 = 3600.0;

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    kumo.set(
        "reject",
        lua.create_function(|_, (code, reason): (Value, Value)| reject(&code, &reason))?,
    )?;
    kumo.set(
        "sleep",
        lua.create_async_function(async |_, seconds: Value| {
            let duration = number(&seconds)
                .filter(|seconds| (0.0..=LONGEST_SLEEP).contains(seconds))
                .map(Duration::from_secs_f64)
                .ok_or_else(|| bad_argument(1, "kumo.sleep", "number of seconds", &seconds))?;
            tokio::time::sleep(duration).await;
            Ok(())
        })?,
    )?;
    kumo.set(
        "version",
        lua.create_function(|_, ()| Ok(concat!("gatepost ", env!("CARGO_PKG_VERSION"))))?,
    )?;
    kumo.set(
        "available_parallelism",
        lua.create_function(|_, ()| {
            Ok(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
        })?,
    )?;
    let time = submodule(lua, host, kumo, "kumo.time")?;
    time.set(
        "now",
        lua.create_function(|_, ()| Ok(Moment(SystemTime::now())))?,
    )?;
    let uuid = submodule(lua, host, kumo, "kumo.uuid")?;
    uuid.set(
        "new_v4",
        lua.create_function(|_, ()| Ok(Uuid(uuid::Uuid::new_v4())))?,
    )
}

fn reject(code: &Value, reason: &Value) -> mlua::Result<()> {
    let code = code
        .as_integer()
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..=599).contains(code))
        .ok_or_else(|| bad_argument(1, "kumo.reject", "code between 400 and 599", code))?;
    let text = text(reason, 2, "kumo.reject")?.to_owned();
    Err(mlua::Error::external(Rejection { code, text }))
}

/// A point in time.
struct Moment(SystemTime);

impl Moment {
    fn since_epoch(&self) -> Duration {
        self.0.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

impl UserData for Moment {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("unix_timestamp", |_, this| Ok(this.since_epoch().as_secs()));
        fields.add_field_method_get("elapsed", |_, this| {
            Ok(this.0.elapsed().unwrap_or_default().as_secs_f64())
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(humantime::format_rfc3339_millis(this.0).to_string())
        });
    }
}

struct Uuid(uuid::Uuid);

impl UserData for Uuid {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("hyphenated", |_, this| Ok(this.0.hyphenated().to_string()));
        fields.add_field_method_get("simple", |_, this| Ok(this.0.simple().to_string()));
        fields.add_field_method_get("bytes", |lua, this| lua.create_string(this.0.as_bytes()));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.0.hyphenated().to_string())
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn the_small_functions_do_what_they_say() {
        for body in [
            "local ok, fault = pcall(kumo.reject, 550, 'not you') return not ok and tostring(fault):find '550 not you' ~= nil",
            "return not pcall(kumo.reject, 200, 'x') and not pcall(kumo.reject, 'x', 'x') and not pcall(kumo.reject, 550)",
            "kumo.sleep(0) kumo.sleep(0.001) return true",
            "return not pcall(kumo.sleep, -1) and not pcall(kumo.sleep, 'x') and not pcall(kumo.sleep, 1 / 0) and not pcall(kumo.sleep)",
            "return kumo.version():find '^gatepost %d' ~= nil and kumo.available_parallelism() >= 1",
            "return kumo.uuid.new_v4().simple ~= kumo.uuid.new_v4().simple and #tostring(kumo.uuid.new_v4()) == 36 and #kumo.uuid.new_v4().bytes == 16",
            "local now = kumo.time.now() return math.abs(now.unix_timestamp - os.time()) < 5 and now.elapsed >= 0 and tostring(now):find '^20' ~= nil",
        ] {
            check_body(body);
        }
    }
}
