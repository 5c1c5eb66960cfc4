//! The counters of `lb decap`.

use super::WIDTH;
use super::format::{count, wrap};
use crate::config::model::Prefix;
use crate::report::Decap;

/// Every end that was met, and what it means.
pub(crate) fn decap(counters: &Decap) -> String {
    let Decap { interfaces, from, gue_port, verdicts } = counters;
    let interfaces: Vec<_> =
        interfaces.iter().map(|one| format!("{} ({} XDP)", one.name, one.xdp)).collect();
    let from: Vec<String> = from.iter().map(Prefix::to_string).collect();
    let head =
        format!("on {}, from {}, GUE port {gue_port}", interfaces.join(", "), from.join(", "));
    let mut out = wrap(&head, "", "  ", WIDTH);
    let mut met = verdicts.iter().filter(|verdict| verdict.count > 0).peekable();
    if met.peek().is_none() {
        out.push_str("no packets\n");
    }
    for verdict in met {
        let text = format!("{}: {}", verdict.name, verdict.help);
        out.push_str(&wrap(&text, &format!("{:>7}  ", count(verdict.count)), "         ", WIDTH));
    }
    out
}

#[cfg(test)]
mod tests {
    use lb_common::verdict::Verdict;

    use super::*;
    use crate::report::{Interface, NamedCount};

    #[test]
    fn what_was_met_is_shown() {
        let mut counters = Decap {
            interfaces: vec![Interface { name: "eth0".into(), index: 2, xdp: "native".into() }],
            from: vec!["10.0.0.2".parse().unwrap(), "fd00::/64".parse().unwrap()],
            gue_port: 6080,
            verdicts: [(Verdict::PassDecapsulated, 1204), (Verdict::PassNoTunnel, 0)]
                .map(|(verdict, count)| NamedCount::of_verdict(verdict, count))
                .into(),
        };
        assert_eq!(
            decap(&counters),
            "on eth0 (native XDP), from 10.0.0.2, fd00::/64, GUE port 6080\n  1,204  \
             pass-decapsulated: Taken out of its tunnel and given to the kernel (`lb decap`).\n"
        );
        counters.verdicts.clear();
        assert!(decap(&counters).ends_with("\nno packets\n"));
    }
}
