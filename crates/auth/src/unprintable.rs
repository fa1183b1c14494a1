//! Characters that do not show as themselves: a name that holds one reads like another name, or reorders the log line
//! that it stands in.

/// Control characters, and those that hide text, reorder it, or begin a new line.
pub(crate) fn is_unprintable(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || UNPRINTABLE
            .binary_search_by(|&(first, last)| {
                if last < c {
                    std::cmp::Ordering::Less
                } else if first > c {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
}

/// Unicode 16's general categories Cf (format), Zl and Zp (line and paragraph separator), in ascending order. Where the
/// standard keeps the places between for more of the kind (U+2065, the block of the tags), they are in as well.
const UNPRINTABLE: [(char, char); 19] = [
    // Soft hyphen.
    ('\u{ad}', '\u{ad}'),
    // Arabic and Syriac: number signs, letter mark, end of verse, abbreviation.
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    // Mongolian vowel separator.
    ('\u{180e}', '\u{180e}'),
    // Zero width space and joiners, marks of direction.
    ('\u{200b}', '\u{200f}'),
    // Line and paragraph separator, embedding and override of direction.
    ('\u{2028}', '\u{202e}'),
    // Word joiner, invisible operators, isolates of direction, old format characters.
    ('\u{2060}', '\u{206f}'),
    // Byte order mark.
    ('\u{feff}', '\u{feff}'),
    // Interlinear annotation.
    ('\u{fff9}', '\u{fffb}'),
    // Kaithi number signs.
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    // Egyptian hieroglyphs: how they are joined.
    ('\u{13430}', '\u{1343f}'),
    // Shorthand and music.
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    // Tags: a whole alphabet that nobody sees.
    ('\u{e0000}', '\u{e007f}'),
];

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Against another table of the same standard: every character there is.
    #[test]
    fn the_table_is_that_of_unicode() {
        let listed = Regex::new(r"^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]$").unwrap();
        let kept_free = Regex::new(r"^[\u{2065}\u{E0000}-\u{E007F}&&\p{Cn}]$").unwrap();
        let mut text = String::new();
        for c in '\0'..=char::MAX {
            text.clear();
            text.push(c);
            let expected = listed.is_match(&text) || kept_free.is_match(&text);
            assert_eq!(is_unprintable(c), expected, "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn the_table_is_in_order() {
        let ends: Vec<char> = UNPRINTABLE
            .iter()
            .flat_map(|&(first, last)| [first, last])
            .collect();
        assert!(ends.is_sorted());
    }

    /// Each of these can make one name look like another.
    #[test]
    fn what_hides_is_unprintable() {
        for c in "\0\t\r\n\u{7f}\u{85}\u{ad}\u{61c}\u{180e}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2064}\u{2066}\u{206f}\u{feff}\u{fffb}\u{1d173}\u{e0001}\u{e0041}\u{e007f}".chars() {
            assert!(is_unprintable(c), "U+{:04X}", u32::from(c));
        }
        for c in " ~äßñ漢字नאع\u{1f600}\u{301}".chars() {
            assert!(!is_unprintable(c), "U+{:04X}", u32::from(c));
        }
    }
}
