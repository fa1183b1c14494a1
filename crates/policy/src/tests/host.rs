//! What the host of a policy does around its calls: loading, and telling how it is.

use super::*;

/// The need: to see that a policy is slow, and whether it waits for others or for its own hashes.
#[test]
fn calls_in_flight_and_hashes_that_wait_are_counted() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let lua = handler(
        "if user == 'waits' then kumo.sleep(60) end while true do gatepost.password.hash('x') end",
    );
    let loaded = load_with(
        &lua,
        &Options {
            timeout: Duration::from_secs(6),
            ..USUAL
        },
    );
    let policy = Arc::new(loaded.policy);
    assert_eq!(policy.stats().in_flight, 0);
    block_on(async {
        let until = async |what: &dyn Fn(PolicyStats) -> bool| {
            let limit = Instant::now() + Duration::from_secs(20);
            while !what(policy.stats()) {
                assert!(Instant::now() < limit, "{:?}", policy.stats());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut calls = tokio::task::JoinSet::new();
        let mut call = |user: String| {
            let policy = policy.clone();
            calls.spawn(async move { policy.judge(basic(&user, "x")).await });
        };
        call("waits".to_owned());
        until(&|stats| stats.in_flight == 1 && stats.hashes_waiting == 0).await;
        for each in 0..cores + 2 {
            call(format!("hashes-{each}"));
        }
        until(&|stats| stats.in_flight == cores + 3 && stats.hashes_waiting > 0).await;
        until(&|stats| stats.in_flight == 0 && stats.hashes_waiting == 0).await;
        while let Some(judgement) = calls.join_next().await {
            assert_eq!(judgement.unwrap(), Judgement::TimedOut);
        }
    });
}

/// Keeps C code busy for some seconds, where neither a hook nor a deadline reaches.
const STUCK: &str = "string.find(('a'):rep(200), '.-.-.-.-b$')";

const QUICK: Options = Options {
    workers: 1,
    load_time: LoadTime(Duration::from_millis(300)),
    ..USUAL
};

/// The attack: a file that does not let go of its thread, and a reload that waits for it for ever.
#[test]
fn a_file_that_hangs_is_given_up() {
    for file in [
        STUCK.to_owned(),
        format!("{}\n{STUCK}", handler("return true")),
    ] {
        let counters = Arc::default();
        let fault = try_load_counted(&file, &QUICK, &counters).err().unwrap();
        assert!(
            matches!(fault, LoadError::TooSlow { .. }),
            "{file}: {fault}"
        );
        assert!(
            fault.to_string().contains("did not finish loading within"),
            "{fault}"
        );
        // Given up: had it been waited for, nothing would have been.
        assert_eq!(counters.abandoned_workers.value(), 1, "{file}");
    }
}

/// The same where a worker is replaced while requests go on.
#[test]
fn a_worker_whose_file_hangs_when_it_is_replaced_is_given_up() {
    let hoard = "string.hoard = {} local hoard = string.hoard
        while true do hoard[#hoard + 1] = ('x'):rep(100000) .. #hoard end";
    let lua = handler(&format!("if user == 'hoard' then {hoard} end return true"))
        + &format!("\nif io.open(package.path:match('^(.-)/%?') .. '/hang') then {STUCK} end");
    let loaded = load_with(&lua, &QUICK);
    let hang = loaded.folder().join("hang");
    std::fs::write(&hang, "").unwrap();
    assert_eq!(loaded.judge("hoard"), Judgement::Failed);
    block_on(async {
        let limit = Instant::now() + Duration::from_secs(30);
        // The next call finds the state spoilt, so its worker runs the file again.
        let mut call = Box::pin(loaded.policy.judge(basic("good", "x")));
        let _ = tokio::time::timeout(Duration::from_millis(10), &mut call).await;
        while loaded.counters.abandoned_workers.value() == 0 {
            assert!(Instant::now() < limit);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    std::fs::remove_file(&hang).unwrap();
    attacks::recovers(&loaded, "hang");
}
