//! The block list as a table.

use super::WIDTH;
use super::table::Table;
use crate::report::{Block, age};

/// Who is blocked; `now_ms` is since the epoch.
pub(crate) fn blocks(blocks: &[Block], now_ms: u64) -> String {
    if blocks.is_empty() {
        return "nobody is blocked\n".into();
    }
    let mut table = Table::new(&["PREFIX", "REASON", "BY", "AGE", "EXPIRES"], &[1, 2]);
    for block in blocks {
        let ends = |until: u64| format!("in {}", age(until.saturating_sub(now_ms)));
        table.row([
            block.prefix.to_string(),
            block.reason.clone().unwrap_or_else(|| "-".into()),
            block.actor.clone(),
            age(now_ms.saturating_sub(block.since_ms)),
            block.until_ms.map_or_else(|| "never".into(), ends),
        ]);
    }
    table.render(WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_who_why_and_until_when() {
        assert_eq!(blocks(&[], 0), "nobody is blocked\n");
        let block = |prefix: &str, reason: Option<&str>, until_ms| Block {
            prefix: prefix.parse().unwrap(),
            reason: reason.map(Into::into),
            actor: "uid 0".into(),
            since_ms: 1_000,
            until_ms,
        };
        let all = [
            block("198.51.100.0/24", Some("scans port 22"), Some(3_661_000)),
            block("2001:db8::7", None, None),
        ];
        let expect = "\
PREFIX           REASON         BY     AGE  EXPIRES
198.51.100.0/24  scans port 22  uid 0  1m   in 1h
2001:db8::7      -              uid 0  1m   never
";
        assert_eq!(blocks(&all, 61_000), expect);
    }
}
