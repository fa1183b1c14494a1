//! Many clients that ask the same, and what they got.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::line::{Line, Times};

/// Clients on a connection each.
pub(crate) struct Crowd<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) from: &'a (dyn Fn(u32) -> Ipv4Addr + Sync),
    pub(crate) clients: u32,
    /// Of each client; `None` where it asks again at once.
    pub(crate) interval: Option<Duration>,
    /// What a client of this number asks at this turn.
    pub(crate) request: &'a (dyn Fn(u32, u64) -> Vec<u8> + Sync),
}

/// What they got.
#[derive(Default, Clone)]
pub(crate) struct Got {
    /// Answers of 200.
    pub(crate) served: Times,
    /// Answers of 503 that say when to try again.
    pub(crate) turned_away: Times,
    pub(crate) others: u64,
    pub(crate) faults: Vec<String>,
    took: Duration,
}

impl Got {
    pub(crate) fn served_per_second(&self) -> f64 {
        self.served.count() as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn asked_per_second(&self) -> f64 {
        let asked = self.served.count() + self.turned_away.count() + self.others;
        asked as f64 / self.took.as_secs_f64()
    }

    fn add(&mut self, more: &Self) {
        self.served.add(&more.served);
        self.turned_away.add(&more.turned_away);
        self.others += more.others;
        self.faults.extend(more.faults.iter().take(3).cloned());
    }
}

impl Crowd<'_> {
    /// Asks for so long, while `meanwhile` goes on.
    pub(crate) fn ask_for(&self, time: Duration, meanwhile: impl FnOnce()) -> Got {
        let (over, begin) = (AtomicBool::new(false), Instant::now());
        let mut got = Got::default();
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for number in 0..self.clients {
                let over = &over;
                let client = move || self.client(number, begin, over);
                let small = thread::Builder::new().stack_size(256 << 10);
                clients.push(small.spawn_scoped(scope, client).unwrap());
            }
            meanwhile();
            thread::sleep(time.saturating_sub(begin.elapsed()));
            over.store(true, Ordering::SeqCst);
            got.took = begin.elapsed();
            for client in clients {
                got.add(&client.join().unwrap());
            }
        });
        got
    }

    fn client(&self, number: u32, begin: Instant, over: &AtomicBool) -> Got {
        let mut got = Got::default();
        let mut line = None;
        let interval = self.interval.unwrap_or_default();
        // One after the other.
        let mut due = begin + interval * number / self.clients;
        for turn in 0.. {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due = (due + interval).max(Instant::now());
            if over.load(Ordering::SeqCst) {
                break;
            }
            let request = (self.request)(number, turn);
            let mut there = line
                .take()
                .unwrap_or_else(|| Line::open(self.to, (self.from)(number)));
            let begin = Instant::now();
            match there.ask(&request) {
                Ok(answer) => {
                    match answer.status {
                        200 => got.served.note(begin.elapsed()),
                        503 if answer.says_when_to_retry => got.turned_away.note(begin.elapsed()),
                        503 => got.faults.push("503 without Retry-After".to_owned()),
                        _ => got.others += 1,
                    }
                    line = (!answer.closes).then_some(there);
                }
                Err(fault) => got.faults.push(format!("no answer: {fault}")),
            }
        }
        got
    }
}
