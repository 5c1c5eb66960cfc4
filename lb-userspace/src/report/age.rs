//! How long ago something was, as people say it.

/// `31d`, `4m`, `12s`.
#[must_use]
pub fn age(ms: u64) -> String {
    parts(ms).next().unwrap_or_else(|| "0s".into())
}

/// `4m 12s`, `1h 2m`.
#[must_use]
pub fn long_age(ms: u64) -> String {
    let mut parts = parts(ms);
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => format!("{first} {second}"),
        (Some(first), None) => first,
        _ => "0s".into(),
    }
}

fn parts(ms: u64) -> impl Iterator<Item = String> {
    let s = ms / 1000;
    [(s / 86_400, "d"), (s / 3600 % 24, "h"), (s / 60 % 60, "m"), (s % 60, "s")]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_at_a_glance() {
        for (ms, short, long) in [
            (0, "0s", "0s"),
            (999, "0s", "0s"),
            (12_000, "12s", "12s"),
            (252_000, "4m", "4m 12s"),
            (3_600_000, "1h", "1h"),
            (31 * 86_400_000, "31d", "31d"),
            (90_061_000, "1d", "1d 1h"),
        ] {
            assert_eq!((age(ms).as_str(), long_age(ms).as_str()), (short, long));
        }
    }
}
