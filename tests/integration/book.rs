//! The documents as a book, made by `make book`, and read in a real browser.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::harness::PATIENCE;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Where the book is. It is made once.
static BOOK: LazyLock<PathBuf> = LazyLock::new(|| {
    let output = Command::new("make")
        .args(["--no-print-directory", "book"])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("WARN"), "{said}");
    root().join("target/book/html")
});

fn html_below(folder: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            html_below(&path, into);
        } else if path.extension().is_some_and(|it| it == "html") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.insert(path, text);
        }
    }
}

/// What attributes of this name hold.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    let parts = html.split(start.as_str()).skip(1);
    parts.filter_map(|it| it.split('"').next()).collect()
}

/// The need: links that work in the repository work in the book, too, and it needs nothing from elsewhere.
#[test]
fn every_link_of_the_book_leads_somewhere() {
    let mut pages = BTreeMap::new();
    html_below(&BOOK, &mut pages);
    let ids: BTreeMap<&PathBuf, BTreeSet<&str>> = pages
        .iter()
        .map(|(path, html)| (path, values(html, "id").into_iter().collect()))
        .collect();
    let mut followed = 0;
    for (path, html) in &pages {
        let shown = path.display();
        for source in values(html, "src") {
            assert!(!source.contains("://"), "{shown} takes {source}");
        }
        for link in [values(html, "href"), values(html, "src")].concat() {
            if link.contains(':') {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let mut there = path.clone();
            if !target.is_empty() {
                there.pop();
                for part in Path::new(target).components() {
                    if part == Component::ParentDir {
                        assert!(there.pop());
                    } else {
                        there.push(part);
                    }
                }
            }
            assert!(there.exists(), "{shown}: {link}");
            if !anchor.is_empty()
                && let Some(ids) = ids.get(&there)
            {
                assert!(ids.contains(anchor), "{shown}: {link}");
            }
            followed += 1;
        }
    }
    assert!(pages.len() > 15 && followed > 500, "{followed}");
}

/// The need: a word is typed, and the page that explains it is found.
#[test]
fn the_book_can_be_searched() {
    let browser = Browser::start(1180, 900);
    let start = BOOK.join("docs/quick-start.html");
    browser.open(&format!("file://{}", start.display()));
    // As its help says, `s` opens the search; as soon as its script is there.
    let focused = "return document.activeElement.id";
    let deadline = Instant::now() + PATIENCE;
    while browser.text(focused) != "mdbook-searchbar" {
        assert!(Instant::now() < deadline, "the search does not open");
        browser.press("s");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It may have got an `s` or two.
    browser.run("document.getElementById('mdbook-searchbar').value = ''");
    browser.press("missing_password");
    browser.wait_words("mdbook-searchresults", "basic.missing_password");
    let shots = root().join("target/screenshots");
    std::fs::create_dir_all(&shots).unwrap();
    browser.picture(&shots.join("book-search.png"));
    let first = "return document.querySelector('#mdbook-searchresults a').href";
    let found = browser.text(first);
    assert!(found.contains("configuration.html"), "{found}");
    browser.open(&found);
    let title = browser.text("return document.querySelector('main h1').innerText");
    assert_eq!(title, "Configuration reference");
    let errors = browser.console();
    assert!(errors.is_empty(), "{errors:?}");
}
