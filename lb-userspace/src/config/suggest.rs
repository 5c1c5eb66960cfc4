//! "Did you mean …?": the nearest of a few names.

/// The candidate nearest to `wrong`, if one is near enough to be a slip of the fingers.
#[must_use]
pub fn closest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no slip, and the distance costs the product of the lengths.
    if wrong.is_empty() || wrong.len() > 64 {
        return None;
    }
    let allowed = (wrong.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| (distance(&wrong.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a, b or c`, at most ten of them.
#[must_use]
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = names.into_iter().collect();
    match names.as_slice() {
        [] => "none".into(),
        [one] => (*one).into(),
        [first @ .., last] if names.len() <= SHOWN => format!("{} or {last}", first.join(", ")),
        many => format!(
            "{} and {} more",
            many.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "),
            many.len() - SHOWN
        ),
    }
}

/// Levenshtein's distance, with a swap of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        let keys = ["interval", "timeout", "rise", "fall"];
        for (wrong, right) in [
            ("intervall", Some("interval")),
            ("timeuot", Some("timeout")),
            ("Rise", Some("rise")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(closest(wrong, keys), right, "{wrong}");
        }
    }

    #[test]
    fn capitals_are_no_slip() {
        assert_eq!(closest("gte", ["GET", "HEAD"]), Some("GET"));
    }

    #[test]
    fn lists_names() {
        assert_eq!(one_of([]), "none");
        assert_eq!(one_of(["a"]), "a");
        assert_eq!(one_of(["a", "b", "c"]), "a, b or c");
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert!(one_of(many.iter().map(String::as_str)).ends_with("9 and 2 more"));
    }
}
