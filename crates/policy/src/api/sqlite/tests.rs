//! What statements give, what mistakes raise, and what becomes of calls that are given up.

use super::*;
use crate::tests::check_body;

/// The attack: calls that are given up, also just before their statement begins, and the statements of others on the same
/// connection.
#[test]
fn a_call_that_is_given_up_stops_its_own_statement_alone() {
    let mut connection = Connection::open_in_memory().unwrap();
    let mut count = |given_up: &Arc<AtomicBool>, rows: u32| {
        let sql = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT count(*) FROM n"
        );
        run(
            &mut connection,
            given_up,
            &sql,
            &Parameters::Positional(Vec::new()),
        )
    };
    let call = || GiveUpOnDrop(Arc::default());
    let (early, endless, other) = (call(), call(), call());
    let flag = early.0.clone();
    drop(early);
    assert!(matches!(count(&flag, u32::MAX), Err(SqlFault::GivenUp)));
    let flag = endless.0.clone();
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(&flag, u32::MAX));
        // Wherever it is by now, before its first step or after, it ends.
        drop(endless);
        assert!(counting.join().unwrap().is_err());
    });
    assert!(count(&other.0, 1000).is_ok());
}

/// A database in the policy's folder.
const OPEN: &str = "local sqlite = require 'sqlite'
    local db = sqlite.open 'x.db'
    db:execute 'CREATE TABLE IF NOT EXISTS t (name TEXT, n INTEGER)'
    db:execute('DELETE FROM t')
    db:execute('INSERT INTO t VALUES (?, ?)', 'a', 1)
    db:execute('INSERT INTO t VALUES (:name, @n)', { name = 'b', n = 2 })\n";

#[test]
fn statements_give_what_they_say() {
    for body in [
        "local r = db:execute 'SELECT name FROM t ORDER BY n' return #r == 2 and r[1] == 'a' and r[2] == 'b'",
        "local r = db:execute 'SELECT * FROM t ORDER BY n' return #r == 2 and r[2].name == 'b' and r[2].n == 2",
        "local r = db:execute('SELECT * FROM t WHERE name = ?', 'c') return #r == 0",
        "local r = db:execute('SELECT name FROM t WHERE name = ?', 'c') return #r == 0 and r[1] == nil",
        "return db:execute('UPDATE t SET n = n + 1') == 2",
        "return db:execute('DELETE FROM t WHERE n = 3') == 0 and db:execute('DELETE FROM t') == 2",
        // What changes no row says so, whatever the statement before it changed.
        "db:execute 'UPDATE t SET n = n' return db:execute 'CREATE TABLE IF NOT EXISTS u (x)' == 0",
        "db:execute 'UPDATE t SET n = n' return db:execute 'BEGIN' == 0 and db:execute 'COMMIT' == 0",
        "local r = db:execute('SELECT ?, ?', 1.5, true) return r[1]['?'] ~= 0",
        "local r = db:execute('SELECT ? AS x', 'jürgen\\0\\xff') return r[1] == 'jürgen\\0\\xff'",
        "local r = db:execute('SELECT ? AS a, ? AS b', nil, 'x') return r[1].a == nil and r[1].b == 'x'",
        "local r = db:execute(\"SELECT name FROM t WHERE name = ?\", \"' OR 1=1 --\") return #r == 0",
    ] {
        check_body(&format!("{OPEN}{body}"));
    }
}

#[test]
fn mistakes_raise_and_say_what_is_wrong_but_no_parameter() {
    for (call, words) in [
        ("db:execute 'SELEKT 1'", "syntax error"),
        ("db:execute 'SELECT * FROM absent'", "no such table: absent"),
        ("db:execute('SELECT ?', 'hidden', 'hidden')", "parameter"),
        ("db:execute 'SELECT ?'", "parameter"),
        ("db:execute('SELECT :a', { b = 'hidden' })", "parameter"),
        (
            "db:execute('SELECT ?', print)",
            "bad argument #2 to 'execute'",
        ),
        ("db:execute()", "bad argument #1 to 'execute'"),
        ("db:close() db:execute 'SELECT 1'", "closed"),
        ("sqlite.open()", "bad argument #1 to 'sqlite.open'"),
        ("sqlite.open '/nonexistent/x.db'", "cannot open"),
        (
            "sqlite.open('compiled.lua'):execute 'CREATE TABLE t (x)'",
            "not a database",
        ),
    ] {
        check_body(&format!(
            "{OPEN}local ok, fault = pcall(function() {call} end) fault = tostring(fault)
             return not ok and fault:find([[{words}]], 1, true) ~= nil and not fault:find 'hidden' or error(fault)"
        ));
    }
}

