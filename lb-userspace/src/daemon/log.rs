//! Logging: to standard error, as text or JSON lines, and the program's own rare messages.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tokio::io::unix::AsyncFd;
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;
use crate::dataplane::load::Loaded;

/// Starts logging. `-v` shows more; `RUST_LOG` overrides it.
pub(super) fn start(format: LogFormat, verbosity: u8) {
    let level = match verbosity {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let ours = format!("warn,lb_userspace={level},holdfast={level}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(ours));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second start in one process keeps the first one's.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Writes what the program logs (dropped packets, when asked for by `-vv`) to the same log.
pub(super) fn follow_program(loaded: &mut Loaded) -> Result<()> {
    // Through the `log` crate, which `tracing` listens to as well.
    let logger =
        aya_log::EbpfLogger::init(loaded.ebpf()).context("cannot read the program's log")?;
    // SAFETY: the logger owns its ring buffer's descriptor for as long as it lives, and the
    // `AsyncFd` keeps it.
    let logger = unsafe { AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) };
    let mut logger = logger.context("cannot read the program's log")?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
