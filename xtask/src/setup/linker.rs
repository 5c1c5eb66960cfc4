//! bpf-linker: links the compiler's bitcode into one BPF object. Built by cargo into `target/tools`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{step, tools_dir};
use crate::shell::{capture, run};

pub(crate) const VERSION: &str = "0.13.0";
/// The LLVM versions it can be built with.
pub(crate) const LLVM: [u32; 3] = [21, 22, 23];

pub(crate) fn supports(llvm: u32) -> bool {
    LLVM.contains(&llvm)
}

pub(crate) fn ensure(llvm: u32, llvm_config: &Path) -> Result<PathBuf> {
    let binary = tools_dir().join("bin/bpf-linker");
    if installed(llvm) {
        return Ok(binary);
    }
    step(
        &format!(
            "building bpf-linker {VERSION} for LLVM {llvm} into target/tools (about a minute)"
        ),
        "it turns the compiler's output into an object that the kernel loads",
    );
    let bin = llvm_config.parent().context("llvm-config has no directory")?;
    let path = env::join_paths(
        [bin.to_owned()]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    run(Command::new("cargo")
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--force", "--root"])
        .arg(tools_dir())
        .env("CARGO_TARGET_DIR", tools_dir().join("build"))
        .env("PATH", path))
    .with_context(|| format!("bpf-linker {VERSION} could not be built"))?;
    Ok(binary)
}

/// The right version, built with this LLVM, and it starts (its LLVM library may have been removed since).
pub(crate) fn installed(llvm: u32) -> bool {
    let record = fs::read_to_string(tools_dir().join(".crates2.json")).unwrap_or_default();
    let starts =
        || capture(Command::new(tools_dir().join("bin/bpf-linker")).arg("--version")).is_ok();
    is_recorded(&record, llvm) && starts()
}

/// Whether cargo's record of what it installed names this version and feature.
fn is_recorded(record: &str, llvm: u32) -> bool {
    let record: serde_json::Value = serde_json::from_str(record).unwrap_or_default();
    let feature = format!("llvm-{llvm}");
    record["installs"].as_object().into_iter().flatten().any(|(name, install)| {
        name.starts_with(&format!("bpf-linker {VERSION} "))
            && install["features"].as_array().into_iter().flatten().any(|f| *f == feature.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::{VERSION, is_recorded};

    #[test]
    fn cargo_record_must_name_version_and_llvm() {
        let record = |version: &str, feature: &str| {
            format!(
                r#"{{"installs":{{"bpf-linker {version} (registry+x)":{{"features":["{feature}"]}}}}}}"#
            )
        };
        assert!(is_recorded(&record(VERSION, "llvm-22"), 22));
        assert!(!is_recorded(&record(VERSION, "llvm-21"), 22));
        assert!(!is_recorded(&record("0.12.0", "llvm-22"), 22));
        assert!(!is_recorded("", 22));
        assert!(!is_recorded("not json", 22));
    }
}
