//! The status page in a real browser, as an operator sees it.
//!
//! The pictures of it go to `target/screenshots`; the one in `docs` is `make picture`, which lets it run for longer.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::harness::{
    Connection, Gatepost, Recorder, STRANGER, Setup, TRUSTED, basic, get, inject,
};

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

/// Where a window shows all of it.
const WIDTH: u32 = 1180;
const HEIGHT: u32 = 1250;

fn url(gate: &Gatepost) -> String {
    format!("http://{}/", gate.admin)
}

fn shots(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/screenshots")
        .join(name)
}

fn reload(gate: &Gatepost) -> u16 {
    let mut connection = Connection::open(gate.admin, TRUSTED);
    connection.write("POST /reload HTTP/1.1\r\nContent-Length: 0\r\nHost: localhost\r\n\r\n");
    connection.reply().unwrap().status
}

/// As clients do: most are let in, some have a wrong password, some ask for what is not there; now more, now less.
fn traffic(gate: &Gatepost, round: u32) {
    let status = |from, request: String| gate.send(from, request).unwrap().status;
    let client = Ipv4Addr::new(127, 0, 0, 20);
    for _ in 0..8 + (round % 60).min(60 - round % 60) / 2 + round % 3 {
        assert_eq!(status(client, inject(&basic("scott", "tiger"))), 200);
    }
    if round.is_multiple_of(3) {
        for last in 2..=5 {
            for _ in last..=5 {
                let guesser = Ipv4Addr::new(127, 0, 0, last);
                let answer = status(guesser, inject(&basic("mallory", "wrong")));
                assert!([401, 429].contains(&answer), "{answer}");
            }
        }
        assert_eq!(status(Ipv4Addr::new(127, 0, 0, 7), get("/nowhere")), 404);
    }
}

/// What clients do is on the page a moment later: in numbers, in charts, and in words.
#[test]
fn the_page_shows_what_happens() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("reload: { watch: off }")
        .start();
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    browser.wait_words("headline", "All is well.");
    browser.wait_words("n-reasons", "Nothing was refused");
    traffic(&gate, 0);
    browser.wait_words("b-reasons", "no_route");
    browser.wait_words("b-reasons", "wrong credentials, or none");
    browser.wait_words("b-clients", "127.0.0.2");
    let clients = browser.words("b-clients");
    let rows: Vec<&str> = clients.split_whitespace().collect();
    assert_eq!(
        rows[..6],
        [
            "127.0.0.2",
            "unauthorized",
            "4",
            "127.0.0.3",
            "unauthorized",
            "3"
        ]
    );
    assert!(
        clients.contains("127.0.0.7") && clients.contains("no_route"),
        "{clients}"
    );
    assert_eq!(
        browser.words("headline"),
        "All is well.",
        "others' mistakes are no trouble"
    );
    browser.wait_words("b-latency", "ms");
    for chart in ["c-traffic", "c-refusals"] {
        let drawn = format!("return document.querySelector('#{chart} path').getAttribute('d')");
        assert!(
            browser.text(&drawn).starts_with('M'),
            "{chart} shows something"
        );
        let label = format!("return document.getElementById('{chart}').getAttribute('aria-label')");
        assert!(
            browser.text(&label).contains("The most was"),
            "{chart} in words"
        );
    }
    assert_eq!(browser.console(), [] as [String; 0]);
}

