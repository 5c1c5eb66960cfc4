//! `cargo xtask kernels`: the eBPF programs and their packet fixtures on other kernels than the one that runs.
//!
//! Each kernel is a Debian package, booted in an emulated machine whose file system is the test program and little
//! else. Everything is kept under `target/kernels`; only the emulator is installed.

mod archive;
mod boot;
mod fixtures;
mod initramfs;
mod version;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::{
    Output, product,
    setup::{self, apt},
    shell,
};
use archive::Archive;
use boot::{Machine, Told};
use version::{Version, newest};

/// Enough to meet every branch; emulation takes some ten times as long for one as the machine itself.
const PACKETS: u32 = 50_000;
const PACKETS_VARIABLE: &str = "HOLDFAST_PACKETS";
/// The oldest kernel that Holdfast supports.
const OLDEST: &str = "6.1";

#[derive(Args)]
pub(crate) struct Options {
    /// Versions (6.1, 6.12, …; the newest of each that Debian 12 and its backports have) or .deb files of kernels
    /// [default: 6.1 and the newest]
    #[arg(value_name = "VERSION|DEB")]
    kernels: Vec<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Seconds a kernel may take, from its start to its result
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    timeout: u64,
}

/// How a kernel did.
#[derive(Serialize)]
struct Row {
    kernel: String,
    passed: bool,
    tests_passed: u32,
    tests_failed: u32,
    verified_instructions: Option<u32>,
    /// Of the programs that lead probes.
    probes_instructions: Option<u32>,
    time_s: f64,
    log: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("this needs an x86-64 machine: the kernels are built for that, and so is the test");
    }
    let packets = packets()?;
    let directory = product::target_dir().join("kernels");
    let archive = Archive::open(&directory)?;
    let kernels = choose(&archive, &options.kernels)?;
    setup::run(false)?;
    install_emulator()?;
    let test = fixtures::build(&directory.join("build"))?;
    let busybox = archive.package("busybox-static")?.join("bin/busybox");
    let common = initramfs::build(&busybox, &test)?;
    let initramfs = directory.join("initramfs");

    let limit = Duration::from_secs(options.timeout);
    let rows = kernels
        .iter()
        .map(|kernel| {
            // Its image is in `boot` of its package.
            let package = kernel.ancestors().nth(2).unwrap_or(kernel);
            fs::write(&initramfs, [common.clone(), initramfs::modules(package)?].concat())
                .with_context(|| format!("cannot write {}", initramfs.display()))?;
            test_on(kernel, &initramfs, packets, limit, &directory)
        })
        .collect::<Result<Vec<_>>>()?;
    report(&rows, packets, options.output)?;
    let failed = rows.iter().filter(|row| !row.passed).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", rows.len());
    }
    Ok(())
}

/// Random packets in the run; the fixtures come in addition.
fn packets() -> Result<u32> {
    match env::var(PACKETS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| {
            format!("{PACKETS_VARIABLE} is the number of random packets, and {text:?} is none")
        }),
        Err(_) => Ok(PACKETS),
    }
}

/// The kernels' images, in the order asked for.
fn choose(archive: &Archive, asked: &[String]) -> Result<Vec<PathBuf>> {
    let packages = archive.kernels()?;
    let oldest_and_newest = [Some(OLDEST), None];
    let asked: Vec<Option<&str>> = match asked {
        [] => oldest_and_newest.to_vec(),
        asked => asked.iter().map(|kernel| Some(kernel.as_str())).collect(),
    };
    let mut images = Vec::new();
    for kernel in asked {
        let unpacked = match kernel {
            Some(file) if file.ends_with(".deb") => archive.unpack(Path::new(file))?,
            version => archive.package(package_of(&packages, version)?)?,
        };
        let image = boot::image(&unpacked)?;
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(images)
}

/// `None` is the newest there is.
fn package_of<'a>(packages: &'a [String], asked: Option<&str>) -> Result<&'a str> {
    let version = asked
        .map(|text| {
            Version::parse(text).with_context(|| {
                format!("{text:?} is neither a kernel version like 6.1 nor a .deb file")
            })
        })
        .transpose()?;
    newest(packages, version.as_ref()).with_context(|| {
        let there_are = packages.join(", ");
        format!("there is no kernel {}; there are {there_are}", asked.unwrap_or_default())
    })
}

