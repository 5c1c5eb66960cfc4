//! The compiler for the eBPF target: rustc, its cargo, and the source of `core`, which has no prebuilt form there.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{apt, linker, step};
use crate::shell::{capture, find_program};

#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Source of the standard library, where it is installed.
    pub(crate) source: Option<PathBuf>,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (LLVM {})", self.rustc.display(), self.release, self.llvm)
    }
}

impl Compiler {
    fn at(bin: &Path) -> Result<Self> {
        let rustc = bin.join("rustc");
        let cargo = bin.join("cargo");
        if !rustc.is_file() || !cargo.is_file() {
            bail!("{} has no rustc and cargo", bin.display());
        }
        let version = capture(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ").unwrap_or("unknown").to_owned();
        let llvm = field("LLVM version: ")
            .and_then(major)
            .with_context(|| format!("{} does not say which LLVM it has", rustc.display()))?;
        let sysroot = capture(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
        let source = source.join("core/src/lib.rs").is_file().then_some(source);
        Ok(Self { rustc, cargo, release, llvm, source })
    }
}

/// The compiler that runs when the user says `cargo`.
pub(crate) fn peek_active() -> Result<Compiler> {
    // rustup's proxy answers for the toolchain; the toolchain's own binary is what the build script calls.
    let sysroot = capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    Compiler::at(&Path::new(&sysroot).join("bin"))
}

/// The active compiler, if its `core` source is there.
pub(crate) fn active() -> Result<Compiler> {
    with_source(peek_active()?)
}

/// Debian's compiler for building browsers, if it is there: recent, packaged with its source and its LLVM.
pub(crate) fn distribution() -> Result<Compiler> {
    let compiler = with_source(Compiler::at(Path::new("/usr/bin"))?)?;
    if !linker::supports(compiler.llvm) {
        bail!("{compiler} is too old: bpf-linker works with LLVM {:?}", linker::LLVM);
    }
    Ok(compiler)
}

/// The active compiler, with `rust-src` added by rustup.
pub(crate) fn add_source() -> Result<Compiler> {
    if find_program("rustup").is_none() {
        bail!("there is no rustup to add rust-src with");
    }
    step(
        "adding the component rust-src to the active toolchain",
        "the eBPF target has no prebuilt `core`; it is compiled from source",
    );
    capture(
        Command::new("rustup").args(["component", "add", "rust-src"]).env("RUST_BACKTRACE", "0"),
    )
    .inspect_err(|_| {
        eprintln!("    rustup cannot add it here; next: the distribution's compiler");
    })?;
    active()
}

/// The distribution's compiler and source, installed.
pub(crate) fn add_distribution() -> Result<Compiler> {
    apt::install(
        &["rustc-web", "cargo-web", "rust-web-src"],
        "the distribution's matched compiler and source of `core`, as the active toolchain has none",
    )?;
    distribution()
}

fn with_source(compiler: Compiler) -> Result<Compiler> {
    match compiler.source {
        Some(_) => Ok(compiler),
        None => bail!("{compiler} has no source of `core` (component rust-src)"),
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn major_version_of_llvm() {
        assert_eq!(major("22.1.2"), Some(22));
        assert_eq!(major("23"), Some(23));
        assert_eq!(major("unknown"), None);
    }
}
