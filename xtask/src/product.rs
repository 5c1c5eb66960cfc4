//! Builds the product itself: `lb`, as it is shipped.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::shell;

/// The release build of `lb`, brought up to date.
pub(crate) fn build_lb() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(shell::root()).args(["build", "--release", "--package", "lb-userspace"]);
    shell::run(&mut cargo)?;
    Ok(target_dir().join("release/lb"))
}

/// The target that host programs are built for.
pub(crate) fn host_triple() -> Result<String> {
    let version = shell::capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not say which target it builds for")
}

pub(crate) fn target_dir() -> PathBuf {
    let chosen = env::var_os("CARGO_TARGET_DIR");
    shell::root().join(chosen.as_deref().map_or(Path::new("target"), Path::new))
}