fn install_emulator() -> Result<()> {
    if shell::find_program("qemu-system-x86_64").is_none() {
        apt::install(&["qemu-system-x86"], "other kernels are tried in an emulated machine")?;
    }
    Ok(())
}

fn test_on(
    kernel: &Path,
    initramfs: &Path,
    packets: u32,
    limit: Duration,
    directory: &Path,
) -> Result<Row> {
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches("vmlinuz-").to_owned();
    eprintln!("==> booting {name}");
    let log = directory.join(format!("{name}.log"));
    let mut environment = vec![format!("{PACKETS_VARIABLE}={packets}")];
    if let Ok(seed) = env::var("HOLDFAST_TEST_SEED") {
        environment.push(format!("HOLDFAST_TEST_SEED={seed}"));
    }
    let machine = Machine { kernel, initramfs, environment: &environment, log: &log, limit };
    let start = Instant::now();
    let told = machine.run();
    let row = Row::of(name, &told, start.elapsed(), log.clone());
    if !row.passed {
        eprintln!("{}", machine.tail(60));
        if let Err(why) = told {
            eprintln!("error: {}: {why:#}", row.kernel);
        }
        eprintln!("    all of it: {}", log.display());
    }
    Ok(row)
}

impl Row {
    /// Passed is a number of tests that all passed and a program that loaded: none of them may be missing.
    fn of(kernel: String, told: &Result<Told>, time: Duration, log: PathBuf) -> Self {
        let told = told.as_ref().ok();
        let tests_passed = told.and_then(|told| told.tests_passed).unwrap_or(0);
        let tests_failed = told.and_then(|told| told.tests_failed).unwrap_or(0);
        let verified_instructions = told.and_then(|told| told.verified_instructions);
        let probes_instructions = told.and_then(|told| told.probes_instructions);
        let passed = told.is_some_and(|told| told.exit == 0)
            && tests_passed > 0
            && tests_failed == 0
            && verified_instructions.is_some()
            && probes_instructions.is_some();
        let kernel = told.map_or(kernel, |told| told.kernel.clone());
        let time_s = time.as_secs_f64();
        Self {
            kernel,
            passed,
            tests_passed,
            tests_failed,
            verified_instructions,
            probes_instructions,
            time_s,
            log,
        }
    }
}

fn report(rows: &[Row], packets: u32, output: Output) -> Result<()> {
    if matches!(output, Output::Json) {
        let passed = rows.iter().all(|row| row.passed);
        let report = json!({ "passed": passed, "random_packets": packets, "kernels": rows });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!(
        "\n{:<32}  {:<6}  {:>7}  {:>21}  {:>8}  {:>7}",
        "KERNEL", "RESULT", "TESTS", "VERIFIED INSTRUCTIONS", "(PROBES)", "TIME"
    );
    for row in rows {
        println!(
            "{:<32}  {:<6}  {:>7}  {:>21}  {:>8}  {:>5.0} s",
            row.kernel,
            if row.passed { "ok" } else { "FAILED" },
            format!("{}/{}", row.tests_passed, row.tests_passed + row.tests_failed),
            or_dash(row.verified_instructions),
            or_dash(row.probes_instructions),
            row.time_s
        );
    }
    println!(
        "\n{packets} random packets on each, beside the fixtures; {PACKETS_VARIABLE} changes that."
    );
    Ok(())
}

fn or_dash(count: Option<u32>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{Row, Told};

    #[test]
    fn only_a_whole_result_passes() {
        let told = |exit, tests_passed, tests_failed, verified_instructions| {
            Ok(Told {
                kernel: "6.1".into(),
                exit,
                tests_passed,
                tests_failed,
                verified_instructions,
                probes_instructions: verified_instructions,
            })
        };
        for (told, passed) in [
            (told(0, Some(21), Some(0), Some(113_227)), true),
            (told(101, Some(20), Some(1), Some(113_227)), false),
            (told(0, Some(21), Some(0), None), false),
            (told(0, Some(0), Some(0), Some(113_227)), false),
            (told(0, None, None, None), false),
            (Err(anyhow!("no result")), false),
        ] {
            let row = Row::of("6.1".into(), &told, Duration::ZERO, "log".into());
            assert_eq!(row.passed, passed, "{told:?}");
        }
    }
}
