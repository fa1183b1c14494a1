//! `kumo.fs`: looking at files and folders.

use std::path::{Path, PathBuf};

use mlua::{Function, Lua, Table, Value};

use super::{Host, resolve, submodule, text};

/// Entries that one call may give.
const MOST: usize = 100_000;

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.fs")?;
    for (name, work) in [
        (
            "read_dir",
            read_dir as fn(&Path) -> Result<Vec<String>, String>,
        ),
        ("glob", glob),
    ] {
        let function = listing(lua, host, name, work)?;
        module.set(name, &function)?;
        // The old names.
        kumo.set(name, function)?;
    }
    let folder = host.folder.to_owned();
    module.set(
        "metadata_for_path",
        lua.create_async_function(move |lua, path: Value| {
            let folder = folder.clone();
            async move {
                let path = resolve(&folder, &text(&path, 1, "kumo.fs.metadata_for_path")?);
                let metadata = blocking(path, |path| {
                    std::fs::metadata(path).map_err(|fault| fault.to_string())
                })
                .await?;
                let table = lua.create_table()?;
                table.set("len", metadata.len())?;
                table.set("is_dir", metadata.is_dir())?;
                table.set("is_file", metadata.is_file())?;
                table.set("is_symlink", metadata.is_symlink())?;
                let modified = metadata
                    .modified()
                    .ok()
                    .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
                table.set("modified", modified.map(|since| since.as_secs()))?;
                Ok(table)
            }
        })?,
    )
}

fn listing(
    lua: &Lua,
    host: &Host<'_>,
    name: &'static str,
    work: fn(&Path) -> Result<Vec<String>, String>,
) -> mlua::Result<Function> {
    let folder = host.folder.to_owned();
    lua.create_async_function(move |_, path: Value| {
        let folder = folder.clone();
        async move {
            let path = resolve(&folder, &text(&path, 1, &format!("kumo.fs.{name}"))?);
            blocking(path, work).await
        }
    })
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: fn(&Path) -> Result<T, String>,
) -> mlua::Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        work(&path).map_err(|fault| format!("{}: {fault}", path.display()))
    });
    done.await
        .map_err(mlua::Error::external)?
        .map_err(mlua::Error::runtime)
}

/// The paths of a folder's entries, sorted.
fn read_dir(path: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(path).map_err(|fault| fault.to_string())?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(shown(&entry.map_err(|fault| fault.to_string())?.path())?);
        bounded(&paths)?;
    }
    paths.sort();
    Ok(paths)
}

fn glob(pattern: &Path) -> Result<Vec<String>, String> {
    let pattern = pattern.to_str().ok_or("the pattern is not UTF-8")?;
    let mut paths = Vec::new();
    for path in glob::glob(pattern).map_err(|fault| fault.to_string())? {
        paths.push(shown(&path.map_err(|fault| fault.to_string())?)?);
        bounded(&paths)?;
    }
    Ok(paths)
}

fn shown(path: &Path) -> Result<String, String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| "a name in it is not UTF-8".to_owned())
}

fn bounded(paths: &[String]) -> Result<(), String> {
    if paths.len() > MOST {
        Err(format!("more than {MOST} entries"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    /// Relative to the policy's folder, where `tests` keeps a few files.
    #[test]
    fn folders_are_listed() {
        for body in [
            "local names = {} for _, path in ipairs(kumo.fs.read_dir '.') do names[#names + 1] = path:match '[^/]+$' end
             return table.concat(names, ' '):find 'compiled.lua data.json helper.lua p.lua' ~= nil",
            "local found = kumo.fs.glob '*.json' return #found == 1 and found[1]:find 'data.json$' ~= nil",
            "return #kumo.glob '*.absent' == 0 and #kumo.read_dir '.' >= 4",
            "local m = kumo.fs.metadata_for_path 'data.json' return m.is_file and not m.is_dir and m.len > 5 and m.modified > 0",
            "return kumo.fs.metadata_for_path('.').is_dir",
        ] {
            check_body(body);
        }
    }

    #[test]
    fn what_is_not_there_raises() {
        for call in [
            "kumo.fs.read_dir 'absent'",
            "kumo.fs.metadata_for_path 'absent'",
            "kumo.fs.glob '***'",
            "kumo.fs.read_dir()",
            "kumo.fs.glob {}",
        ] {
            check_body(&format!("return not pcall(function() return {call} end)"));
        }
    }
}
