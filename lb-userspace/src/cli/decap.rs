//! `lb decap`: what it is told, and how its counters look.

use super::args::DecapArgs;
use super::output::{Failed, print, warn};
use super::text;
use crate::daemon::decap::{self, DecapOptions};
use crate::report::{Decap, Error, ErrorKind};

pub(crate) fn run(args: DecapArgs, json: bool) -> Result<(), Failed> {
    if args.from.is_empty() {
        let message = "--from is missing: whoever may send tunnels can send as any client, so \
                       say who may";
        let hint = "name the balancers' tunnel sources, such as --from 10.0.0.2,10.0.0.3 or \
                    --from 10.9.0.0/16";
        return Err(Failed::bad_input(Error::new(ErrorKind::Invalid, message, hint)));
    }
    for prefix in args.from.iter().filter(|prefix| prefix.length == 0) {
        warn(&format!(
            "--from {prefix} takes tunnels from anyone, who can then send as any client"
        ));
    }
    let options = DecapOptions {
        interface: args.interface,
        from: args.from,
        gue_port: args.gue_port,
        xdp: args.xdp,
        log_format: args.log_format,
    };
    decap::run(&options, |counters| show(counters, json)).map_err(Failed::from_anyhow)
}

/// Nobody there to read is no reason to stop.
fn show(counters: &Decap, json: bool) {
    let text = if json {
        // One line each: there may be several.
        serde_json::to_string(counters).unwrap_or_default() + "\n"
    } else {
        text::decap(counters)
    };
    let _ = print(&text);
}
