//! Numbers, times and sentences as an operator reads them.

use crate::cli::output::safe;

/// `1,204`, `81.2 k`, `46 M`: exact up to four digits, then three of them.
pub(super) fn count(n: u64) -> String {
    if n < 10_000 {
        let (thousands, rest) = (n / 1000, n % 1000);
        return if thousands > 0 { format!("{thousands},{rest:03}") } else { rest.to_string() };
    }
    let mut scaled = n as f64;
    let mut unit = ' ';
    for next in ['k', 'M', 'G', 'T', 'P', 'E'] {
        scaled /= 1000.0;
        unit = next;
        // 999.5 would print as 1000.
        if scaled < 999.5 {
            break;
        }
    }
    let digits = match scaled {
        _ if scaled >= 99.95 => format!("{scaled:.0}"),
        _ if scaled >= 9.995 => format!("{scaled:.1}"),
        _ => format!("{scaled:.2}"),
    };
    let digits = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        &digits
    };
    format!("{digits} {unit}")
}

/// `50 %`; what is more than nothing never reads as nothing.
pub(super) fn percent(share: f64) -> String {
    let percent = (share * 100.0).clamp(0.0, 100.0);
    if percent > 0.0 && percent < 0.5 { "<1 %".into() } else { format!("{percent:.0} %") }
}

/// One line without control characters.
pub(super) fn safe_line(text: &str) -> String {
    safe(text).replace('\n', " ")
}

/// A sentence broken between words; what has no spaces is broken where it must be.
pub(super) fn wrap(text: &str, first: &str, rest: &str, width: usize) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut at_start = true;
    for word in safe_line(text).split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let gap = usize::from(!at_start);
            let free = width.saturating_sub(line.chars().count() + gap);
            if word.len() <= free {
                break;
            }
            let longest = width.saturating_sub(rest.chars().count()).max(1);
            if at_start || word.len() > longest {
                let cut = free.clamp(1, word.len());
                line.extend(" ".repeat(gap).chars().chain(word.drain(..cut)));
            }
            out.push_str(line.trim_end());
            out.push('\n');
            line = rest.to_owned();
            at_start = true;
        }
        if !at_start {
            line.push(' ');
        }
        line.extend(word);
        at_start = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_at_a_glance() {
        for (n, text) in [
            (0, "0"),
            (602, "602"),
            (1_204, "1,204"),
            (1_004, "1,004"),
            (9_999, "9,999"),
            (10_000, "10 k"),
            (81_234, "81.2 k"),
            (812_345, "812 k"),
            (999_999, "1 M"),
            (46_000_000, "46 M"),
            (1_230_000_000, "1.23 G"),
            (u64::MAX, "18.4 E"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn shares_never_hide_traffic() {
        let shares = [0.0, 0.001, 0.333, 0.5, 1.0, f64::NAN, -1.0, 7.0].map(percent);
        assert_eq!(shares[..5], ["0 %", "<1 %", "33 %", "50 %", "100 %"]);
    }

    #[test]
    fn sentences_wrap() {
        assert_eq!(wrap("a bb ccc", "! ", "  ", 6), "! a bb\n  ccc\n");
        assert_eq!(wrap("abcdefghij", "! ", "  ", 6), "! abcd\n  efgh\n  ij\n");
        assert_eq!(wrap("a abcdefghij", "! ", "  ", 6), "! a ab\n  cdef\n  ghij\n");
        assert_eq!(wrap("", "! ", "  ", 6), "!\n");
        assert_eq!(wrap("x\u{1b}[2J\ny", "", "", 20), "x\u{fffd}[2J y\n");
    }
}
