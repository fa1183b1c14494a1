//! `kumo.string`: what Lua's own string library lacks. Everything here takes plain text, never patterns.

use mlua::{Lua, Table, Value, Variadic};

use super::{Host, bad_argument, submodule, text};

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.string")?;
    split(lua, &module, "split", |text, by| {
        text.split(by).map(str::to_owned).collect()
    })?;
    split(lua, &module, "rsplit", |text, by| {
        text.rsplit(by).map(str::to_owned).collect()
    })?;
    splitn(lua, &module, "splitn", |text, limit, by| {
        text.splitn(limit, by).map(str::to_owned).collect()
    })?;
    splitn(lua, &module, "rsplitn", |text, limit, by| {
        text.rsplitn(limit, by).map(str::to_owned).collect()
    })?;
    one(lua, &module, "split_whitespace", |it| {
        it.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    })?;
    one(lua, &module, "trim", |it| it.trim().to_owned())?;
    one(lua, &module, "trim_start", |it| it.trim_start().to_owned())?;
    one(lua, &module, "trim_end", |it| it.trim_end().to_owned())?;
    test(lua, &module, "starts_with", |it, with| it.starts_with(with))?;
    test(lua, &module, "ends_with", |it, with| it.ends_with(with))?;
    module.set(
        "replace",
        lua.create_function(|_, arguments: Variadic<Value>| {
            let [it, from, to] = texts(&arguments, "kumo.string.replace")?;
            Ok(it.replace(&from, &to))
        })?,
    )?;
    module.set(
        "replacen",
        lua.create_function(|_, arguments: Variadic<Value>| {
            const NAME: &str = "kumo.string.replacen";
            let [it, from, to] = texts(&arguments, NAME)?;
            Ok(it.replacen(&from, &to, count(arguments.get(3), 4, NAME)?))
        })?,
    )
}

fn one<T: mlua::IntoLua + 'static>(
    lua: &Lua,
    module: &Table,
    name: &str,
    with: impl Fn(&str) -> T + 'static,
) -> mlua::Result<()> {
    let called = format!("kumo.string.{name}");
    module.set(
        name,
        lua.create_function(move |_, it: Value| Ok(with(&text(&it, 1, &called)?)))?,
    )
}

fn test(
    lua: &Lua,
    module: &Table,
    name: &str,
    with: impl Fn(&str, &str) -> bool + 'static,
) -> mlua::Result<()> {
    let called = format!("kumo.string.{name}");
    let function = lua.create_function(move |_, arguments: Variadic<Value>| {
        let [it, other] = texts(&arguments, &called)?;
        Ok(with(&it, &other))
    })?;
    module.set(name, function)
}

fn split(
    lua: &Lua,
    module: &Table,
    name: &str,
    with: impl Fn(&str, &str) -> Vec<String> + 'static,
) -> mlua::Result<()> {
    let called = format!("kumo.string.{name}");
    let function = lua.create_function(move |_, arguments: Variadic<Value>| {
        let [it, by] = texts(&arguments, &called)?;
        Ok(with(&it, &by))
    })?;
    module.set(name, function)
}

fn splitn(
    lua: &Lua,
    module: &Table,
    name: &str,
    with: impl Fn(&str, usize, &str) -> Vec<String> + 'static,
) -> mlua::Result<()> {
    let called = format!("kumo.string.{name}");
    let function = lua.create_function(move |_, (it, limit, by): (Value, Value, Value)| {
        let (it, by) = (text(&it, 1, &called)?, text(&by, 3, &called)?);
        Ok(with(&it, count(Some(&limit), 2, &called)?, &by))
    })?;
    module.set(name, function)
}

fn texts<const N: usize>(arguments: &[Value], function: &str) -> mlua::Result<[String; N]> {
    let mut all = [const { String::new() }; N];
    for (index, place) in all.iter_mut().enumerate() {
        let argument = arguments.get(index).unwrap_or(&Value::Nil);
        text(argument, index + 1, function)?.clone_into(place);
    }
    Ok(all)
}

fn count(value: Option<&Value>, position: usize, function: &str) -> mlua::Result<usize> {
    let value = value.unwrap_or(&Value::Nil);
    value
        .as_usize()
        .ok_or_else(|| bad_argument(position, function, "number of items", value))
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn texts_are_taken_apart_and_changed() {
        for (call, expected) in [
            ("split('a.b.c', '.')", "a|b|c"),
            ("split('', '.')", ""),
            ("split('a..b', '.')", "a||b"),
            ("splitn('a.b.c', 2, '.')", "a|b.c"),
            ("rsplit('a.b.c', '.')", "c|b|a"),
            ("rsplitn('a.b.c', 2, '.')", "c|a.b"),
            ("split_whitespace('  a \\t b\\nc ')", "a|b|c"),
            ("split('grüße', 'ü')", "gr|ße"),
        ] {
            check_body(&format!(
                "return table.concat(kumo.string.{call}, '|') == '{expected}'"
            ));
        }
        for (call, expected) in [
            ("trim('  a b ')", "'a b'"),
            ("trim_start('  a ')", "'a '"),
            ("trim_end(' a\\n')", "' a'"),
            ("replace('a.b.c', '.', '%')", "'a%b%c'"),
            ("replacen('a.b.c', '.', '', 1)", "'ab.c'"),
            ("starts_with('abc', 'ab')", "true"),
            ("starts_with('abc', '.')", "false"),
            ("ends_with('abc', 'bc')", "true"),
        ] {
            check_body(&format!("return kumo.string.{call} == {expected}"));
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (call, words) in [
            (
                "trim()",
                "bad argument #1 to 'kumo.string.trim' (string expected, got no value)",
            ),
            ("split('a')", "bad argument #2 to 'kumo.string.split'"),
            (
                "splitn('a', 'x', '.')",
                "bad argument #2 to 'kumo.string.splitn'",
            ),
            (
                "replacen('a', 'b', 'c')",
                "bad argument #4 to 'kumo.string.replacen'",
            ),
            ("trim('\\xff')", "not valid UTF-8"),
        ] {
            check_body(&format!(
                "local ok, fault = pcall(function() return kumo.string.{call} end) return not ok and tostring(fault):find([[{words}]], 1, true) ~= nil"
            ));
        }
    }
}