/// Trouble is at the top in words, and goes when it is over.
#[test]
fn the_page_says_what_is_wrong() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address)
        .with("reload: { watch: off }")
        .start();
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    browser.wait_words("headline", "All is well.");
    let policy = gate.folder().join("policy.lua");
    let good = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, "this is <b>no</b> Lua").unwrap();
    assert_eq!(reload(&gate), 422);
    browser.wait_words("headline", "The last reload failed");
    browser.wait_words("reload-error", "policy.lua");
    browser.wait_words("b-policy", "failed");
    browser.picture(&shots("status-trouble.png"));
    std::fs::write(&policy, good).unwrap();
    assert_eq!(reload(&gate), 200);
    browser.wait_words("headline", "All is well.");
    browser.wait_words("b-policy", "2, since");

    let yaml = gate.folder().join("gatepost.yaml");
    let written = std::fs::read_to_string(&yaml).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.8:0").unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let elsewhere = written.replace(&upstream.address.to_string(), &gone.to_string());
    std::fs::write(&yaml, elsewhere).unwrap();
    assert_eq!(reload(&gate), 200);
    let reply = gate.send(STRANGER, inject(&basic("scott", "tiger")));
    assert_eq!(reply.unwrap().status, 502);
    browser.wait_words("headline", "does not answer");
    browser.wait_words("b-upstream", "failing");
    browser.wait_words("n-upstream", "ConnectRefused");
    assert_eq!(browser.console(), [] as [String; 0]);

    // It hangs, and comes back.
    gate.signal("STOP");
    browser.wait_words("headline", "No answer since");
    browser.wait_words("live", "no answer since");
    gate.signal("CONT");
    browser.wait_words("live", "as of");
    browser.wait_words("headline", "does not answer");
}

/// A new process counts from zero. That is no fall, and what it counts is not held against the old one's.
#[test]
fn counters_may_begin_anew() {
    let upstream = Recorder::start();
    let gate = Setup::before(upstream.address).start();
    traffic(&gate, 0);
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    browser.wait_words("b-reasons", "no_route");
    gate.signal("QUIT");
    let line = gate.wait_log(|line| line["message"] == "a new gatepost is ready and takes over");
    let successor = Successor(line["process"].as_u64().unwrap());
    browser.wait_words("build", &format!("process {}", successor.0));
    browser.wait_words("n-reasons", "Nothing was refused since the start.");
    let marked = "return document.querySelector('#c-traffic path.restart').getAttribute('d')";
    assert!(browser.text(marked).starts_with('M'));
    assert_eq!(browser.words("headline"), "All is well.");
    traffic(&gate, 0);
    browser.wait_words("b-clients", "127.0.0.2");
    for figure in ["f-rate", "f-refused"] {
        let said = browser.words(figure);
        let number = said.trim_end_matches("/s").trim();
        assert!(number.parse::<f64>().unwrap() >= 0.0, "{figure}: {said}");
    }
}

/// The process that took over; ended with the test.
struct Successor(u64);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-KILL", &self.0.to_string()])
            .status();
    }
}

/// A browser cannot send a token by itself, so the page asks for it, keeps it in its tab, and forgets it when it is told to.
#[test]
fn the_page_asks_for_the_token() {
    let gate = Setup::demo()
        .with("admin.token: { file: token }")
        .file("token", "correct-horse-battery\n")
        .start();
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    browser.wait_words("headline", "The admin token is needed.");
    browser.picture(&shots("status-token.png"));
    let focused = || browser.text("return document.activeElement.id");
    assert_eq!(focused(), "token");
    browser.press(&format!("wrong{ENTER}"));
    browser.wait_words("headline", "This was not the token.");
    browser.press(&format!("ünmöglich{ENTER}"));
    browser.wait_words("headline", "This was not the token.");
    assert_eq!(
        browser.run("return document.getElementById('data').hidden"),
        true
    );
    browser.press(&format!("correct-horse-battery{ENTER}"));
    browser.wait_words("headline", "All is well.");
    assert!(
        !browser
            .text("return document.documentElement.outerHTML")
            .contains("battery")
    );
    browser.open(&url(&gate));
    browser.wait_words("headline", "All is well.");
    browser.run("document.getElementById('forget').click()");
    browser.wait_words("headline", "The token is forgotten.");
    browser.open(&url(&gate));
    browser.wait_words("headline", "The admin token is needed.");
    let complaints = browser.console();
    // What is not allowed is asked once for each try.
    assert!(
        complaints.iter().all(|it| it.contains("401")),
        "{complaints:?}"
    );
}

