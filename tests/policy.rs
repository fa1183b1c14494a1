//! The operator's Lua under stress: whatever a handler does, the request is answered, the others are
//! served, and nothing of it reaches the client.

use std::time::{Duration, Instant};

use crate::harness::{STRANGER, Setup, basic, inject};

/// The attack: one user name sends the handler into an endless loop; everybody else must not notice.
#[test]
fn an_endless_loop_gives_503_in_time_and_disturbs_nobody() {
    let deadline = Duration::from_secs(2);
    // One worker: not even the calls that share it may suffer.
    let gate = Setup::demo()
        .with("policy.callback_timeout: 2s\npolicy.workers: 1")
        .start();
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..4)
            .map(|client| {
                let gate = &gate;
                scope.spawn(move || {
                    let begin = Instant::now();
                    let reply = gate
                        .send(STRANGER, inject(&basic("r-loop", &client.to_string())))
                        .unwrap();
                    assert_eq!(reply.status, 503, "{reply:?}");
                    assert!(reply.header("retry-after").is_some());
                    begin.elapsed()
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        let mut served = 0;
        while !loops.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let begin = Instant::now();
            assert_eq!(
                gate.send(STRANGER, inject(&basic("scott", "tiger")))
                    .unwrap()
                    .status,
                200
            );
            slowest = slowest.max(begin.elapsed());
            served += 1;
        }
        for looping in loops {
            let took = looping.join().unwrap();
            assert!(
                took >= deadline && took < deadline + Duration::from_secs(2),
                "{took:?}"
            );
        }
        assert!(
            served >= 20,
            "only {served} requests were served beside the loops"
        );
        assert!(
            slowest < Duration::from_secs(1),
            "a request beside the loops took {slowest:?}"
        );
        println!(
            "FIGURE beside 4 endless loops on one worker: {served} requests, the slowest {slowest:?}"
        );
    });
}

/// The attack: a pattern that keeps the C code of `string.find` busy, where no hook interrupts it. The
/// worker is given up and replaced.
#[test]
fn a_worker_stuck_in_c_code_is_replaced() {
    let policy = "
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          if user == 'stuck' then return string.find(('a'):rep(300), '.-.-.-.-.-b$') ~= nil end
          return user == 'scott'
        end)";
    let gate = Setup::demo()
        .policy(policy)
        .with("policy.callback_timeout: 500ms\npolicy.workers: 1")
        .start();
    assert_eq!(
        gate.send(STRANGER, inject(&basic("stuck", "x")))
            .unwrap()
            .status,
        503
    );
    crate::harness::wait_for("a worker that serves again", || {
        gate.send(STRANGER, inject(&basic("scott", "x")))
            .unwrap()
            .status
            == 200
    });
    assert!(gate.metric("gatepost_policy_workers_abandoned_total") >= 1.0);
}

/// The attack: a handler's error message holds what the client must not see; and the log holds what
/// nobody must see.
#[test]
fn errors_stay_inside_and_passwords_out_of_the_log() {
    let policy = "
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          if user == 'raiser' then error('cannot reach db.internal with ' .. password) end
          return password == 'hunter2-right'
        end)";
    let gate = Setup::demo()
        .policy(policy)
        .with("log: { level: trace }")
        .start();
    let reply = gate
        .send(STRANGER, inject(&basic("raiser", "hunter2-raised")))
        .unwrap();
    assert_eq!(reply.status, 500);
    assert!(
        !reply.text().contains("db.internal") && !reply.text().contains("lua"),
        "{}",
        reply.text()
    );
    assert_eq!(
        gate.send(STRANGER, inject(&basic("a", "hunter2-wrong")))
            .unwrap()
            .status,
        401
    );
    assert_eq!(
        gate.send(STRANGER, inject(&basic("a", "hunter2-right")))
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        gate.send(STRANGER, inject("Authorization: Bearer hunter2-token\r\n"))
            .unwrap()
            .status,
        401
    );
    gate.wait_log(|line| line.to_string().contains("db.internal"));
    let log = gate.logged();
    assert!(!log.contains("hunter2"), "{log}");
    for secret in [
        "raiser:hunter2-raised",
        "a:hunter2-wrong",
        "a:hunter2-right",
    ] {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        assert!(!log.contains(&encoded), "{log}");
    }
}

/// The attack: a user name that tries to begin a log line of its own.
#[test]
fn a_user_name_cannot_forge_a_log_line() {
    let gate = Setup::demo().start();
    let name = "x\" status=200 \"";
    assert_eq!(
        gate.send(STRANGER, inject(&basic(name, "y")))
            .unwrap()
            .status,
        401
    );
    let line = gate.wait_log(|line| line["target"] == "access" && line["status"] == 401);
    assert_eq!(line["user"], name);
    assert_eq!(line.get("identity"), None, "nobody was let in");
}

/// Bearer tokens go to their own handler; `true` names nobody, so it is an error there.
#[test]
fn bearer_tokens_have_a_handler_of_their_own() {
    let policy = "
        require('kumo').on('http_server_validate_auth_bearer', function(token)
          if token == 'named' then
            return { identities = { { identity = 'tenant-7', context = 'BearerToken' } } }
          end
          return token == 'nameless'
        end)";
    let gate = Setup::demo().policy(policy).start();
    let status = |token: &str| {
        gate.send(
            STRANGER,
            inject(&format!("Authorization: Bearer {token}\r\n")),
        )
        .unwrap()
        .status
    };
    assert_eq!(status("named"), 200);
    assert_eq!(gate.messages()[0]["meta"]["http_auth"], "tenant-7");
    assert_eq!(status("wrong"), 401);
    assert_eq!(status("nameless"), 500);
    assert_eq!(
        gate.send(STRANGER, inject(&basic("scott", "tiger")))
            .unwrap()
            .status,
        401
    );
}

/// What differs between two places is often in the environment.
#[test]
fn a_policy_reads_its_environment() {
    let policy = "
        require('kumo').on('http_server_validate_auth_basic', function(user, password)
          return password == os.getenv 'MAIL_PASSWORD'
        end)";
    let gate = Setup::demo()
        .policy(policy)
        .env("MAIL_PASSWORD", "from the environment")
        .start();
    let status = |password: &str| {
        gate.send(STRANGER, inject(&basic("a", password)))
            .unwrap()
            .status
    };
    assert_eq!((status("from the environment"), status("x")), (200, 401));
}

/// Threads of the policy do not interrupt those of requests when they are woken (field 41 of proc_pid_stat(5), `SCHED_BATCH` of sched(7)).
#[test]
fn workers_wait_for_their_turn() {
    const BATCH: &str = "3";
    let gate = Setup::demo().with("policy.workers: 2").start();
    let tasks = format!("/proc/{}/task", gate.pid());
    let batch = || {
        let tasks = std::fs::read_dir(&tasks).unwrap();
        let read = |name: &str, task: &std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join(name)).unwrap_or_default()
        };
        let is_batch = |task: &std::fs::DirEntry| {
            let stat = read("stat", task);
            let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
            fields.split_whitespace().nth(38) == Some(BATCH)
        };
        let tasks = tasks.filter_map(Result::ok).filter(is_batch);
        tasks.map(|it| read("comm", &it)).collect::<Vec<_>>()
    };
    assert_eq!(batch(), ["policy\n", "policy\n"]);
}