#[test]
fn a_locked_database_is_an_error_in_time() {
    check_body(&format!(
        "{OPEN}db:execute 'BEGIN EXCLUSIVE'
         local begin = os.time()
         local ok, fault = pcall(function() sqlite.open('x.db', 50):execute 'SELECT * FROM t' end)
         db:execute 'COMMIT'
         return not ok and tostring(fault):find 'locked' ~= nil and os.time() - begin < 3"
    ));
}

/// The need: what went wrong, in the log, and the attack: a value that a careless handler wrote into the statement,
/// in the same log.
#[test]
fn no_error_repeats_what_the_statement_holds() {
    for (sql, words) in [
        ("SELECT 'hidden", "unrecognized token at offset 7"),
        (
            "SELECT * FROM t WHERE name = 'it's hidden'",
            "syntax error at offset",
        ),
        ("SELECT 'a' 'b' 'hidden'", "syntax error at offset"),
        (
            "SELECT * FROM t WHERE name = hidden",
            "no such column at offset 29",
        ),
        (
            "SELECT * FROM t WHERE name = 'x' hidden",
            "syntax error at offset",
        ),
        ("SELECT json_extract('{}', 'hidden')", "JSON path"),
        (
            "ATTACH '/nonexistent/hidden' AS a",
            "unable to open database",
        ),
        (
            "SELECT abs(-9223372036854775808) AS hidden",
            "integer overflow",
        ),
        ("SELECT 'hidden' FROM t WHERE", "incomplete input"),
        ("SELECT 'hidden' FROM FROM t", "near \"FROM\": syntax error"),
        ("SELECT 'hidden' FROM absent", "no such table: absent"),
        ("SELECT absent('hidden')", "no such function: absent"),
        ("SELECT 'hidden'; SELECT 2", "Multiple statements"),
        (
            "INSERT INTO u VALUES ('hidden'), ('hidden')",
            "UNIQUE constraint failed: u.x",
        ),
        ("INSERT INTO u VALUES ('no hidden')", "constraint failed"),
    ] {
        check_body(&format!(
            "{OPEN}db:execute 'DROP TABLE IF EXISTS u' db:execute \"CREATE TABLE u (x UNIQUE CHECK (x <> 'no hidden'))\"
             local ok, fault = pcall(db.execute, db, [[{sql}]]) fault = tostring(fault)
             return not ok and fault:find([[{words}]], 1, true) ~= nil and not fault:find 'hidden' or error(fault)"
        ));
    }
}

/// The attack: a name that so many rows fit that they fill the memory before Lua's own limit sees them.
#[test]
fn what_a_statement_gives_is_bounded() {
    for (body, words) in [
        (
            "db:execute 'SELECT zeroblob(9000000) UNION ALL SELECT zeroblob(9000000)'",
            "more than 16 MiB",
        ),
        (
            "db:execute 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) SELECT i, 1 AS a, 2 AS b, 3 AS c, 4 AS d FROM n'",
            "more than 16 MiB",
        ),
        (
            "db:execute 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n'",
            "more than 100000 rows",
        ),
    ] {
        check_body(&format!(
            "{OPEN}local ok, fault = pcall(function() {body} end)
             return not ok and tostring(fault):find('{words}', 1, true) ~= nil or error(fault)"
        ));
    }
    check_body(&format!(
        "{OPEN}return #db:execute('SELECT zeroblob(1000000)')[1] == 1000000"
    ));
}

/// The attack: a handler that opens a connection for each call, until the process has no files left.
#[test]
fn connections_are_bounded_and_closed_ones_free_their_place() {
    check_body(&format!(
        "{OPEN}local open = {{ db }}
         local function fill()
           local ok, fault
           repeat
             ok, fault = pcall(sqlite.open, 'x.db')
             if ok then open[#open + 1] = fault end
           until not ok
           assert(tostring(fault):find('128 connections are open', 1, true), fault)
           assert(#open == 128, #open)
         end
         fill()
         table.remove(open):close()
         fill()
         open = {{ db }}
         fill()
         return true"
    ));
    check_body(&format!(
        "{OPEN}for i = 1, 500 do sqlite.open('x.db'):execute 'SELECT 1' end return true"
    ));
}

/// The attack: one worker is at rest, with connections that nobody uses and nobody collects.
#[test]
fn what_one_worker_has_yet_to_collect_leaves_room_for_the_other() {
    struct Held(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);
    impl UserData for Held {}
    let pool = DatabasePool::default();
    let (lua, other) = (Lua::new(), Lua::new());
    let (state, of_other) = (State::new(pool.clone()), State::new(pool));
    for _ in 0..1000 {
        let place = state.place(&lua).unwrap();
        lua.create_userdata(Held(place)).unwrap();
    }
    let room: Vec<_> = (0..MOST_OPEN / 2).map(|_| of_other.place(&other)).collect();
    assert!(room.iter().all(Result::is_ok));
}