/// Whoever uses no mouse gets everywhere, in the order of the page, and sees where they are.
#[test]
fn the_keyboard_is_enough() {
    let gate = Setup::demo().with("reload: { watch: off }").start();
    std::fs::write(gate.folder().join("policy.lua"), "nonsense").unwrap();
    assert_eq!(reload(&gate), 422);
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    browser.wait_words("reload-error", "policy.lua");
    let mut order = Vec::new();
    for _ in 0..5 {
        browser.press(TAB);
        let focus = browser.run(
            "const it = document.activeElement, style = getComputedStyle(it);
             return [it.id || it.className || it.innerText.split(/[ \\n]/)[0], style.outlineStyle, parseFloat(style.outlineWidth)]",
        );
        assert_eq!(focus[1], "solid", "{focus}");
        assert!(focus[2].as_f64().unwrap() >= 2.0, "{focus}");
        order.push(focus[0].as_str().unwrap().to_owned());
    }
    assert_eq!(
        order,
        ["skip", "pause", "reload-error", "Configuration", "Answers"]
    );
    // What is folded away unfolds.
    let folded = "return document.querySelector('details:nth-of-type(2)').open";
    assert_eq!(browser.run(folded), false);
    browser.press(ENTER);
    assert_eq!(browser.run(folded), true);
    // Updates can be stopped, and the skip link leads on.
    browser.run("document.getElementById('pause').focus()");
    browser.press(ENTER);
    browser.wait_words("pause", "Go on");
    browser.wait_words("live", "paused");
    assert_eq!(
        browser.run("return document.getElementById('pause').getAttribute('aria-pressed')"),
        "true"
    );
    browser.run("document.querySelector('.skip').focus()");
    browser.press(ENTER);
    assert_eq!(browser.text("return document.activeElement.id"), "status");
    let structure = browser.run(
        "return [document.querySelectorAll('h1').length, document.querySelectorAll('main, header, footer').length,
                 [...document.querySelectorAll('th')].every((it) => it.scope),
                 [...document.querySelectorAll('section')].every((it) => it.hasAttribute('role') || it.hasAttribute('aria-labelledby'))]",
    );
    assert_eq!(structure, serde_json::json!([1, 3, true, true]));
}

/// Light and dark, on a screen and on a phone: nothing is wider than the window, everything can be read.
#[test]
fn it_can_be_read_everywhere() {
    let gate = Setup::demo().start();
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.open(&url(&gate));
    let seconds = std::env::var("STATUS_PAGE_SECONDS").map_or(5, |it| it.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < end {
        traffic(&gate, round);
        round += 1;
        std::thread::sleep(Duration::from_millis(300));
    }
    browser.wait_words("b-clients", "127.0.0.7");
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.resize(WIDTH, HEIGHT);
        browser.picture(&shots(&format!("status-{scheme}.png")));
        browser.run("document.querySelectorAll('details').forEach((it) => { it.open = true })");
        let faint = browser.run(CONTRAST);
        assert_eq!(faint, serde_json::json!([]), "{scheme}: less than 4.5 to 1");
        browser.run("document.querySelectorAll('details').forEach((it) => { it.open = false })");
    }
    browser.prefer("light");
    for width in [360, 320, 768] {
        browser.resize(width, 2400);
        browser.run("document.querySelectorAll('details').forEach((it) => { it.open = true })");
        let needed = browser.run("return document.documentElement.scrollWidth");
        assert_eq!(needed, width, "no horizontal scrolling");
        browser.run("document.querySelectorAll('details').forEach((it) => { it.open = false })");
        browser.picture(&shots(&format!("status-{width}.png")));
    }
    assert_eq!(browser.console(), [] as [String; 0]);
}

/// Every text whose contrast with what is behind it is below 4.5 to 1 (WCAG 2.2, 1.4.3 at level AA).
const CONTRAST: &str = "
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((it) => it / 255)
  .map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
  .reduce((all, it, i) => all + it * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (let it = node; it; it = it.parentElement) {
    const colour = parts(getComputedStyle(it).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
for (const node of document.querySelectorAll('body *')) {
  const own = [...node.childNodes].some((it) => it.nodeType === 3 && it.data.trim());
  if (!own || !node.getClientRects().length) continue;
  const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < 4.5) faint.push(node.innerText + ' ' + contrast.toFixed(2));
}
return faint;";
