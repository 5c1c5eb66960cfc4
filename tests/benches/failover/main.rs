//! `cargo xtask bench failover`: from a failure to the last admission word written.
//!
//! - `decision`: the daemon's own control code over the maps of a loaded program is handed the probe results that take
//!   down one server of many services, and writes a word for each.
//! - `detection`: `lb run` in a lab beside HAProxy, from a server's failure until it is found, until it gets no more
//!   connections, and until clients notice nothing.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

mod decision;
mod detection;

use std::process::ExitCode;

use lb_tests::bench;

fn main() -> ExitCode {
    bench::main(|options| {
        // The first moves this thread out of all networks.
        detection::run(options)?;
        decision::run(options);
        Ok(())
    })
}
