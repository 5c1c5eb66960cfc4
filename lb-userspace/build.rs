//! Compiles the eBPF programs (`lb-ebpf`) for the kernel and leaves their ELFs in `$OUT_DIR`, where the binary embeds
//! them: `holdfast`, the balancer's, `probe-path`, which its probes take, and `decap`. What the benchmarks need in the
//! kernel is compiled beside them and stays in `target/ebpf`.
//!
//! Compiler and linker are those that `cargo xtask setup` found or installed; this script installs nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// The programs that are embedded, by the names of `lb-ebpf`'s binaries.
const PROGRAMS: [&str; 3] = ["holdfast", "decap", "probe-path"];

/// What `cargo xtask setup` wrote down.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    linker: PathBuf,
}

/// Why there is no object.
enum Failure {
    /// Nothing was run: one sentence says it all.
    NotReady(String),
    /// A program ran, and what it printed matters.
    Failed(String),
}

fn main() {
    match build() {
        Ok(()) => {}
        // Cargo fails the build for the message alone; an exit code would make it add a page of its own.
        Err(Failure::NotReady(message)) => println!("cargo::error={message}"),
        Err(Failure::Failed(message)) => {
            println!("cargo::error={message}");
            exit(1);
        }
    }
}

fn build() -> Result<(), Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for path in ["lb-ebpf", "lb-common", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let record = root.join("target/tools/ebpf-toolchain.json");
    println!("cargo::rerun-if-changed={}", record.display());
    let toolchain = read_toolchain(&record).map_err(Failure::NotReady)?;
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());

    build_objects(&root, &toolchain).map_err(Failure::Failed)
}

fn build_objects(root: &Path, toolchain: &Toolchain) -> Result<(), String> {
    let target_dir = root.join("target/ebpf");
    let triple = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    compile(root, toolchain, triple, &target_dir)?;

    let objects = target_dir.join(triple).join("release");
    let embedded = PathBuf::from(variable("OUT_DIR")?);
    for program in PROGRAMS {
        let (from, to) = (objects.join(program), embedded.join(program));
        fs::copy(&from, &to)
            .map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

fn read_toolchain(record: &Path) -> Result<Toolchain, String> {
    const REMEDY: &str = "run `cargo xtask setup` once, it installs what is missing";
    let text = fs::read_to_string(record)
        .map_err(|_| format!("the eBPF toolchain (bpf-linker) is not set up: {REMEDY}"))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|_| format!("{} is not readable: {REMEDY}", record.display()))?;
    let tool = |key: &str, name: &str| {
        let path = PathBuf::from(json[key].as_str().unwrap_or_default());
        let missing = || format!("{name}, which the XDP program needs, is missing: {REMEDY}");
        path.is_file().then_some(path).ok_or_else(missing)
    };
    Ok(Toolchain {
        rustc: tool("rustc", "a rustc")?,
        cargo: tool("cargo", "a cargo")?,
        linker: tool("linker", "bpf-linker")?,
    })
}

fn compile(root: &Path, tools: &Toolchain, triple: &str, target_dir: &Path) -> Result<(), String> {
    let mut cargo = Command::new(&tools.cargo);
    // The outer cargo's settings (target directory, wrapper, flags, toolchain) are for the host.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = matches!(&*text, "CARGO_HOME" | "RUSTUP_HOME");
        let foreign = text.starts_with("CARGO") || text.starts_with("RUST");
        if (foreign && !kept) || matches!(&*text, "MAKEFLAGS" | "MFLAGS") {
            cargo.env_remove(&name);
        }
    }
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit instructions, which every kernel since 5.1 has.
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Clinker={}", tools.linker.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
    ];
    cargo
        .current_dir(root)
        .env("RUSTC", &tools.rustc)
        // Building `core` for a target without a prebuilt one is the only unstable feature used.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // All of them: benchmarks take theirs, which are not embedded, from the target directory.
        .args(["build", "--package", "lb-ebpf", "--release", "--locked", "--bins"])
        .args(["-Zbuild-std=core", "--target", triple, "--target-dir"])
        .arg(target_dir);
    let status =
        cargo.status().map_err(|e| format!("{} does not run: {e}", tools.cargo.display()))?;
    if status.success() {
        return Ok(());
    }
    Err("the XDP programs (lb-ebpf) did not compile; the compiler's messages are below".to_owned())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: run this through cargo"))
}
