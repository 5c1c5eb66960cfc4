//! `cargo xtask bench failover`: from a failure to the last admission word written.
//!
//! - `decision`: the daemon's own control code over the maps of a loaded program is handed the probe results that take
//!   down one server of many services, and writes a word for each.
//! - `detection`: `lb run` in a lab, with one service; from the failure to the word, by the clock.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

mod decision;
mod detection;

use lb_tests::bench::Options;

fn main() {
    let options = Options::from_command_line();
    decision::run(&options);
    detection::run(&options);
}
