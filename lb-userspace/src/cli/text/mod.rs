//! Reports as text for a person, never wider than a given width.
//!
//! Pure: a report in, a string out. Lines that begin with `!` or `ok` are coloured by [`paint`].

mod alerts;
mod blocks;
mod decap;
mod format;
mod status;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use alerts::{alert_tests, alerts};
pub(crate) use blocks::blocks;
pub(crate) use decap::decap;
pub(crate) use status::{Since, backends, notes, services, status};

use crate::report::{Changed, Explanation};
use format::{safe_line, wrap};

/// Wide enough for the tables, and for most terminals.
pub(crate) const WIDTH: usize = 100;

/// What was changed, and the revision in force: a drain makes no new one.
pub(crate) fn changed(changed: &Changed, dry_run: bool) -> String {
    if changed.changes.is_empty() {
        return format!("nothing to change; revision {}\n", changed.revision);
    }
    let mut out = String::new();
    for change in &changed.changes {
        out.push_str(&wrap(change, "", "    ", WIDTH));
    }
    let state = if dry_run { "not applied; still at revision" } else { "revision" };
    out.push_str(&format!("{state} {}\n", changed.revision));
    out
}

/// Where a flow goes, first of all.
pub(crate) fn explanation(explanation: &Explanation) -> String {
    let service = explanation.service.as_deref();
    let full = |backend: &str| match service {
        Some(service) => format!("{service}/{backend}"),
        None => backend.to_owned(),
    };
    let mut out = match &explanation.backend {
        Some(backend) => format!("goes to {}\n", safe_line(&full(backend))),
        None => format!("goes to no backend: {}\n", safe_line(&explanation.verdict)),
    };
    if let Some(existing) = &explanation.existing_backend
        && explanation.existing_backend != explanation.backend
    {
        out.push_str(&format!("an existing flow stays with {}\n", safe_line(&full(existing))));
    }
    let slot = explanation.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    out.push_str(&format!("hash {}{slot}\n", safe_line(&explanation.hash)));
    for (number, step) in explanation.steps.iter().enumerate() {
        out.push_str(&wrap(step, &format!("{:>3}. ", number + 1), "     ", WIDTH));
    }
    out
}

/// Colour for a terminal: what is wrong in red, all's well in green.
pub(crate) fn paint(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches('\n');
        let colour = match body {
            _ if body.starts_with("! ") => "1;31",
            _ if body.starts_with("ok ") => "32",
            _ => {
                out.push_str(line);
                continue;
            }
        };
        out.push_str(&format!("\u{1b}[{colour}m{body}\u{1b}[0m\n"));
    }
    out
}
