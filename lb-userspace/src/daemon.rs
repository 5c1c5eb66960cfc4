//! The daemon behind `lb run`.

use crate::cli::run::RunOptions;

/// Balances until stopped.
pub fn run(options: RunOptions) -> anyhow::Result<()> {
    let RunOptions { socket, .. } = options;
    anyhow::bail!("this build has no daemon to serve {}", socket.display())
}
