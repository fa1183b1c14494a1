//! The documents: every page is in the table of contents, and every link leads somewhere. (`make book` makes a book of them; that it does, and that it
//! can be searched, is in `integration/`.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every Markdown file of the repository, by its path from the root.
pub(crate) fn pages() -> BTreeMap<PathBuf, String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .arg("*.md")
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let pages: BTreeMap<PathBuf, String> = names
        .lines()
        .map(PathBuf::from)
        .filter_map(|it| Some((it.clone(), std::fs::read_to_string(root().join(&it)).ok()?)))
        .collect();
    assert!(pages.len() > 10, "{names}");
    pages
}

/// A page without what stands in fences and between backticks, line by line.
fn prose(page: &str) -> Vec<String> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            // Every second part is code. One without an end is none.
            let parts: Vec<&str> = line.split('`').collect();
            let text = |(index, part): (usize, &&str)| match index % 2 {
                0 => (*part).to_owned(),
                _ => "x".repeat(part.len()),
            };
            lines.push(parts.iter().enumerate().map(text).collect());
        }
    }
    lines
}

/// Where its links lead.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(page) {
        for (index, _) in line.match_indices("](") {
            let rest = &line[index + 2..];
            let end = rest.find([')', ' ']).unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

/// The names of its headings, as GitHub and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut is_code = false;
    for line in page.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if is_code || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let mut name = String::new();
        for character in without_links(heading.trim()).chars() {
            match character {
                ' ' => name.push('-'),
                '-' | '_' => name.push(character),
                _ if character.is_alphanumeric() => name.extend(character.to_lowercase()),
                _ => {}
            }
        }
        let mut unique = name.clone();
        for number in 1.. {
            if anchors.insert(unique) {
                break;
            }
            unique = format!("{name}-{number}");
        }
    }
    anchors
}

/// A heading as it is shown.
fn without_links(heading: &str) -> String {
    let mut text = heading.to_owned();
    while let Some(middle) = text.find("](")
        && let Some(begin) = text[..middle].rfind('[')
        && let Some(end) = text[middle..].find(')')
    {
        let shown = text[begin + 1..middle].to_owned();
        text.replace_range(begin..=middle + end, &shown);
    }
    text
}

/// `docs/../config` is `config`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads outside", path.display()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

/// The need: no reader ends at nothing, neither on a page that was moved nor at a heading that is called otherwise now.
#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut followed = 0;
    for (page, text) in &pages {
        for link in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = if target.is_empty() {
                page.clone()
            } else {
                plain(&page.parent().unwrap().join(target))
            };
            let shown = page.display();
            assert!(root().join(&path).exists(), "{shown}: {link}");
            if !anchor.is_empty() {
                let there = pages.get(&path).unwrap_or_else(|| {
                    panic!("{shown}: {link} names a heading of what is no page")
                });
                assert!(anchors(there).contains(anchor), "{shown}: {link}");
            }
            followed += 1;
        }
    }
    assert!(followed > 100, "{followed}");
}

#[test]
fn the_checks_find_what_is_wrong() {
    let page = "# A page: `code`, and [more](x.md)\n\n## A page: `code`, and [more](x.md)\n\n```\n[no](link.md)\n# no heading\n```\n`[no](link.md)` [yes](a.md#b-c) ![picture](a.png)\n";
    let names = ["a-page-code-and-more", "a-page-code-and-more-1"];
    assert_eq!(anchors(page), names.map(str::to_owned).into());
    assert_eq!(links(page), ["x.md", "x.md", "a.md#b-c", "a.png"]);
}

/// The table of contents names every page of `docs`, once, and all that it names is there.
#[test]
fn the_table_of_contents_is_whole() {
    let pages = pages();
    let summary = Path::new("docs/SUMMARY.md");
    let mut named = Vec::new();
    for link in links(&pages[summary]) {
        named.push(plain(&Path::new("docs").join(link)));
    }
    let once: BTreeSet<&PathBuf> = named.iter().collect();
    assert_eq!(once.len(), named.len(), "a page is there twice: {named:?}");
    for page in pages.keys() {
        let is_page = page.starts_with("docs") && page != summary;
        assert!(
            !is_page || once.contains(page),
            "docs/SUMMARY.md does not name {}",
            page.display()
        );
    }
    for page in once {
        assert!(pages.contains_key(page), "{} is no page", page.display());
    }
}
