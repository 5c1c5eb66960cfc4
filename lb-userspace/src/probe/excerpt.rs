//! What a server said, short and harmless enough for a line of text.

const LONGEST: usize = 80;

/// The beginning of it in quotes; control characters and the like are escaped.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    // A character has at most four bytes; the last one may be cut.
    let some = bytes.get(..4 * LONGEST + 4).unwrap_or(bytes);
    let text = String::from_utf8_lossy(some);
    let mut shown = String::new();
    let mut characters = text.chars();
    for character in characters.by_ref() {
        let escaped = character.escape_debug();
        if shown.chars().count() + escaped.len() > LONGEST {
            return format!("\"{shown}…\"");
        }
        shown.extend(escaped);
    }
    let dots = if some.len() < bytes.len() { "…" } else { "" };
    format!("\"{shown}{dots}\"")
}

/// The first line that says anything.
pub(super) fn first_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let clean: String = line.chars().filter(|c| !c.is_control()).take(2 * LONGEST).collect();
    Some(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_the_beginning() {
        assert_eq!(excerpt(b""), "\"\"");
        assert_eq!(excerpt(b"ok\n\x1b[31m\"\xff"), r#""ok\n\u{1b}[31m\"�""#);
        let long = excerpt(&[b'x'; 1000]);
        assert_eq!(long.chars().count(), LONGEST + 3);
        assert_eq!(first_line(b"\n\n  disk full\r\nmore"), Some("disk full".into()));
        assert_eq!(first_line(b" \n"), None);
    }

    proptest! {
        #[test]
        fn is_bounded_and_one_line(bytes: Vec<u8>) {
            let shown = excerpt(&bytes);
            prop_assert!(shown.chars().count() <= LONGEST + 3);
            prop_assert!(!shown.contains(char::is_control));
            let line = first_line(&bytes).unwrap_or_default();
            prop_assert!(!line.contains(char::is_control));
        }
    }
}
