//! The LLVM that bpf-linker is linked with: it must be the one of the compiler whose bitcode it reads.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use super::{apt, linker};
use crate::shell::{capture, find_program};

/// `llvm-config` of this major version, installed if it is missing.
pub(crate) fn ensure(major: u32) -> Result<PathBuf> {
    if !linker::supports(major) {
        bail!(
            "the compiler has LLVM {major}, and bpf-linker {} works with {:?}",
            linker::VERSION,
            linker::LLVM
        );
    }
    if let Some(path) = find(major) {
        return Ok(path);
    }
    apt::install(
        &[&format!("llvm-{major}-dev")],
        &format!("bpf-linker is built on the LLVM that the compiler has, and that is {major}"),
    )?;
    match find(major) {
        Some(path) => Ok(path),
        None => bail!("llvm-{major}-dev is installed, but there is no llvm-config of LLVM {major}"),
    }
}

pub(crate) fn find(major: u32) -> Option<PathBuf> {
    let packaged = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-config"));
    // Debian, Fedora and Arch name it differently; the plain name may be any version.
    let names =
        [format!("llvm-config-{major}"), format!("llvm{major}-config"), "llvm-config".into()];
    [packaged].into_iter().chain(names.iter().filter_map(|name| find_program(name))).find(|path| {
        let version = capture(Command::new(path).arg("--version")).unwrap_or_default();
        version.split('.').next() == Some(&major.to_string())
    })
}
