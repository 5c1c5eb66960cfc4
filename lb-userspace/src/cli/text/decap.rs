//! The counters of `lb decap`.

use super::WIDTH;
use super::format::{count, wrap};
use super::table::Table;
use crate::config::model::Prefix;
use crate::report::Decap;

/// Every end that was met, and what each means.
pub(crate) fn decap(counters: &Decap) -> String {
    let Decap { interface, from, gue_port, verdicts } = counters;
    let from: Vec<String> = from.iter().map(Prefix::to_string).collect();
    let head = format!(
        "on {} ({} XDP), from {}, GUE port {gue_port}",
        interface.name,
        interface.xdp,
        from.join(", ")
    );
    let mut out = wrap(&head, "", "  ", WIDTH);
    let mut table = Table::new(&["PACKETS", "VERDICT", "MEANING"], &[2]);
    let mut any = false;
    for verdict in verdicts.iter().filter(|verdict| verdict.count > 0) {
        any = true;
        table.row([count(verdict.count), verdict.name.clone(), verdict.help.clone()]);
    }
    out.push_str(&if any { table.render(WIDTH) } else { "no packets\n".into() });
    out
}
