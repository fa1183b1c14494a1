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
