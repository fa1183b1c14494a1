//! A policy whose users are in a real Redis, also while that comes and goes.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{STRANGER, Setup, basic, inject, run_with, wait_for};

/// Where Redis listens: nobody connects from there, so that no connection holds the port while Redis is away.
const HOST: &str = "127.0.0.7";

/// A Redis of the test's own, in memory alone, on a port of its own. Killed when dropped.
pub(crate) struct Redis {
    child: Option<Child>,
    port: u16,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind((HOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut redis = Self { child: None, port };
        redis.start_again();
        redis
    }

    pub(crate) fn start_again(&mut self) {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                HOST,
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `make integration`");
        self.child = Some(child);
        wait_for("Redis to listen", || {
            TcpStream::connect(self.address()).is_ok()
        });
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{HOST}:{}/", self.port)
    }

    pub(crate) fn address(&self) -> (&'static str, u16) {
        (HOST, self.port)
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let done = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lua/examples")
}

fn example() -> String {
    std::fs::read_to_string(examples().join("redis_hashes.lua")).unwrap()
}

/// Fills Redis with the user scott, and runs the example's own tests on the way.
fn fill(redis: &Redis) {
    let environment = [("MAIL_REDIS", redis.url())];
    let environment = environment
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let (status, out, err) = run_with(
        &["test", "redis_hashes_test.lua"],
        &examples(),
        "",
        &environment,
    );
    assert_eq!(status, Some(0), "{out}{err}");
}

#[test]
fn the_example_lets_the_right_users_in() {
    let redis = Redis::start();
    fill(&redis);
    let gate = Setup::demo()
        .policy(&example())
        .env("MAIL_REDIS", &redis.url())
        .start();
    for (user, password, status) in [
        ("scott", "tiger", 200),
        ("scott", "lion", 401),
        ("nobody", "tiger", 401),
    ] {
        assert_eq!(
            gate.send(STRANGER, inject(&basic(user, password)))
                .unwrap()
                .status,
            status,
            "{user}"
        );
    }
}

/// What Redis answers comes back as Lua, bytes and all, and what it refuses raises.
#[test]
fn answers_come_back_as_lua() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let tests = "
        local test = require 'gatepost.test'
        local redis = require 'redis'
        local connection = redis.open { node = os.getenv 'MAIL_REDIS', pool_size = 2 }
        test.case('kinds of answers', function()
          test.equal(connection:query('SET', 'a', 'grüße\\0\\xff'), true)
          test.equal(connection:query('GET', 'a'), 'grüße\\0\\xff')
          test.equal(connection:query('GET', 'absent'), nil)
          local list = connection:query('MGET', 'absent', 'a', 'absent')
          test.equal(#list, 3)
          test.equal(list[2], connection:query('GET', 'a'))
          test.equal(connection:query('INCR', 'n'), 1)
          test.equal(connection:query('INCRBY', 'n', 41), 42)
          connection:query('RPUSH', 'list', 'x', 'y')
          test.equal(table.concat(connection:query('LRANGE', 'list', 0, -1), ','), 'x,y')
          connection:query('HSET', 'h', 'field', 'value')
          test.equal(connection:query('HGETALL', 'h')[2], 'value')
        end)
        test.case('errors of the server', function()
          connection:query('SETRANGE', 'big', 17000000, 'x')
          test.raises(function() connection:query('GET', 'big') end, 'more than 16 MiB')
          test.raises(function() connection:query('NONSENSE') end, 'redis: ')
          local _, fault = pcall(function() connection:query('NONSENSE', 'hidden') end)
          test.equal(tostring(fault):find 'hidden', nil)
          test.raises(function() connection:query('LPUSH', 'a', 'x') end, 'WRONGTYPE')
          test.equal(connection:query('PING'), 'PONG')
        end)
        test.case('a password that is not asked for', function()
          local wrong = redis.open { node = os.getenv 'MAIL_REDIS', password = 'hidden' }
          test.raises(function() wrong:query('PING') end, 'redis: cannot connect')
        end)";
    crate::harness::write(folder.path(), "redis_test.lua", tests);
    let url = redis.url();
    let (status, out, err) = run_with(
        &["test", "redis_test.lua"],
        folder.path(),
        "",
        &[("MAIL_REDIS", url.as_str())],
    );
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.ends_with("3 passed, 0 failed\n"), "{out}");
}

/// The need: Redis goes away under load. Whoever needs it gets 500 or 503, everybody else is served, and when it
/// comes back so does everything, without anybody's doing.
#[test]
fn redis_may_come_and_go() {
    let mut redis = Redis::start();
    fill(&redis);
    // One user more, who needs no Redis.
    let policy = example().replace(
        "  local stored =",
        "  if user == 'local' then return true end\n  local stored =",
    );
    let gate = Setup::demo()
        .policy(&policy)
        .env("MAIL_REDIS", &redis.url())
        .with("decision_cache: { ttl: 0s }\npolicy.callback_timeout: 2s")
        .start();
    let status = |user: &str, password: &str| {
        gate.send(STRANGER, inject(&basic(user, password)))
            .unwrap()
            .status
    };
    assert_eq!(status("scott", "tiger"), 200);
    redis.kill();
    std::thread::scope(|scope| {
        let needing: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| status("scott", "tiger")))
            .collect();
        for _ in 0..50 {
            assert_eq!(status("local", "x"), 200);
        }
        for status in needing {
            assert!([500, 503].contains(&status.join().unwrap()));
        }
    });
    redis.start_again();
    // It came back empty: `scott` is unknown now, which only a Redis that is asked can say.
    wait_for("Redis to be asked again", || {
        status("scott", "tiger") == 401
    });
    fill(&redis);
    // Each worker finds out for itself that its connection is a dead one.
    wait_for("every worker to have recovered", || {
        (0..8).all(|_| status("scott", "tiger") == 200)
    });
}
