//! `kumo.regex`: regular expressions that take linear time, whatever the text. (Hence no back-references.)

use mlua::{Lua, Table, UserData, UserDataMethods, Value};
use regex::{Regex, RegexBuilder};

use super::{Host, submodule, text};

/// Memory that a compiled expression may take, in bytes.
const LARGEST: usize = 1024 * 1024;

pub(super) fn install(lua: &Lua, host: &Host<'_>, kumo: &Table) -> mlua::Result<()> {
    let module = submodule(lua, host, kumo, "kumo.regex")?;
    module.set(
        "compile",
        lua.create_function(|_, pattern: Value| {
            let pattern = text(&pattern, 1, "kumo.regex.compile")?;
            let compiled = RegexBuilder::new(&pattern).size_limit(LARGEST).build();
            compiled
                .map(Compiled)
                .map_err(|fault| mlua::Error::runtime(format!("kumo.regex.compile: {fault}")))
        })?,
    )
}

struct Compiled(Regex);

impl UserData for Compiled {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("is_match", |_, this, it: Value| {
            Ok(this.0.is_match(&text(&it, 1, "is_match")?))
        });
        methods.add_method("find", |_, this, it: Value| {
            Ok(this
                .0
                .find(&text(&it, 1, "find")?)
                .map(|found| found.as_str().to_owned()))
        });
        methods.add_method("find_all", |_, this, it: Value| {
            let it = text(&it, 1, "find_all")?;
            Ok(this
                .0
                .find_iter(&it)
                .map(|found| found.as_str().to_owned())
                .collect::<Vec<_>>())
        });
        methods.add_method("replace", |_, this, (it, with): (Value, Value)| {
            let (it, with) = (text(&it, 1, "replace")?, text(&with, 2, "replace")?);
            Ok(this.0.replace_all(&it, &*with).into_owned())
        });
        methods.add_method("split", |_, this, it: Value| {
            let it = text(&it, 1, "split")?;
            Ok(this.0.split(&it).map(str::to_owned).collect::<Vec<_>>())
        });
        methods.add_method("captures", |lua, this, it: Value| {
            let it = text(&it, 1, "captures")?;
            let Some(captures) = this.0.captures(&it) else {
                return Ok(Value::Nil);
            };
            // By number, 0 being the whole match, and by name.
            let table = lua.create_table()?;
            for (index, name) in this.0.capture_names().enumerate() {
                let found = captures.get(index).map(|found| found.as_str());
                table.raw_set(index, found)?;
                if let Some(name) = name {
                    table.raw_set(name, found)?;
                }
            }
            Ok(Value::Table(table))
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn expressions_find_what_they_say() {
        for body in [
            "return kumo.regex.compile('^[a-z]+$'):is_match 'abc' and not kumo.regex.compile('^[a-z]+$'):is_match 'a1'",
            "return kumo.regex.compile('[0-9]+'):find 'ab12cd' == '12' and kumo.regex.compile('[0-9]+'):find 'ab' == nil",
            "return table.concat(kumo.regex.compile('[0-9]+'):find_all 'a1b22c333', ',') == '1,22,333'",
            "return kumo.regex.compile('(\\\\w+)@(\\\\w+)'):replace('a@b', '$2 at $1') == 'b at a'",
            "return table.concat(kumo.regex.compile('[,;] *'):split 'a, b;c', '|') == 'a|b|c'",
            "local c = kumo.regex.compile('(?P<user>\\\\w+)@(\\\\w+)'):captures 'x scott@host' return c[0] == 'scott@host' and c[1] == 'scott' and c.user == 'scott' and c[2] == 'host'",
            "return kumo.regex.compile('a'):captures 'b' == nil",
            "return kumo.regex.compile('ü'):is_match 'grüße'",
        ] {
            check_body(body);
        }
    }

    /// The attack: an expression and a text that take a backtracking matcher for ever.
    #[test]
    fn no_text_takes_long() {
        check_body("return not kumo.regex.compile('(a+)+$'):is_match((('a'):rep(100000)) .. 'b')");
    }

    #[test]
    fn what_is_no_expression_raises() {
        for pattern in [
            "'('",
            "'(a)\\\\1'",
            "'(?=a)'",
            "'(a{1000}){1000}'",
            "nil",
            "{}",
        ] {
            check_body(&format!(
                "local ok, fault = pcall(kumo.regex.compile, {pattern}) return not ok and tostring(fault):find 'kumo.regex.compile' ~= nil"
            ));
        }
    }
}
