//! The process behind `lb decap`: attaches the decapsulator, and takes it off again when told to.
//!
//! There is nothing to control meanwhile: what it does follows from its arguments alone.

use anyhow::{Context, Result};
use lb_common::decap::VERDICTS;
use tokio::signal::unix::{SignalKind, signal};

use super::log;
use crate::cli::LogFormat;
use crate::config::model::{Prefix, XdpPolicy};
use crate::dataplane::attach::Attached;
use crate::dataplane::decap::Decapsulator;
use crate::net;
use crate::report::{Decap, Interface, NamedCount};

/// What `lb decap` was told.
#[derive(Clone, Debug)]
pub struct DecapOptions {
    pub interface: String,
    /// Sources that may send tunnels.
    pub from: Vec<Prefix>,
    pub gue_port: u16,
    pub xdp: XdpPolicy,
    pub log_format: LogFormat,
}

/// Decapsulates until SIGTERM or SIGINT, then leaves the interfaces as they were. The counters are
/// shown at the end, and at each SIGUSR1.
pub fn run(options: &DecapOptions, show: impl FnMut(&Decap)) -> Result<()> {
    log::start(options.log_format, 0);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(serve(options, show))
}

async fn serve(options: &DecapOptions, mut show: impl FnMut(&Decap)) -> Result<()> {
    let take = |kind| signal(kind).context("cannot take signals");
    let mut terminate = take(SignalKind::terminate())?;
    let mut interrupt = take(SignalKind::interrupt())?;
    let mut asked = take(SignalKind::user_defined1())?;

    // Several: those of a bond.
    let links = net::devices(std::slice::from_ref(&options.interface)).await?;
    let mut program = Decapsulator::load(&options.from, options.gue_port)?;
    let mut attached = Vec::new();
    for link in &links {
        // Where one can't be had, the others end with the process.
        let one = Attached::new(program.program()?, &link.name, link.ifindex, options.xdp)?;
        tracing::info!(interface = %one.interface, mode = %one.mode, "attached");
        attached.push(one);
    }
    let from: Vec<String> = options.from.iter().map(Prefix::to_string).collect();
    tracing::info!(
        from = from.join(","),
        gue_port = options.gue_port,
        instructions = program.verified_instructions,
        "decapsulating"
    );
    let interfaces: Vec<_> = attached
        .iter()
        .map(|one| Interface {
            name: one.interface.clone(),
            index: one.index,
            xdp: one.mode.to_string(),
        })
        .collect();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = asked.recv() => show(&report(&program, &interfaces, options)),
        }
    }
    // First: then nothing is counted any more.
    drop(attached);
    show(&report(&program, &interfaces, options));
    tracing::info!("detached; stopped");
    Ok(())
}

fn report(program: &Decapsulator, interfaces: &[Interface], options: &DecapOptions) -> Decap {
    let count = |&verdict| NamedCount::of_verdict(verdict, program.verdicts(verdict));
    Decap {
        interfaces: interfaces.to_vec(),
        from: options.from.clone(),
        gue_port: options.gue_port,
        verdicts: VERDICTS.iter().map(count).collect(),
    }
}
