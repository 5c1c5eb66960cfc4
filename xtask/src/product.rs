//! Builds the product itself: `lb`, as it is shipped.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::shell;

/// The release build of `lb`, brought up to date.
pub(crate) fn build_lb() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(shell::root()).args(["build", "--release", "--package", "lb-userspace"]);
    shell::run(&mut cargo)?;
    Ok(target_dir().join("release/lb"))
}

pub(crate) fn target_dir() -> PathBuf {
    let chosen = env::var_os("CARGO_TARGET_DIR");
    shell::root().join(chosen.as_deref().map_or(Path::new("target"), Path::new))
}
