//! What builds the XDP program, and what the lab runs.

use super::Finding;
use crate::{
    setup::{self, LAB_PROGRAMS, compiler, linker, llvm},
    shell::find_program,
};

const AREA: &str = "toolchain";
const LAB: &str = "lab";
const SETUP: &str = "cargo xtask setup";

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![active_compiler()];
    match setup::recorded(&setup::record_path()) {
        None => findings.push(Finding::fail(AREA, "set-up", "was not run yet", SETUP)),
        Some(toolchain) => {
            findings.push(file("ebpf rustc", &toolchain.rustc));
            findings.push(match llvm::find(toolchain.llvm) {
                Some(path) => Finding::ok(AREA, "llvm", path.display().to_string()),
                None => Finding::warn(
                    AREA,
                    "llvm",
                    format!("no development files of LLVM {}", toolchain.llvm),
                    "only needed to build bpf-linker again: cargo xtask setup",
                ),
            });
            findings.push(if linker::installed(toolchain.llvm) {
                let detail = format!("{} for LLVM {}", linker::VERSION, toolchain.llvm);
                Finding::ok(AREA, "bpf-linker", detail)
            } else {
                let detail = format!("no working {} for LLVM {}", linker::VERSION, toolchain.llvm);
                Finding::fail(AREA, "bpf-linker", detail, SETUP)
            });
        }
    }
    findings.extend(LAB_PROGRAMS.iter().map(|(program, package, what)| {
        match find_program(program) {
            Some(path) => Finding::ok(LAB, program, path.display().to_string()),
            None => Finding::warn(
                LAB,
                program,
                format!("missing: {what}"),
                &format!("cargo xtask setup --lab (installs {package})"),
            ),
        }
    }));
    findings
}

fn active_compiler() -> Finding {
    match compiler::peek_active() {
        Ok(found) if found.source.is_some() => {
            Finding::ok(AREA, "rustc", format!("{found}, with the source of core"))
        }
        Ok(found) => Finding::warn(
            AREA,
            "rustc",
            format!("{found}, without the source of core"),
            "rustup component add rust-src; else set-up takes the distribution's compiler",
        ),
        Err(why) => {
            Finding::fail(AREA, "rustc", format!("{why:#}"), "install Rust from https://rustup.rs")
        }
    }
}

fn file(item: &str, path: &std::path::Path) -> Finding {
    let detail = path.display().to_string();
    if path.is_file() {
        Finding::ok(AREA, item, detail)
    } else {
        Finding::fail(AREA, item, format!("{detail} is gone"), SETUP)
    }
}
