//! Every rule a configuration must keep, whether it came from a file, the API or an option.
//!
//! Rules look at values only; they never touch the machine, so `lb check` works anywhere.

mod across;
mod address;
mod alert;
mod backend;
mod failover;
mod features;
mod health;
mod node;
mod overlap;
mod own;
mod probe;
mod service;
mod sizes;

use super::model::Config;
use super::place::{Gaps, Place, Problem};

/// All problems of a configuration; none of them follows from a value in `gaps`.
pub(crate) fn check(config: &Config, gaps: &Gaps) -> Vec<Problem> {
    let mut problems = Vec::new();
    node::check(&config.node, &mut problems);
    alert::check(&config.alerts, &mut problems);
    for (s, service) in config.services.iter().enumerate() {
        service::check(s, service, gaps, &mut problems);
        health::check(s, service, gaps, &mut problems);
    }
    across::check(config, gaps, &mut problems);
    overlap::check(config, &mut problems);
    own::check(config, gaps, &mut problems);
    sizes::check(config, &mut problems);
    problems
}

const LONGEST_NAME: usize = 63;

/// Letters, digits and inner dots, dashes and underscores: safe in paths, metrics and commands.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    name.len() <= LONGEST_NAME
        && ends.iter().all(|end| end.is_some_and(|byte| alphanumeric(*byte)))
        && bytes.iter().all(|byte| alphanumeric(*byte) || b"._-".contains(byte))
}

fn name(place: Place, name: &str, problems: &mut Vec<Problem>) {
    if is_name(name) {
        return;
    }
    let message = if name.is_empty() {
        "the name is empty".to_owned()
    } else if name.len() > LONGEST_NAME {
        format!("the name has {} bytes, more than {LONGEST_NAME}", name.len())
    } else {
        format!("'{}' can't be a name", name.escape_debug())
    };
    problems.push(Problem::new(
        place,
        message,
        "use up to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit",
    ));
}
