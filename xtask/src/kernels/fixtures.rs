//! The packet fixtures as one program that needs no library: the guest has none.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{product, shell};

/// Slow in the emulator unless optimized; all else is compiled as fast as can be.
const OPTIMIZED: [&str; 4] = ["lb-common", "lb-userspace", "lb-tests", "bytemuck"];

/// Builds it in a directory of its own, as its flags are its own.
pub(super) fn build(directory: &Path) -> Result<PathBuf> {
    eprintln!("==> building the packet fixtures as a static program");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(shell::root())
        .args(["test", "--package", "lb-tests", "--test", "dataplane", "--no-run"])
        // With a target named, the flags are not those of build scripts and macros, which must load libraries.
        .args(["--target", &product::host_triple()?, "--target-dir"])
        .arg(directory)
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--config", "profile.dev.debug=0", "--config", "profile.dev.strip=true"])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    for package in OPTIMIZED {
        cargo.args(["--config", &format!("profile.dev.package.{package}.opt-level=2")]);
    }
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the packet fixtures did not compile; the compiler's messages are above");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages).context("cargo built the packet fixtures, but did not say where they are")
}

/// The test program's path among cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages.into_iter().find_map(|message: serde_json::Value| {
        let ours = message["target"]["name"] == "dataplane";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::executable;

    #[test]
    fn cargo_says_where_the_program_is() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"lb"},"executable":"/a/lb"}
{"reason":"compiler-artifact","target":{"name":"dataplane"},"executable":"/a/dataplane-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages).as_deref(), Some(Path::new("/a/dataplane-1")));
        assert_eq!(executable("not json"), None);
    }
}
